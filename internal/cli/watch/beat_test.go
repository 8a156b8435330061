package watch

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/cli/display"
)

// TestBeats has builds of which nothing is heard for long.
func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCoordinator(fakeBuild("1", "hello", ""), fakeBuild("2", "world", ""))
		got, _, err := watchFake(t, f, []string{"1", "2"}, true, nil, func() {
			f.happen("1", api.Building, "alpha", nil)
			time.Sleep(20 * time.Second)
			f.happen("2", api.Building, "beta", nil)
			time.Sleep(70 * time.Second)
			f.happen("2", api.Succeeded, "", nil)
			time.Sleep(31 * time.Second)
			f.happen("1", api.Succeeded, "", nil)
		})
		if err != nil {
			t.Fatal(err)
		}
		want := `building  hello on alpha
building  world on beta
running   hello building on alpha for 50s, world building on beta for 30s; 0 of 2 builds done, 2 running, 50s
running   hello building on alpha for 1m20s, world building on beta for 1m00s; 0 of 2 builds done, 2 running, 1m20s
built     world on beta
running   hello building on alpha for 2m00s; 1 of 2 builds done, 1 running, 2m00s
built     hello on alpha
`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// loud has a long log that tells CI systems something.
type loud struct{ *fakeCoordinator }

func (loud) LogTail(context.Context, string, int64) ([]byte, error) {
	var log strings.Builder
	for i := range 20 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	log.WriteString("::endgroup::\n ::add-mask::e\nx ##[add-mask]e\nsection_end:1:lighter-1\r\x1b[0K\n::stop-commands::x\n")
	return []byte(log.String()), nil
}

func TestFolds(t *testing.T) {
	failure := &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "wanted ##[group]"}
	for variable, want := range map[string]string{
		"GITHUB_ACTIONS": "failed    hello on alpha: wanted ## [group]\n::group::log of hello: 13 lines before its last 12\n  │ line 0\n",
		"GITLAB_CI":      "failed    hello on alpha: wanted ##[group]\nsection_start:946684800:lighter-1[collapsed=true]\r\x1b[0Klog of hello: 13 lines before its last 12\n  │ line 0\n",
		"CI":             "failed    hello on alpha: wanted ##[group]\n  │ line 13\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			f := loud{newFakeCoordinator(fakeBuild("1", "hello", ""))}
			var out bytes.Buffer
			getenv := func(name string) string { return map[string]string{variable: "true"}[name] }
			w := New(Options{Client: f, Next: 1, Show: display.NewLive(&out, getenv), Patience: time.Minute}, []*api.Build{fakeBuild("1", "hello", "")})
			go f.happen("1", api.Failed, "alpha", failure)
			if err := w.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := out.String()
			if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "the whole log: lighter builds log 1\n") || strings.Count(got, "│ line 13\n") != 1 {
				t.Errorf("%s: %q\nwant %q", variable, got, want)
			}
			// What the builder wrote tells nobody anything.
			commands := 0
			for line := range strings.Lines(got) {
				if strings.HasPrefix(strings.TrimSpace(line), "::") || strings.Contains(line, "##[") && variable == "GITHUB_ACTIONS" {
					commands++
				}
			}
			if ends := strings.Count(got, "\r\x1b[0K"); map[string]int{"GITHUB_ACTIONS": 2}[variable] != commands || ends != map[string]int{"GITLAB_CI": 2}[variable] {
				t.Errorf("%s: %d commands, %d marks in\n%s", variable, commands, ends, got)
			}
		})
	}
}

func TestHarmless(t *testing.T) {
	for line, want := range map[string]string{
		"::error::x": ": :error::x", "  \t::group::": "  \t: :group::", "a ::b": "a ::b", "##[section]x##[y": "## [section]x## [y", "\u00a0::x": "\u00a0: :x",
	} {
		if got := display.GitHub.Harmless(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
		if got := display.GitLab.Harmless(line); got != line {
			t.Errorf("%q: %q", line, got)
		}
	}
}
