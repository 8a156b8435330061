package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// Explain says of each machine, in the given order, whether it can take the build
// now, and if not, the first rule that excludes it. The build need not be in a
// queue; missing may be nil.
func Explain(b *Build, machines []Machine, missing func(b *Build, machine string) Lack) []Verdict {
	verdicts := make([]Verdict, len(machines))
	for i := range machines {
		m := &machines[i]
		v := Verdict{Machine: m.Name, Rule: m.excludes(b.System, b.Features, b.Skip)}
		var lacks int64
		if v.Rule == "" {
			if missing != nil {
				lacks = missing(b, m.Name).Bytes
			}
			if v.Rule = m.occupied(lacks, 0); v.Rule == "" || v.Rule == RuleSlots {
				c := newCandidate(m)
				v.Finish = duration(c.wait() + c.transfer(lacks) + c.build(b))
			}
		}
		v.Wanted, v.Actual = m.words(v.Rule, b, lacks)
		verdicts[i] = v
	}
	return verdicts
}

// Possible reports whether a machine of the list could take the build if it were idle
// and up. It is what Explain would find, at a fraction of the cost where one can.
func Possible(b *Build, machines []Machine) bool {
	for i := range machines {
		if m := &machines[i]; m.Slots > 0 && m.excludes(b.System, b.Features, b.Skip) == "" {
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

// permanent says of the rules whether waiting can help.
func (r Rule) permanent() bool {
	return r == RuleSystem || r == RuleFeatures || r == RuleMandatory || r == RuleSkip
}

// blocked says why no machine can take the builds of a class now, or returns nil
// if one can.
func blocked(c *class, machines []*Machine) *Blocked {
	if slices.ContainsFunc(machines, func(m *Machine) bool { return c.obstacle(m) == "" }) {
		return nil
	}
	b := &Blocked{System: c.system, Features: c.features, Skip: c.skip, Builds: len(c.heap.items), Never: true, Absent: true}
	excluded := make(map[Rule]int)
	var busy []string
	const shown = 5
	more := 0
	for _, m := range machines {
		rule := c.obstacle(m)
		if !rule.permanent() && rule != RuleAvailable {
			b.Absent = false
		}
		switch {
		case rule.permanent():
			excluded[rule]++
		case len(busy) == shown:
			more++
		default:
			b.Never = false
			_, actual := m.words(rule, nil, 0)
			busy = append(busy, m.Name+": "+actual)
		}
	}
	if more > 0 {
		busy = append(busy, fmt.Sprintf("and %d more", more))
	}
	b.Reason = strings.Join(busy, "; ")
	if b.Never {
		b.Reason = c.neverReason(excluded, len(machines))
	}
	return b
}

// obstacle returns the first rule that keeps builds of the class from a machine now.
func (c *class) obstacle(m *Machine) Rule {
	if rule := m.excludes(c.system, c.features, c.skip); rule != "" {
		return rule
	}
	return m.occupied(0, 0)
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
