package command

import (
	"fmt"
	"strings"

	"lighter/internal/tomlfile"
)

// NearestOf asks whether the near one of names was meant, or else lists them.
func NearestOf(given string, names []string, list string) string {
	if near := nearest(given, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return list + " " + strings.Join(names, ", ")
}

// nearest returns the one of names that a person who typed given most likely
// meant, or "" if none is near: a name that starts with it, or one at most a
// third of its length away, counted in letters changed, lost, added or swapped.
func nearest(given string, names []string) string {
	best, bestDistance := "", max(1, len(given)/3)+1
	for _, name := range names {
		if len(given) >= 2 && len(name) > len(given) && name[:len(given)] == given {
			return name
		}
		if d := tomlfile.EditDistance(given, name); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}
