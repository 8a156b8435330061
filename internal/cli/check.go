package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/cli/human"
)

// maxDiffering bounds how many differing files are listed for one machine.
const maxDiffering = 50

// checkVerdict says whether the machines of a check made the same of a derivation. Fewer
// than two results say nothing.
func checkVerdict(b *api.Build) (text string, differs bool) {
	made := madeIt(b)
	switch {
	case checkDiffers(b):
		return fmt.Sprintf("%s differ", human.Count(made, "machine")), true
	case made < 2:
		return fmt.Sprintf("built by %s, so that there is nothing to compare", human.Count(made, "machine")), false
	}
	return fmt.Sprintf("%s made the same", human.Count(made, "machine")), false
}

// checkDiffers reports whether two machines made different outputs of the same name.
func checkDiffers(b *api.Build) bool {
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

// madeIt counts the machines that built it.
func madeIt(b *api.Build) int {
	n := 0
	for i := range b.Results {
		if b.Results[i].Failure == nil {
			n++
		}
	}
	return n
}

// checkLines says what each machine of a check made of a build, ready to print.
func checkLines(b *api.Build) []string {
	verdict, _ := checkVerdict(b)
	lines := []string{fmt.Sprintf("check     %s: %s", human.Printable(display.Name(b)), verdict)}
	add := func(format string, args ...any) {
		lines = append(lines, "  "+human.Printable(fmt.Sprintf(format, args...)))
	}
	for i := range b.Results {
		r := &b.Results[i]
		if r.Failure != nil {
			add("%s: failed: %s", r.Machine, strings.TrimSpace(r.Failure.Message))
			continue
		}
		took := ""
		if r.BuildTime > 0 {
			took = " in " + human.Duration(r.BuildTime.Duration())
		}
		for _, output := range slices.Sorted(maps.Keys(r.Hashes)) {
			add("%s: %s is sha256:%s%s", r.Machine, output, strings.TrimPrefix(r.Hashes[output], "sha256:"), took)
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
