package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/testkit"
	"lighter/store"
)

// shell is a program that /bin/sh runs.
func shell(t *testing.T, script string) *program {
	return &program{
		Programs: Programs{Dir: t.TempDir(), Socket: "/run/s", Env: []string{"PATH=" + os.Getenv("PATH")}, grace: 100 * time.Millisecond},
		command:  []string{"sh", "-c", script},
	}
}

func exampleEvent() *Event {
	b := &api.Build{
		Request: api.Request{
			ID: "b1", Derivation: path("x.drv"), Tags: map[string]string{"set": "nightly 1", "a-b.c": "2", "nul": "\x00"},
		},
		System: "x86_64-linux", State: api.Succeeded,
	}
	b.OutputPaths = map[string]store.Path{"out": path("x"), "doc": path("x-doc")}
	ev := api.Event{Seq: 7, Time: time.Unix(1700000000, 0).UTC(), Build: "b1", State: api.Succeeded, Machine: "m1"}
	return &Event{Name: BuildSucceeded, Hook: "h", Try: 2, Seq: 7, Time: ev.Time, Machine: "m1", Event: ev, Build: b}
}

func TestProgramGetsTheEvent(t *testing.T) {
	p := shell(t, `pwd; cat >event; env | grep ^LIGHTER_ | sort; echo to stderr >&2`)
	event := exampleEvent()
	output, err := p.Run(t.Context(), event)
	if err != nil {
		t.Fatal(err, output)
	}
	want := p.Dir + `
LIGHTER_BUILD_ID=b1
LIGHTER_BUILD_STATE=succeeded
LIGHTER_DERIVATION=` + string(path("x.drv")) + `
LIGHTER_EVENT=build-succeeded
LIGHTER_EVENT_SEQ=7
LIGHTER_MACHINE=m1
LIGHTER_OUTPUTS=` + string(path("x-doc")) + " " + string(path("x")) + `
LIGHTER_SOCKET=/run/s
LIGHTER_SYSTEM=x86_64-linux
LIGHTER_TAG_a_b_c=2
LIGHTER_TAG_set=nightly 1
to stderr
`
	if diff := cmp.Diff(want, output); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	text, err := os.ReadFile(filepath.Join(p.Dir, "event"))
	if err != nil {
		t.Fatal(err)
	}
	var got Event
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(event, &got); diff != "" {
		t.Errorf("standard input (-want +got)\n%s", diff)
	}
}

func TestProgramResults(t *testing.T) {
	testkit.CheckLeaks(t)
	large := exampleEvent()
	large.Event.Reason = strings.Repeat("x", 1<<20) // more than a pipe holds
	for _, test := range []struct {
		name, script string
		event        *Event
		err, output  string
	}{
		{"good", "exit 0", exampleEvent(), "", ""},
		{"bad", "echo why; exit 3", exampleEvent(), "sh: exit status 3", "why\n"},
		{"killed", "kill -9 $$", exampleEvent(), "sh: signal: killed", ""},
		{"reads nothing", "exec <&-; echo fine", large, "", "fine\n"},
		{"reads a little", "head -c 10 >/dev/null; echo fine", large, "", "fine\n"},
		{"not there", "", exampleEvent(), "no such file", ""},
		{"leaves a process with its output", "sleep 600 & echo fine", exampleEvent(), "", "fine\n"},
		{"writes much", "head -c 100000 /dev/zero | tr '\\0' x; echo end", exampleEvent(), "", "…" + strings.Repeat("x", maxOutput-4) + "end\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := shell(t, test.script)
			if test.script == "" {
				p.command = []string{"/nowhere/at/all"}
			}
			output, err := p.Run(t.Context(), test.event)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("got error %v, want %q", err, test.err)
			}
			if output != test.output {
				t.Errorf("got output of %d bytes %.100q, want %.100q", len(output), output, test.output)
			}
		})
	}
}

