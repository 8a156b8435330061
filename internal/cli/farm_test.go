package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
)

func TestEventsAcrossRestarts(t *testing.T) {
	s := newStub(t)
	// Each life of the coordinator tells of two events more, and then goes away.
	const last = 6
	lives := make(chan struct{}, last)
	s.mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		from, _ := strconv.Atoi(r.URL.Query().Get("from"))
		for seq := from; seq < from+2 && seq <= last; seq++ {
			state := api.Queued
			if seq%2 == 0 {
				state = api.Failed
			}
			_ = json.NewEncoder(w).Encode(api.Event{Seq: uint64(seq), Build: "b", State: state, Machine: "m" + strconv.Itoa(seq), Reason: evil})
		}
		lives <- struct{}{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	out := &untilLines{n: last, done: cancel}
	var errs bytes.Buffer
	getenv := func(name string) string { return map[string]string{"LIGHTER_SOCKET": s.socket, "HOME": s.folder}[name] }
	Run(ctx, []string{"events", "--follow", "--from", "1", "--json"}, command.Process{Out: out, Err: &errs, Getenv: getenv})
	var seqs []uint64
	for line := range strings.Lines(out.String()) {
		var ev api.Event
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		seqs = append(seqs, ev.Seq)
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5, 6}, seqs); diff != "" {
		t.Errorf("(-want +got):\n%s%s", diff, errs.String())
	}
	if len(lives) != 3 {
		t.Errorf("asked %d times, want 3", len(lives))
	}
}

// untilLines calls done once it has that many lines.
type untilLines struct {
	bytes.Buffer
	n    int
	done func()
}

func (u *untilLines) Write(p []byte) (int, error) {
	n, err := u.Buffer.Write(p)
	if bytes.Count(u.Bytes(), []byte("\n")) >= u.n {
		u.done()
	}
	return n, err
}

func TestEventFilters(t *testing.T) {
	s := newStub(t)
	events := []api.Event{
		{Seq: 1, Build: "b", Kind: api.KindSubmitted, State: api.Queued},
		{Seq: 2, Build: "b", State: api.Building, Machine: "alpha"},
		{Seq: 3, Machine: "beta", Kind: api.KindMachineLost, Reason: evil},
		{Seq: 4, Build: "b", State: api.Failed, Machine: "alpha"},
	}
	s.mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, _ *http.Request) {
		for i := range events {
			_ = json.NewEncoder(w).Encode(events[i])
		}
	})
	for args, want := range map[string]string{
		"":                       "1 2 3 4",
		"--state failed,running": "2 4",
		"--machine alpha":        "2 4",
		"--kind machine-lost":    "3",
		"--state done b":         "4",
	} {
		r := s.run("", append([]string{"events"}, strings.Fields(args)...)...)
		r.want(t, command.ExitDone, "", "")
		var seqs []string
		for line := range strings.Lines(r.out) {
			seqs = append(seqs, strings.Fields(line)[0])
		}
		if got := strings.Join(seqs, " "); got != want {
			t.Errorf("%q: events %s, want %s", args, got, want)
		}
	}
	s.run("", "events", "--kind", "machine-lost").want(t, command.ExitDone, `machine-lost on beta: evil\x1b`, "")
	s.run("", "events", "--kind", "lost").want(t, command.ExitUsage, "", `no kind of event is called "lost"`)
}

func TestMetrics(t *testing.T) {
	s := newStub(t)
	s.mux.HandleFunc("GET /v1/metrics", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "lighter_builds 3\n") })
	s.run("", "metrics").want(t, command.ExitDone, "lighter_builds 3\n", "")
}

