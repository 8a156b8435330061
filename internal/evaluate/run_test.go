package evaluate

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/human"
)

// fake is a request to testdata/guix.
func fake(t *testing.T, how string, r Request) *Request {
	t.Helper()
	guix, err := filepath.Abs("testdata/guix")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("FAKE", how)
	t.Setenv("GUIX_PACKAGE_PATH", "/else")
	r.Guix = guix
	return &r
}

// evaluated is what a run tells.
type evaluated struct {
	total   int
	modules []string
	lines   []string // NAME@VERSION SYSTEM TARGET: ERROR
}

func run(t *testing.T, r *Request, p Platform) (evaluated, error) {
	var e evaluated
	err := r.Run(t.Context(), p, Progress{
		Total:  func(n int) { e.total = n },
		Module: func(module, reason string) { e.modules = append(e.modules, module+": "+reason) },
		Package: func(p *Package) error {
			e.lines = append(e.lines, p.Name+"@"+p.Version+" "+p.System+" "+p.Target+": "+p.Error)
			return nil
		},
	})
	return e, err
}

func TestRun(t *testing.T) {
	var log strings.Builder
	got, err := run(t, fake(t, "good", Request{
		Channels: "/c.scm", Folders: []string{"/mine", "/yours"}, Package: "^a'b; (exit)", Root: "/roots", Log: &log,
	}), Platform{"x86_64-linux", "aarch64-linux-gnu"})
	if err != nil {
		t.Fatal(err)
	}
	want := evaluated{total: 2, modules: []string{"(mine broken): unexpected end of input"}, lines: []string{
		"one@1 x86_64-linux aarch64-linux-gnu: folders|^a'b; (exit)|/mine:/yours:/else|/mine:/yours|no|/roots",
		"two@1 x86_64-linux aarch64-linux-gnu: |--channels=/c.scm",
	}}
	if d := cmp.Diff(got, want, cmp.AllowUnexported(evaluated{})); d != "" {
		t.Error(d)
	}
	if !strings.Contains(log.String(), "Updating channel 'guix'...\nnoise\n") {
		t.Errorf("log: %q", log.String())
	}
	got, err = run(t, fake(t, "good", Request{Manifest: "/m.scm", Grafts: true}), Platform{})
	if want := []string{"one@1 here-linux : manifest||/else||yes|", "two@1 here-linux : /m.scm|"}; err != nil || !cmp.Equal(got.lines, want) {
		t.Errorf("manifest: got %q, %v", got.lines, err)
	}
	got, err = run(t, fake(t, "modules", Request{Modules: []string{"(gnu packages base)", " mine good "}}), Platform{})
	if want := []string{"one@1 here-linux : gnu packages base,mine good,"}; err != nil || !cmp.Equal(got.lines, want) {
		t.Errorf("modules: got %q, %v", got.lines, err)
	}
	got, err = run(t, fake(t, "limited", Request{All: true, Memory: 1 << 30, Time: time.Minute}), Platform{})
	if want := []string{"one@1048576 here-linux : x"}; err != nil || !cmp.Equal(got.lines, want) {
		t.Errorf("with a limit of memory: got %q, %v", got.lines, err)
	}
}

