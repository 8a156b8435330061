package scheduler

import "fmt"

// Explain says of each machine, in the given order, whether it can take the build
// now, and if not, the first rule that excludes it. The build need not be in a
// queue; missing may be nil.
func Explain(b *Build, machines []Machine, missing func(b *Build, machine string) Lack) []Verdict {
	verdicts := make([]Verdict, len(machines))
	for i := range machines {
		m := &machines[i]
		v := Verdict{Machine: m.Name, Rule: m.bars(b)}
		var lack Lack
		if v.Rule == "" {
			if missing != nil {
				lack = missing(b, m.Name)
			}
			switch v.Rule = m.occupied(b, lack.Bytes, 0); v.Rule {
			case "", RuleSlots, RuleMemory, RuleTokens:
				c := newCandidate(m)
				took := c.transfer(lack) + c.build(b)
				v.Finish = duration(c.begin(b, took) + took + c.home(b))
			}
		}
		v.Wanted, v.Actual = m.words(v.Rule, b, lack.Bytes)
		verdicts[i] = v
	}
	return verdicts
}

// Possible reports whether a machine of the list could take the build if it were idle
// and up. It is what Explain would find, at a fraction of the cost where one can.
func Possible(b *Build, machines []Machine) bool {
	for i := range machines {
		if m := &machines[i]; m.Slots > 0 && m.bars(b) == "" {
			return true
		}
	}
	return false
}

// String says it in a line.
func (v *Verdict) String() string {
	if v.OK() {
		return fmt.Sprintf("%s: can take it now", v.Machine)
	}
	return fmt.Sprintf("%s: %s: wanted %s, got %s", v.Machine, v.Rule, v.Wanted, v.Actual)
}
