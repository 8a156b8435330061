package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// mismatch applies the rules that do not depend on the hour: what the machine is
// for, and where the build shall not go. Features and skip are of the build.
func mismatch(m *Machine, system string, features, skip []string) (rule Rule, wanted, actual string) {
	if !slices.Contains(m.Systems, system) {
		return RuleSystem, system, list(m.Systems)
	}
	for _, f := range features {
		if !slices.Contains(m.Features, f) && !slices.Contains(m.MandatoryFeatures, f) {
			return RuleFeatures, list(features), list(slices.Concat(m.Features, m.MandatoryFeatures))
		}
	}
	for _, f := range m.MandatoryFeatures {
		if !slices.Contains(features, f) {
			return RuleMandatory, "a build that requires " + list(m.MandatoryFeatures), "requires " + list(features)
		}
	}
	if slices.Contains(skip, m.Name) {
		return RuleSkip, "another machine", "the build is not to use this one again"
	}
	return "", "", ""
}

// busy applies the rules about what the machine does now; missing is how many
// bytes the build lacks there. started counts the builds that this round has
// placed there already.
func (m *Machine) busy(missing int64, started int) (rule Rule, wanted, actual string) {
	switch {
	case m.Unavailable != "":
		return RuleAvailable, "a machine that is up", m.Unavailable
	case m.Refuses != "":
		return RuleAdmission, "a machine with room for it", m.Refuses
	case m.overloaded(started):
		actual := fmt.Sprintf("load %.2f per core", m.Load)
		if n := m.JustStarted + started; n > 0 && m.Cores > 0 {
			actual += fmt.Sprintf(", and %d just started on %d cores", n, m.Cores)
		}
		return RuleLoad, fmt.Sprintf("load below %.2f per core", m.OverloadThreshold), actual
	case m.diskFull(missing):
		actual := bytes(m.FreeDisk) + " free"
		if missing+m.Pending > 0 {
			actual += fmt.Sprintf(", and %s on the way or to be sent", bytes(missing+m.Pending))
		}
		return RuleDisk, bytes(m.MinFreeDisk) + " left free", actual
	case len(m.Busy)+started >= m.Slots:
		return RuleSlots, "a free slot", fmt.Sprintf("%d of %d taken", len(m.Busy)+started, m.Slots)
	}
	return "", "", ""
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

// bytes prints a size for people.
func bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	size, prefix := float64(n)/unit, 0
	for size >= unit && prefix < len("KMGTP")-1 {
		size /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", size, "KMGTP"[prefix])
}