func TestRunFails(t *testing.T) {
	for how, want := range map[string]string{
		"garbage": "line 2 of what the evaluation prints: found 'h', want a value",
		"long":    "the evaluation prints a line of more than 1048576 bytes",
		"dies":    "the evaluation ended: exit status 1; its last words:\nnoise\nguix/x.scm:1:2: error: packag: unbound variable",
		"stops":   "the evaluation ended: it did not come to its end; its last words:\nnoise",
	} {
		t.Run(how, func(t *testing.T) {
			_, err := run(t, fake(t, how, Request{All: true}), Platform{})
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			if isInput := errors.As(err, new(*human.InputError)); isInput != (how == "garbage" || how == "long") {
				t.Errorf("%v: error of the input: %v", err, isInput)
			}
		})
	}
	_, err := run(t, &Request{All: true, Guix: "/nowhere/guix"}, Platform{})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without guix: %v", err)
	}
	for _, p := range []Platform{{System: "--help"}, {System: "x86_64-linux", Target: "../x"}, {System: "a\nb"}} {
		if _, err := run(t, fake(t, "good", Request{All: true}), p); err == nil || !strings.Contains(err.Error(), "is no name of a system or target") {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// TestRunEnds cancels an evaluation, has its time run out, and has its receiver fail: no process is left.
func TestRunEnds(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FIFO", fifo)
	failed := errors.New("no room")
	for name, c := range map[string]struct {
		limit time.Duration
		do    func(cancel func()) error
		want  string
	}{
		"canceled": {0, func(cancel func()) error { cancel(); return nil }, "context canceled"},
		"receiver": {0, func(func()) error { return failed }, "no room"},
		"time":     {time.Second, func(func()) error { return nil }, "it took longer than 1s (--timeout)"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var child *os.File // what the evaluation's child writes to
			r := fake(t, "hangs", Request{All: true, Time: c.limit})
			err := r.Run(ctx, Platform{}, Progress{
				Total: func(int) {},
				Package: func(*Package) (err error) {
					if child, err = os.Open(fifo); err != nil {
						return err
					}
					return c.do(cancel)
				},
			})
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if child == nil {
				t.Fatal("it did not start")
			}
			defer child.Close()
			if _, err := io.ReadAll(child); err != nil { // until the child has ended
				t.Error(err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for want, r := range map[string]Request{
		"which packages?":                 {},
		"only one of":                     {All: true, Manifest: "m"},
		"--command prints what it prints": {Command: []string{"x"}, Channels: "c"},
		"--package chooses among":         {Manifest: "m", Package: "x"},
		"with a colon in its name":        {Folders: []string{"a:b"}},
		"want a name such as":             {Modules: []string{"()"}},
		"":                                {Package: "^hello@"},
	} {
		err := r.Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: got %v, want %s", r, err, want)
		}
	}
	for _, r := range []Request{{All: true, Folders: []string{"f"}}, {Modules: []string{"(a b)"}, Folders: []string{"f"}}, {Manifest: "m", Folders: []string{"f"}}, {Command: []string{"x"}}} {
		if err := r.Check(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestCompare(t *testing.T) {
	pkg := func(name, version, system, drv string) string {
		if drv == "" {
			return `{"name":"` + name + `","version":"` + version + `","system":"` + system + `","error":"x"}`
		}
		return `{"name":"` + name + `","version":"` + version + `","system":"` + system + `","derivation":"/gnu/store/` + strings.Repeat(drv, 32) + `-x.drv"}`
	}
	earlier, err := ReadEarlier(strings.NewReader(strings.Join([]string{
		pkg("same", "1", "a", "1"), pkg("other", "1", "a", "1"), pkg("breaks", "1", "a", "1"), pkg("fails", "1", "a", ""),
		pkg("twice", "1", "a", "1"), pkg("twice", "1", "a", "2"), pkg("gone", "1", "a", "1"), pkg("newer", "1", "a", "1"), pkg("gone", "1", "b", "1"),
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]Change)
	for p, err := range ReadPackages(strings.NewReader(strings.Join([]string{
		pkg("same", "1", "a", "1"), pkg("other", "1", "a", "2"), pkg("breaks", "1", "a", ""), pkg("fails", "1", "a", ""),
		pkg("twice", "1", "a", "2"), pkg("newer", "2", "a", "2"),
	}, "\n"))) {
		if err != nil {
			t.Fatal(err)
		}
		got[p.Name+p.Version] = earlier.Compare(p)
	}
	for p := range earlier.Gone() {
		got[p.Name+p.Version+p.System] = Gone
	}
	want := map[string]Change{
		"same1": "", "other1": Changed, "breaks1": Changed, "fails1": "", "twice1": "", "newer2": New,
		"gone1a": Gone, "newer1a": Gone,
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Error(d)
	}
}
