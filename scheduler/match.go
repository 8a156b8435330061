package scheduler

import (
	"fmt"
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

// occupied applies the rules about what the machine does now; missing is how many
// bytes the build lacks there. started counts the builds that this round has
// placed there already.
func (m *Machine) occupied(missing int64, started int) Rule {
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
		actual = fmt.Sprintf("load %.2f per core", m.Load)
		if m.JustStarted > 0 && m.Cores > 0 {
			actual += fmt.Sprintf(", and %d just started on %d cores", m.JustStarted, m.Cores)
		}
		return fmt.Sprintf("load below %.2f per core", m.OverloadThreshold), actual
	case RuleDisk:
		actual = quantity.Bytes(m.FreeDisk) + " free"
		if missing+m.Pending > 0 {
			actual += fmt.Sprintf(", and %s on the way or to be sent", quantity.Bytes(missing+m.Pending))
		}
		return quantity.Bytes(m.MinFreeDisk) + " left free", actual
	case RuleSlots:
		if m.Host != "" {
			return "a free slot", fmt.Sprintf("%d of %d taken by all machines that are this host", len(m.Busy), m.Slots)
		}
		return "a free slot", fmt.Sprintf("%d of %d taken", len(m.Busy), m.Slots)
	}
	return "", ""
}

// overloaded counts each build that the load average does not show yet as one
// busy core.
func (m *Machine) overloaded(started int) bool {
	load := m.Load
	if m.Cores > 0 {
		load += float64(m.JustStarted+started) / float64(m.Cores)
	}
	return m.OverloadThreshold > 0 && load >= m.OverloadThreshold
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