// TestProgramIsKilledWithItsGroup: neither a program nor its child lives on when its
// time is over, also if they don't care about SIGTERM.
func TestProgramIsKilledWithItsGroup(t *testing.T) {
	for _, test := range []struct{ name, trap string }{{"obeys", ""}, {"ignores SIGTERM", `trap "" TERM; `}} {
		t.Run(test.name, func(t *testing.T) {
			p := shell(t, test.trap+`echo $$ >pids; sh -c '`+test.trap+`echo $$ >>pids; mkfifo ready; while :; do sleep 1000; done' & wait; sleep 1000`)
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan error, 1)
			go func() {
				_, err := p.Run(ctx, exampleEvent())
				over <- err
			}()
			for ctx.Err() == nil { // until the grandchild is there
				if _, err := os.Stat(filepath.Join(p.Dir, "ready")); err == nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
			cancel()
			if err := <-over; err == nil {
				t.Error("it is not an error to be killed")
			}
			text, err := os.ReadFile(filepath.Join(p.Dir, "pids"))
			if err != nil {
				t.Fatal(err)
			}
			pids := strings.Fields(string(text))
			if len(pids) != 2 {
				t.Fatalf("processes: %q", pids)
			}
			for _, text := range pids {
				pid, err := strconv.Atoi(text)
				if err != nil {
					t.Fatal(err)
				}
				awaitDeath(t, pid)
			}
		})
	}
}

// awaitDeath waits until a killed process is gone, or a zombie that waits for init.
func awaitDeath(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives: %s", pid, stat)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestHostileBuild has a program run for a build whose names and texts are chosen to be
// taken for something else, or to be too much.
func TestHostileBuild(t *testing.T) {
	const evil = "$(touch pwned); touch pwned\n\x1b[2J' \" `touch pwned`"
	for name, change := range map[string]func(*Event){
		"tags": func(e *Event) {
			for i := range 10_000 {
				e.Build.Tags[fmt.Sprint(i)] = strings.Repeat("x", 1000)
			}
		},
		"names of tags": func(e *Event) {
			for _, name := range []string{"LD_PRELOAD", "=x", "a=b", "\x00", "\n", "PATH", "../x", "ü", evil} {
				e.Build.Tags[name] = evil
			}
		},
		"long tag":   func(e *Event) { e.Build.Tags["long"] = strings.Repeat("x", 1<<20) },
		"outputs":    func(e *Event) { e.Build.OutputPaths["out"] = path(strings.Repeat("x", 200_000)) },
		"system":     func(e *Event) { e.Build.System = evil },
		"machine":    func(e *Event) { e.Machine, e.Event.Machine = evil, evil },
		"reason":     func(e *Event) { e.Event.Reason = strings.Repeat(evil, 100_000) },
		"not UTF-8":  func(e *Event) { e.Event.Reason, e.Build.Tags["x"] = "\xff\xfe", "\xff" },
		"state":      func(e *Event) { e.Event.State = evil },
		"derivation": func(e *Event) { e.Build.Derivation = evil },
	} {
		t.Run(name, func(t *testing.T) {
			p := shell(t, `cat >event; echo "$LD_PRELOAD|$LIGHTER_SOCKET|$PATH"; tr '\0' '\n' </proc/$$/environ >environment; test ! -e pwned`)
			e := exampleEvent()
			change(e)
			output, err := p.Run(t.Context(), e)
			if err != nil || output != "|/run/s|"+os.Getenv("PATH")+"\n" {
				t.Errorf("got %.200q, %v", output, err)
			}
			text, err := os.ReadFile(filepath.Join(p.Dir, "event"))
			if err != nil || !json.Valid(text) || strings.Count(string(text), "\n") != 1 {
				t.Errorf("standard input is %.200q, %v", text, err)
			}
			if env, err := os.ReadFile(filepath.Join(p.Dir, "environment")); err != nil || len(env) > maxEnvironment+64<<10 {
				t.Errorf("the environment has %d bytes, %v", len(env), err)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	if got := errorText(errors.New("a\x1b[2J\x00\xff\u202e\nb")); got != "a?[2J?\uFFFD?\nb" {
		t.Errorf("got %q", got)
	}
	if got := errorText(errors.New(strings.Repeat("ü", 1<<20))); len(got) > maxErrorText+3 {
		t.Errorf("got %d bytes", len(got))
	}
}
