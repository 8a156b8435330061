// Package docs has the pages of this folder that an installed program shows: "lighter help machines.toml".
package docs

import "embed"

//go:embed evaluate.md guix.md hooks.md machines.md settings.md
var files embed.FS

// Pages returns the texts, in Markdown, by what they are about.
func Pages() map[string]string {
	pages := make(map[string]string)
	for topic, file := range map[string]string{
		"machines.toml": "machines.md", "lighter.toml": "settings.md", "guix": "guix.md", "event-hooks": "hooks.md",
		"evaluation": "evaluate.md",
	} {
		text, err := files.ReadFile(file)
		if err != nil {
			panic(err) // it was there when this was compiled
		}
		pages[topic] = string(text)
	}
	return pages
}
