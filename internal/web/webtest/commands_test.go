package webtest

import (
	"encoding/json"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/testkit/farm"
	"lighter/internal/web"
)

// TestCommands types what the page of a build shows, while the build goes on, after it has succeeded, and after it
// has failed. Commands of Guix's are for a head that has it.
func TestCommands(t *testing.T) {
	s := needSite(t)
	for name, tc := range map[string]struct {
		script string
		state  api.State
	}{
		"typed-while-1.0": {"sleep 3; mkdir $out", api.Building},
		"typed-good-1.0":  {"echo hello; mkdir $out", api.Succeeded},
		"typed-bad-1.0":   {"echo no; exit 1", api.Failed},
	} {
		t.Run(string(tc.state), func(t *testing.T) {
			path, err := s.Add(t.Context(), farm.Recipe{Name: name, Script: tc.script})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.ask(t.Context(), name, api.Request{Derivation: path, Retries: -1}); err != nil {
				t.Fatal(err)
			}
			if err := s.awaitState(t.Context(), s.builds[name].ID, tc.state); err != nil {
				t.Fatal(err)
			}
			_, text := s.get(t, "/build/"+s.builds[name].ID+".json")
			var page web.BuildPage
			if err := json.Unmarshal(text, &page); err != nil {
				t.Fatal(err)
			}
			typed := 0
			for _, c := range page.Commands {
				args, ours := strings.CutPrefix(c.Text, "lighter ")
				if !ours {
					continue
				}
				if strings.HasPrefix(args, "build ") { // for as many machines as this farm does not have
					args += " --detach"
				}
				out, err := s.Lighter(t.Context(), strings.Fields(args)...).CombinedOutput()
				if err != nil {
					t.Errorf("%s: %s: %v: %s", c.What, c.Text, err, out)
				}
				typed++
			}
			if typed < 2 {
				t.Errorf("there are only %d commands of lighter's: %v", typed, page.Commands)
			}
		})
	}
}
