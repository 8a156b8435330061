package top

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/store"
)

// evil is a text that moves the cursor, and turns the direction of writing, if it is printed as it is.
const evil = "evil\x1b[2J\r\x07\u202e"

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.Local)

// at is so many minutes after noon.
func at(minutes int) *time.Time {
	t := noon.Add(time.Duration(minutes) * time.Minute)
	return &t
}

// build is alice's build of a name, which is its id, too.
func build(name string, state api.State) api.Build {
	return api.Build{
		Request: api.Request{ID: name, Derivation: store.Path("/gnu/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-" + name + ".drv")},
		System:  "x86_64-linux", State: state, Submitted: *at(-60), Submitter: &api.Submitter{UID: 1000, User: "alice"}, Attempt: 1,
	}
}

// farm is a status with some of everything.
func farm() *api.Status {
	running, slow, failed := build("hello-2.12", api.Building), build("gcc-14", api.Building), build("broken-1", api.Failed)
	running.Machine, running.Started = "alpha", at(-5)
	slow.Machine, slow.Started, slow.Submitter = "beta", at(-90), &api.Submitter{UID: 0, User: "root"}
	slow.Overdue = true
	slow.ExpectedEnd = &api.Expected{Low: *at(3), Middle: *at(4), High: *at(5)}
	failed.Machine, failed.Stopped, failed.Dependents = "alpha", at(-2), 12
	failed.Failure = &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "the builder failed with exit code 2; its last lines were:\nmake\nerror: " + evil}
	return &api.Status{
		Counts: map[api.State]int{api.Building: 2, api.Queued: 3, api.Waiting: 4, api.Failed: 9},
		Machines: []api.MachineStatus{
			{Name: "alpha", Systems: []string{"x86_64-linux"}, State: api.MachineUp, ParallelBuilds: 2, Running: 1, Cores: 4, Load: 0.5, FreeDisk: 1 << 40, Tags: map[string]string{"rack": "2", "disk": "ssd", "owner": evil}},
			{Name: "beta", Systems: []string{"x86_64-linux"}, State: api.MachineDown, ParallelBuilds: 2, Error: "refused " + evil},
		},
		Running: []api.Build{running, slow}, Failures: []api.Build{failed},
		Transfers: []api.Transfer{{Machine: "alpha", Direction: api.Send, Build: "hello-2.12", Items: 3, Bytes: 1 << 20, Total: 2 << 20, Started: *at(-1)}},
		Queues:    []api.SystemQueue{{System: "x86_64-linux", Queued: 3, Waiting: 4, Running: 2, Rate: 12}},
		Outlook:   &api.Outlook{ExpectedEnd: &api.Expected{Low: *at(10), Middle: *at(20), High: *at(30)}, Builds: 9},
		Caller:    &api.Caller{UID: 1000, User: "alice", Operators: "members of lighter"},
	}
}

// bench is a model before a coordinator that answers what a test says. Jobs are done at once, up to their first word.
type bench struct {
	*model
	t     *testing.T
	mux   *http.ServeMux
	state *api.Status

	mu    sync.Mutex
	asked []string // "METHOD PATH BODY" of what changes something
}

func newBench(t *testing.T, s *api.Status) *bench {
	t.Helper()
	b := &bench{t: t, mux: http.NewServeMux(), state: s}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: b}
	var group sync.WaitGroup
	group.Go(func() { _ = server.Serve(listener) })
	client := apiclient.NewClient(socket)
	t.Cleanup(func() {
		client.Close()
		server.Close()
		group.Wait()
	})
	b.mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(b.state) })
	b.model = newModel(client, s, display.Style{Colour: true}, func() time.Time { return noon })
	return b
}

func (b *bench) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		body, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		b.asked = append(b.asked, "POST "+r.URL.Path+" "+string(body))
		b.mu.Unlock()
	}
	b.mux.ServeHTTP(w, r)
}

func (b *bench) answer(pattern string, v any) {
	b.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
}

// tell gives the model a message, and does the jobs that follow.
func (b *bench) tell(msg tea.Msg) {
	b.t.Helper()
	for _, j := range b.update(msg) {
		if j.do == nil {
			continue
		}
		ctx, cancel := context.WithCancel(b.t.Context())
		j.do(ctx, func(msg tea.Msg) {
			if _, more := msg.(*logPart); !more {
				cancel()
			}
			b.tell(msg)
		})
		cancel()
	}
	b.check()
}

var names = map[string]rune{
	"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "up": tea.KeyUp, "down": tea.KeyDown, "left": tea.KeyLeft,
	"right": tea.KeyRight, "pgdown": tea.KeyPgDown, "pgup": tea.KeyPgUp, "home": tea.KeyHome, "end": tea.KeyEnd, "backspace": tea.KeyBackspace,
}

// press presses keys, which are words, or letters.
func (b *bench) press(keys ...string) {
	b.t.Helper()
	for _, key := range keys {
		if code, ok := names[key]; ok {
			b.tell(tea.KeyPressMsg{Code: code})
			continue
		}
		for _, r := range key {
			b.tell(tea.KeyPressMsg{Code: r, Text: string(r)})
		}
	}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// check looks whether the screen has as many lines as there are, none is too wide, and nothing on it is for the
// terminal but colours.
func (b *bench) check() {
	b.t.Helper()
	text, x, _ := b.screen()
	lines := strings.Split(sgr.ReplaceAllString(text, ""), "\n")
	if len(lines) != b.height || x >= b.width {
		b.t.Errorf("%d lines, want %d; the cursor is in column %d of %d", len(lines), b.height, x, b.width)
	}
	for _, line := range lines {
		if human.Width(line) > b.width || human.Printable(line) != line {
			b.t.Errorf("%d cells, want %d: %q", human.Width(line), b.width, line)
		}
	}
}

// shown is what is on the screen, without colours.
func (b *bench) shown() string {
	text, _, _ := b.screen()
	return sgr.ReplaceAllString(text, "")
}

// want looks for texts on the screen.
func (b *bench) want(texts ...string) {
	b.t.Helper()
	shown := b.shown()
	for _, text := range texts {
		if !strings.Contains(shown, text) {
			b.t.Errorf("no %q in\n%s", text, shown)
		}
	}
}

// wantNot looks that texts are not on the screen.
func (b *bench) wantNot(texts ...string) {
	b.t.Helper()
	shown := b.shown()
	for _, text := range texts {
		if strings.Contains(shown, text) {
			b.t.Errorf("%q in\n%s", text, shown)
		}
	}
}

// posted returns what was asked that changes something, and forgets it.
func (b *bench) posted() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := strings.Join(b.asked, "\n")
	b.asked = nil
	return text
}
