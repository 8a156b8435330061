package cli

import (
	"strings"

	"lighter/internal/tomlfile"
)

// nearest returns the one of names that a person who typed given most likely
// meant, or "" if none is near: a name that starts with it, or else one much like it.
func nearest(given string, names []string) string {
	for _, name := range names {
		if len(given) >= 2 && strings.HasPrefix(name, given) {
			return name
		}
	}
	return tomlfile.Nearest(given, names)
}
