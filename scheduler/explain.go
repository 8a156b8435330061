package scheduler

import (
	"fmt"
	"strings"
)

// Explain says of each machine, in the given order, whether it can take the build
// now, and if not, the first rule that excludes it. The build need not be in a
// queue; missing may be nil.
func Explain(b *Build, machines []Machine, missing func(b *Build, machine string) int64) []Verdict {
	verdicts := make([]Verdict, len(machines))
	for i := range machines {
		m := &machines[i]
		v := Verdict{Machine: m.Name}
		v.Rule, v.Wanted, v.Actual = mismatch(m, b.System, b.Features, b.Skip)
		if v.Rule == "" {
			var lacks int64
			if missing != nil {
				lacks = missing(b, m.Name)
			}
			v.Rule, v.Wanted, v.Actual = m.busy(lacks, 0)
			if v.Rule == "" || v.Rule == RuleSlots {
				c := newCandidate(m)
				v.Finish = duration(c.wait() + c.transfer(lacks) + c.build(b))
			}
		}
		verdicts[i] = v
	}
	return verdicts
}

// String says it in a line.
func (v *Verdict) String() string {
	if v.OK() {
		return fmt.Sprintf("%s: can take it now", v.Machine)
	}
	return fmt.Sprintf("%s: %s: wanted %s, got %s", v.Machine, v.Rule, v.Wanted, v.Actual)
}

// permanent says of the rules whether waiting can help.
func (r Rule) permanent() bool {
	return r == RuleSystem || r == RuleFeatures || r == RuleMandatory || r == RuleSkip
}

// blocked says why no machine can take the builds of a class now, or returns nil
// if one can.
func blocked(c *class, machines []*Machine) *Blocked {
	b := &Blocked{System: c.system, Features: c.features, Skip: c.skip, Builds: len(c.heap.items), Never: true}
	excluded := make(map[Rule]int)
	var busy []string
	for _, m := range machines {
		rule, _, actual := mismatch(m, c.system, c.features, c.skip)
		if rule == "" {
			rule, _, actual = m.busy(0, 0)
		}
		switch {
		case rule == "":
			return nil
		case rule.permanent():
			excluded[rule]++
		default:
			b.Never = false
			busy = append(busy, m.Name+": "+actual)
		}
	}
	const shown = 5
	if n := len(busy) - shown; n > 0 {
		busy = append(busy[:shown], fmt.Sprintf("and %d more", n))
	}
	b.Reason = strings.Join(busy, "; ")
	if b.Never {
		b.Reason = c.neverReason(excluded, len(machines))
	}
	return b
}

// neverReason names the rule that the machines which come closest fail.
func (c *class) neverReason(excluded map[Rule]int, machines int) string {
	switch {
	case machines == 0:
		return "there is no machine"
	case excluded[RuleSkip] > 0:
		return "none is left of the machines that could take it: it is not to use " + list(c.skip) + " again"
	case excluded[RuleMandatory] > 0:
		return fmt.Sprintf("every machine for %s that could take it is reserved for builds that require other features", c.system)
	case excluded[RuleFeatures] > 0:
		return fmt.Sprintf("no machine for %s offers %s", c.system, list(c.features))
	}
	return "no machine builds for " + c.system
}
