package display

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/store"
)

// maxFailures bounds how many failures are listed at the end.
const maxFailures = 20

// NeededBy counts the builds that were not made because of one that failed.
func NeededBy(dependents int) string {
	verb := "need"
	if dependents == 1 {
		verb = "needs"
	}
	return fmt.Sprintf("+ %s that %s it", human.Number(dependents), verb)
}

// Failures returns lines that say which builds failed themselves, the first one first: why, how to
// read their logs, and how many builds were not made because of each. Nothing is said if the only
// one is the build that was just shown.
func (m *Model) Failures(shown string, style Style) []string {
	var failed []*api.Build
	ours := make(map[store.Path]bool) // what failed of our builds
	for _, e := range m.builds {
		if e.State.FailedItself() {
			failed = append(failed, &e.Build)
			ours[e.Derivation] = true
		}
	}
	others := make(map[store.Path]int) // what failed for somebody else, and how many of ours need it
	since := time.Time{}
	for _, e := range m.builds {
		if f := e.Failure; e.State == api.DependencyFailed && f != nil && !ours[f.Input] {
			others[f.Input]++
		}
		if since.IsZero() || e.Submitted.Before(since) {
			since = e.Submitted
		}
	}
	if len(failed) == 1 && failed[0].ID == shown && len(others) == 0 {
		return nil
	}
	slices.SortFunc(failed, func(a, b *api.Build) int {
		return cmp.Or(stopped(a).Compare(stopped(b)), cmp.Compare(a.ID, b.ID))
	})
	var lines []string
	for _, b := range failed[:min(len(failed), maxFailures)] {
		text := "lighter builds log " + ShortID(b.ID)
		if b.LogSize == 0 {
			text = "lighter builds show " + ShortID(b.ID)
		}
		if b.Dependents > 0 {
			text += "  " + NeededBy(b.Dependents)
		}
		lines = append(lines, Outcome(b, style), "          "+human.Printable(text))
	}
	if more := len(failed) - maxFailures; more > 0 {
		lines = append(lines, fmt.Sprintf("and %s more: lighter builds list --limit 0 --state failed,timed-out --since '%s'",
			human.Number(more), since.Local().Format("2006-01-02 15:04")))
	}
	inputs := slices.Sorted(maps.Keys(others))
	for _, input := range inputs[:min(len(inputs), maxFailures)] {
		lines = append(lines, verdict(style, Red, "failed")+human.Printable(api.DerivationName(input))+", which was not asked for here",
			fmt.Sprintf("          lighter builds list --derivation %s  %s", human.Printable(string(input)), NeededBy(others[input])))
	}
	return lines
}

func stopped(b *api.Build) time.Time {
	if b.Stopped != nil {
		return *b.Stopped
	}
	return b.Submitted
}
