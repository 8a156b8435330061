package display

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// maxDiffering bounds how many differing files are listed for one machine.
const maxDiffering = 50

// comparisonVerdict says whether the machines of a check made the same of a derivation. Fewer
// than two results say nothing.
func comparisonVerdict(b *api.Build) string {
	made, head := madeIt(b)
	count := human.Count(made, "machine")
	switch differs := Differs(b); {
	case differs && head:
		return fmt.Sprintf("what the head has and what %s made differ", count)
	case differs:
		return count + " differ"
	case head && made == 0:
		return "only the head has it, so there is nothing to compare"
	case head:
		return count + " made what the head has"
	case made < 2:
		return fmt.Sprintf("built by %s, so there is nothing to compare", count)
	}
	return count + " made the same"
}

// Differs reports whether two machines made different outputs of the same name.
func Differs(b *api.Build) bool {
	first := make(map[string]string)
	for i := range b.Results {
		r := &b.Results[i]
		if r.Failure != nil {
			continue
		}
		if len(r.Differs) > 0 {
			return true
		}
		for output, hash := range r.Hashes {
			if other, ok := first[output]; ok && other != hash {
				return true
			}
			first[output] = hash
		}
	}
	return false
}

// madeIt counts the machines that built it, and says whether the head had it before.
func madeIt(b *api.Build) (n int, head bool) {
	for i := range b.Results {
		switch r := &b.Results[i]; {
		case r.Machine == api.TheHead:
			head = true
		case r.Failure == nil:
			n++
		}
	}
	return n, head
}

// ComparisonLines says what each machine of a check made of a build, ready to print.
func ComparisonLines(b *api.Build) []string {
	lines := []string{fmt.Sprintf("check     %s: %s", human.Printable(Name(b)), comparisonVerdict(b))}
	add := func(format string, args ...any) {
		lines = append(lines, "  "+human.Printable(fmt.Sprintf(format, args...)))
	}
	for i := range b.Results {
		r := &b.Results[i]
		if r.Failure != nil {
			kept := ""
			if r.Failure.KeptIn != "" {
				kept = ", kept in " + r.Failure.KeptIn
			}
			add("%s: failed: %s%s", r.Machine, strings.TrimSpace(r.Failure.Message), kept)
			if r.LogID != "" {
				add("%s: log: lighter builds log --machine %s %s", r.Machine, r.Machine, b.ID)
			}
			continue
		}
		took := ""
		if r.BuildTime > 0 {
			took = " in " + quantity.Duration(r.BuildTime.Duration())
		}
		for _, output := range slices.Sorted(maps.Keys(r.Hashes)) {
			add("%s: %s is sha256:%s%s", r.Machine, output, strings.TrimPrefix(r.Hashes[output], "sha256:"), took)
		}
		for _, output := range slices.Sorted(maps.Keys(b.Results[0].Hashes)) {
			if r.Hashes[output] == "" {
				add("%s: %s: it does not say what it made", r.Machine, output)
			}
		}
		for _, file := range r.Differs[:min(len(r.Differs), maxDiffering)] {
			add("%s: differs: %s", r.Machine, file)
		}
		if more := len(r.Differs) - maxDiffering; more > 0 {
			add("%s: and %s more files differ", r.Machine, human.Number(more))
		}
	}
	return lines
}
