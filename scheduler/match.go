package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"lighter/internal/quantity"
)

// excludes applies the rules that do not depend on the hour: what the machine is for,
// and where the build shall not go. It returns the first that excludes the machine, or
// nothing. Features and skip are of the build.
func (m *Machine) excludes(system string, features, skip []string) Rule {
	if !slices.Contains(m.Systems, system) {
		return RuleSystem
	}
	for _, f := range features {
		if !slices.Contains(m.Features, f) && !slices.Contains(m.MandatoryFeatures, f) {
			return RuleFeatures
		}
	}
	for _, f := range m.MandatoryFeatures {
		if !slices.Contains(features, f) {
			return RuleMandatory
		}
	}
	if slices.Contains(skip, m.Name) {
		return RuleSkip
	}
	return ""
}

// bars applies excludes to a build, and looks whether the machine has what it needs at all.
func (m *Machine) bars(b *Build) Rule {
	if rule := m.excludes(b.System, b.Features, b.Skip); rule != "" {
		return rule
	}
	return m.tooSmall(b)
}

// tooSmall names what the machine has not enough of for a build even if it builds nothing else.
func (m *Machine) tooSmall(b *Build) Rule {
	if m.Memory > 0 && b.Memory > m.Memory {
		return RuleMemory
	}
	for name, n := range b.Tokens {
		if n > m.Tokens[name] {
			return RuleTokens
		}
	}
	return ""
}

// lacking names what the builds that run leave too little of for another one.
func (m *Machine) lacking(b *Build) Rule {
	if m.Memory > 0 && b.Memory > 0 && b.Memory > m.Memory-m.usedMemory() {
		return RuleMemory
	}
	for name, n := range b.Tokens {
		if n > m.Tokens[name]-m.usedTokens(name) {
			return RuleTokens
		}
	}
	return ""
}

func (m *Machine) usedMemory() (sum int64) {
	for i := range m.Busy {
		if b := m.Busy[i].Build; b != nil {
			sum += b.Memory
		}
	}
	return sum
}

func (m *Machine) usedTokens(name string) (sum int) {
	for i := range m.Busy {
		if b := m.Busy[i].Build; b != nil {
			sum += b.Tokens[name]
		}
	}
	return sum
}

// occupied applies the rules about what the machine does now, to a build or, with nil, to any that
// needs no memory or tokens; missing is how many bytes it lacks there. started counts the builds
// that this round has placed there already.
func (m *Machine) occupied(b *Build, missing int64, started int) Rule {
	switch {
	case m.Unavailable != "":
		return RuleAvailable
	case m.Refuses != "":
		return RuleAdmission
	case m.overloaded(started):
		return RuleLoad
	case m.diskFull(missing):
		return RuleDisk
	case len(m.Busy)+started >= m.Slots:
		return RuleSlots
	case b != nil:
		return m.lacking(b)
	}
	return ""
}

// words says for people what a rule asks for and what there is. It is apart from the
// rules because a round applies those often, and this is slow.
func (m *Machine) words(rule Rule, b *Build, missing int64) (wanted, actual string) {
	switch rule {
	case RuleSystem:
		return b.System, list(m.Systems)
	case RuleFeatures:
		return list(b.Features), list(slices.Concat(m.Features, m.MandatoryFeatures))
	case RuleMandatory:
		return "a build that requires " + list(m.MandatoryFeatures), "requires " + list(b.Features)
	case RuleSkip:
		return "another machine", "the build is not to use this one again"
	case RuleAvailable:
		return "a machine that is up", m.Unavailable
	case RuleAdmission:
		return "a machine with room for it", m.Refuses
	case RuleLoad:
		actual = fmt.Sprintf("load %.2f per core", m.othersLoad())
		switch {
		case m.OwnKnown:
			actual += fmt.Sprintf(" besides %.2f of its own builds", m.Load-m.othersLoad())
		case m.JustStarted > 0 && m.Cores > 0:
			actual += fmt.Sprintf(", and %d just started on %d cores", m.JustStarted, m.Cores)
		}
		return fmt.Sprintf("load below %.2f per core", m.OverloadThreshold), actual
	case RuleDisk:
		actual = quantity.Bytes(m.FreeDisk) + " free"
		if missing+m.Pending > 0 {
			actual += fmt.Sprintf(", and %s on the way or to be sent", quantity.Bytes(missing+m.Pending))
		}
		return quantity.Bytes(m.MinFreeDisk) + " left free", actual
	case RuleMemory:
		wanted = quantity.Bytes(b.Memory)
		if b.Memory > m.Memory {
			return wanted, quantity.Bytes(m.Memory) + " in all"
		}
		return wanted, fmt.Sprintf("%s of %s left", quantity.Bytes(max(0, m.Memory-m.usedMemory())), quantity.Bytes(m.Memory))
	case RuleTokens:
		var wants, got []string
		for _, name := range slices.Sorted(maps.Keys(b.Tokens)) {
			wants = append(wants, fmt.Sprintf("%d %s", b.Tokens[name], name))
			got = append(got, fmt.Sprintf("%d of %d %s left", max(0, m.Tokens[name]-m.usedTokens(name)), m.Tokens[name], name))
		}
		return list(wants), list(got)
	case RuleSlots:
		if m.Host != "" {
			return "a free slot", fmt.Sprintf("%d of %d taken by all machines that are this host", len(m.Busy), m.Slots)
		}
		return "a free slot", fmt.Sprintf("%d of %d taken", len(m.Busy), m.Slots)
	}
	return "", ""
}

// overloaded looks at the load that others make. Where that is not known, each build that the load
// average does not show yet counts as one busy core.
func (m *Machine) overloaded(started int) bool {
	load := m.othersLoad()
	if m.Cores > 0 && !m.OwnKnown {
		load += float64(m.JustStarted+started) / float64(m.Cores)
	}
	return m.OverloadThreshold > 0 && load >= m.OverloadThreshold
}

// othersLoad returns the load per core without that of our builds, as far as that is known.
func (m *Machine) othersLoad() float64 {
	if !m.OwnKnown {
		return m.Load
	}
	return max(0, m.Load-m.OwnLoad)
}

func (m *Machine) diskFull(missing int64) bool {
	return m.FreeDisk >= 0 && m.FreeDisk-m.Pending-missing < m.MinFreeDisk
}

func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}