func TestSteeringMachines(t *testing.T) {
	s := newStub(t)
	m := api.MachineStatus{Name: "alpha", State: "up", Running: 2, ParallelBuilds: 4, Draining: true, DrainReason: evil, Tags: map[string]string{"rack": "2", "disk": "ssd"}}
	s.answer("GET /v1/machines", []api.MachineStatus{m, {Name: "beta", State: "down", Error: evil}})
	for _, path := range []string{"drain", "resume", "tags"} {
		s.answer("POST /v1/machines/{name}/"+path, m)
	}
	for args, want := range map[string]string{
		"drain --reason kernel alpha beta": `POST /v1/machines/alpha/drain {"reason":"kernel"}` + "\n" + `POST /v1/machines/beta/drain {"reason":"kernel"}`,
		"resume alpha":                     `POST /v1/machines/alpha/resume {}`,
		"tag alpha rack=2 disk- x=a=b":     `POST /v1/machines/alpha/tags {"set":{"rack":"2","x":"a=b"},"remove":["disk"]}`,
	} {
		s.run("", append([]string{"machines"}, strings.Fields(args)...)...).
			want(t, command.ExitDone, `alpha: draining, 2 builds running: evil\x1b[2J\r\x07 [disk=ssd,rack=2]`, "")
		if got := strings.Join(s.requests("POST"), "\n"); got != want {
			t.Errorf("%q: asked\n%s\nwant\n%s", args, got, want)
		}
	}
	for args, want := range map[string]string{
		"drain":               "NAME is missing",
		"drain alhpa":         `no machine is called "alhpa"; did you mean "alpha"?`,
		"tag alpha":           "want NAME and tags",
		"tag alpha rack":      `"rack": want KEY=VALUE`,
		"tag alpha rack=- x-": "",
		"tag alpha x=1 x-":    "both set and removed",
	} {
		r := s.run("", append([]string{"machines"}, strings.Fields(args)...)...)
		if want != "" {
			r.want(t, command.ExitUsage, "", want)
		} else {
			r.want(t, command.ExitDone, "", "")
		}
	}
	list := s.run("", "machines", "list")
	list.want(t, command.ExitDone, "alpha  draining  2/4", "")
	list.want(t, command.ExitDone, `beta: evil\x1b`, "")
	s.run("", "machines", "list", "--json").want(t, command.ExitDone, `"draining":true,"drainReason":"evil\u001b[2J\r\u0007"`, "")

	s.answer("POST /v1/reload", api.Reloaded{Added: []string{"gamma"}, Removed: []string{evil}})
	s.answer("GET /v1/status", api.Status{})
	s.run("", "machines", "reload").want(t, command.ExitDone, "added: gamma\nremoved: evil\\x1b", "")
	s.run("", "coordinator", "reload", "--json").want(t, command.ExitDone, `"added"`, "")
}

// TestReloadedSettings has a hook that can't be carried out.
func TestReloadedSettings(t *testing.T) {
	s := newStub(t)
	s.answer("POST /v1/reload", api.Reloaded{})
	s.answer("GET /v1/status", api.Status{SettingsProblems: []string{"lighter.toml: hook " + evil}})
	s.run("", "coordinator", "reload").want(t, command.ExitDone, "no machine changed; hooks and rights of lighter.toml were read again\n", `warning: lighter.toml: hook evil\x1b`)
}

func TestPauseAndResume(t *testing.T) {
	s := newStub(t)
	s.answer("POST /v1/pause", struct{}{})
	s.answer("POST /v1/resume", struct{}{})
	s.answer("GET /v1/status", api.Status{Paused: "the head's disk is full " + evil})
	s.run("", "coordinator", "pause", "--reason", "move").want(t, command.ExitDone, "paused; what runs goes on\n", "")
	s.run("", "coordinator", "resume").want(t, command.ExitDone, `nobody has paused it, but it is paused: the head's disk is full evil\x1b`, "")
	if diff := cmp.Diff([]string{`POST /v1/pause {"reason":"move"}`, `POST /v1/resume {}`}, s.requests("POST")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, c := range []struct{ before, after, want string }{
		{"", "", "it was not paused\n"},
		{"paused by root", "", "resumed\n"},
		{"paused by root", "no room", "resumed, but still paused: no room\n"},
	} {
		asked := 0
		s.mux = http.NewServeMux()
		s.answer("POST /v1/resume", struct{}{})
		s.mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
			asked++
			_ = base.WriteJSON(w, api.Status{Paused: []string{c.before, c.after}[asked-1]})
		})
		s.run("", "coordinator", "resume").want(t, command.ExitDone, c.want, "")
	}
	s.run("", "coordinator", "pause", "now").want(t, command.ExitUsage, "", `takes no arguments, got "now"`)
}

func TestStatusWatchAsJSON(t *testing.T) {
	t.Parallel()
	s := newStub(t)
	s.answer("GET /v1/status", api.Status{Version: "1"})
	ctx, cancel := context.WithCancel(t.Context())
	out := &untilLines{n: 2, done: cancel}
	getenv := func(name string) string { return map[string]string{"LIGHTER_SOCKET": s.socket, "HOME": s.folder}[name] }
	Run(ctx, []string{"status", "--watch", "--json"}, command.Process{Out: out, Err: io.Discard, Getenv: getenv})
	if lines := strings.Count(out.String(), `{"version":"1"`); lines < 2 {
		t.Errorf("got %q", out.String())
	}
	s.run("", "status", "--watch").want(t, command.ExitUsage, "", "--watch wants a terminal")
	s.run("", "status").want(t, command.ExitDone, "builds: none yet\n", "")
}
