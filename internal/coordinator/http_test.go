package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/coordinator/mailbox"
	"lighter/store"
)

// serve serves the coordinator's API on a socket and returns a client of it, and what
// ends the server.
func (f *farm) serve(socket string) (*apiclient.Client, func()) {
	f.t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		f.t.Fatal(err)
	}
	server := &http.Server{Handler: f.handler()}
	over := make(chan struct{})
	go func() {
		defer close(over)
		server.Serve(l)
	}()
	client := apiclient.NewClient(socket)
	return client, func() {
		client.Close()
		server.Close()
		<-over
	}
}

func socketOf(t *testing.T) string { return filepath.Join(t.TempDir(), "s") }

func TestClient(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	ctx := t.Context()
	drv := f.drv("one", "log=hello hold log=bye")
	b, err := client.Submit(ctx, api.Request{Derivation: drv, Tags: map[string]string{"set": "a"}, Priority: 3})
	if err != nil || b.State != api.Queued || b.Priority != 3 {
		t.Fatalf("submit: %+v, %v", b, err)
	}

	var log bytes.Buffer
	logged := make(chan error, 1)
	go func() { logged <- client.Log(ctx, b.ID, 0, true, &log) }()

	<-f.agents["m1"].held
	f.awaitState(b.ID, api.Building)
	status, err := client.Status(ctx)
	if err != nil || len(status.Running) != 1 || status.Running[0].ID != b.ID || status.Machines[0].Running != 1 || len(status.Counts) != 1 {
		t.Errorf("status: %+v, %v", status, err)
	}
	f.agents["m1"].release("one")
	var states []api.State
	enough := errors.New("enough")
	err = client.Follow(ctx, 0, func(ev *api.Event) error {
		if ev.Build == b.ID {
			states = append(states, ev.State)
			if ev.State.Final() {
				return enough
			}
		}
		return nil
	}, b.ID)
	want := []api.State{api.Queued, api.Placed, api.Sending, api.Building, api.Fetching, api.Succeeded}
	if diff := cmp.Diff(want, states); !errors.Is(err, enough) || diff != "" {
		t.Errorf("follow: %v, states (-want +got):\n%s", err, diff)
	}
	if err := <-logged; err != nil || log.String() != "hello\nbye\n" {
		t.Errorf("log: %q, %v", log.String(), err)
	}
	if text, err := client.LogTail(ctx, b.ID, 4); err != nil || string(text) != "bye\n" {
		t.Errorf("tail of the log: %q, %v", text, err)
	}
	log.Reset()
	if err := client.Log(ctx, b.ID, 6, false, &log); err != nil || log.String() != "bye\n" {
		t.Errorf("log from 6: %q, %v", log.String(), err)
	}
	story, err := client.Story(ctx, b.ID[:8])
	if err != nil || story.Build.State != api.Succeeded || len(story.Events) < 6 {
		t.Errorf("story: %+v, %v", story, err)
	}
	if why, err := client.Why(ctx, b.ID); err != nil || why.Build.State != api.Succeeded {
		t.Errorf("why: %+v, %v", why, err)
	}
	if v, err := client.Version(ctx); err != nil || v.Version != "test" || v.API != api.APIVersion {
		t.Errorf("version: %+v, %v", v, err)
	}
	if list, err := client.Machines(ctx); err != nil || len(list) != 1 || list[0].State != api.MachineUp {
		t.Errorf("machines: %+v, %v", list, err)
	}
	if gc, err := client.CollectGarbage(ctx, "m1", api.MachineGC{}); err != nil || gc.Freed != 42 {
		t.Errorf("gc: %+v, %v", gc, err)
	}
	if check, err := client.TestMachine(ctx, "m1"); err != nil || !check.OK {
		t.Errorf("check: %+v, %v", check, err)
	}
	// The same id again is the same build.
	if again, err := client.Submit(ctx, api.Request{ID: b.ID, Derivation: drv}); err != nil || again.State != api.Succeeded {
		t.Errorf("submitting it again: %+v, %v", again, err)
	}
	f.idle()
}

func TestListing(t *testing.T) {
	f := newFarm(t, nil)
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	ctx := t.Context()
	var requests []api.Request
	for i := range 7 {
		requests = append(requests, api.Request{Derivation: f.drv(fmt.Sprintf("d%d", i), ""), Tags: map[string]string{"parity": fmt.Sprint(i % 2)}})
	}
	if _, err := client.SubmitAll(ctx, requests); err != nil {
		t.Fatal(err)
	}
	var names []string
	filter := apiclient.BuildFilter{Filter: api.Filter{States: []api.State{api.Queued}}, Limit: 3}
	for {
		page, err := client.Builds(ctx, filter)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range page.Builds {
			names = append(names, b.Derivation.Name())
		}
		if filter.After = page.Next; page.Next == "" {
			break
		}
	}
	if want := []string{"d6.drv", "d5.drv", "d4.drv", "d3.drv", "d2.drv", "d1.drv", "d0.drv"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	page, err := client.Builds(ctx, apiclient.BuildFilter{Filter: api.Filter{Tags: map[string]string{"parity": "1"}}})
	if err != nil || len(page.Builds) != 3 || page.Next != "" {
		t.Errorf("by tag: %d builds, next %q, %v; want 3", len(page.Builds), page.Next, err)
	}
	page, err = client.Builds(ctx, apiclient.BuildFilter{Filter: api.Filter{Derivation: requests[2].Derivation}})
	if err != nil || len(page.Builds) != 1 {
		t.Errorf("by derivation: %d builds, %v; want 1", len(page.Builds), err)
	}
}

func TestBadRequests(t *testing.T) {
	f := newFarm(t, nil)
	socket := socketOf(t)
	client, closeAll := f.serve(socket)
	defer closeAll()
	drv := f.drv("one", "")
	absent := store.Path(strings.Replace(string(drv), "-one", "-two", 1))
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"no derivation":  {"POST", "/v1/builds", `{}`, 200, "derivation is missing"},
		"bad path":       {"POST", "/v1/builds", `{"derivation":"/etc/passwd"}`, 400, "store path"},
		"unknown field":  {"POST", "/v1/builds", `{"derivaton":"x"}`, 400, `unknown field \"derivaton\"`},
		"no json":        {"POST", "/v1/builds", `{`, 400, "body: "},
		"two values":     {"POST", "/v1/builds", `{"builds":[]} 1`, 400, "more than one"},
		"not a drv":      {"POST", "/v1/builds", `{"derivation":"` + string(f.output(drv)) + `"}`, 200, "does not end in .drv"},
		"other store":    {"POST", "/v1/builds", `{"derivation":"` + strings.Replace(string(drv), "gnu", "nix", 1) + `"}`, 200, "is not in the store /gnu/store"},
		"absent":         {"POST", "/v1/builds", `{"derivation":"` + string(absent) + `"}`, 200, api.CodeNotValid},
		"output":         {"POST", "/v1/builds", `{"derivation":"` + string(drv) + `","outputs":["doc"]}`, 200, `no output \"doc\"`},
		"id":             {"POST", "/v1/builds", `{"id":"../../etc","derivation":"` + string(drv) + `"}`, 200, "not a UUID"},
		"state":          {"GET", "/v1/builds?state=done", "", 400, "there are [queued"},
		"filter":         {"GET", "/v1/builds?machin=x", "", 400, "is not a filter"},
		"limit":          {"GET", "/v1/builds?limit=0", "", 400, "from 1 to"},
		"tag":            {"GET", "/v1/builds?tag=x", "", 400, "NAME=VALUE"},
		"count":          {"GET", "/v1/builds/counts?system=x86_64-linux&tag=a%3Db", "", 200, `{"systems":{},"exact":true}`},
		"count a page":   {"GET", "/v1/builds/counts?limit=7", "", 400, "is not a filter"},
		"blocking":       {"GET", "/v1/blocking?sytem=x", "", 400, "is not a parameter"},
		"blocking all":   {"GET", "/v1/blocking?limit=101", "", 400, "from 1 to 100"},
		"since":          {"GET", "/v1/builds?since=yesterday", "", 400, "want a time"},
		"after":          {"GET", "/v1/builds?after=nothing", "", 404, "no such build"},
		"unknown build":  {"GET", "/v1/builds/00000000-0000-4000-8000-000000000000", "", 404, "no such build"},
		"short id":       {"GET", "/v1/builds/ab", "", 400, "at least its first 4 characters"},
		"short unknown":  {"GET", "/v1/builds/abcdef", "", 404, "no such build"},
		"log":            {"GET", "/v1/builds/00000000-0000-4000-8000-000000000000/log", "", 404, "no such build"},
		"events":         {"GET", "/v1/events?from=x", "", 400, "not negative"},
		"cancel unknown": {"POST", "/v1/cancel", `{"ids":["00000000-0000-4000-8000-000000000000"]}`, 404, "no such build"},
		"machine":        {"POST", "/v1/machines/none/check", "", 404, `no machine is named \"none\"`},
		"operation":      {"GET", "/v2/builds", "", 404, "no such operation"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := rawClient(socket).Do(must(http.NewRequestWithContext(t.Context(), c.method, "http://x"+c.path, strings.NewReader(c.body))))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || !strings.Contains(string(text), c.want) {
				t.Errorf("got %d, %s; want %d with %q", resp.StatusCode, text, c.status, c.want)
			}
		})
	}
	if _, err := client.Submit(t.Context(), api.Request{Derivation: absent}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("submit of an absent derivation: %v, want one that matches store.ErrNotValid", err)
	}
	if _, err := client.Build(t.Context(), "00000000-0000-4000-8000-000000000000"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("unknown build: %v, want one that matches ErrNotFound", err)
	}
}

func rawClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestPartialSubmission(t *testing.T) {
	f := newFarm(t, nil)
	good := f.drv("one", "")
	answers, err := f.c.Submit(t.Context(), []api.Request{{Derivation: good}, {}, {Derivation: good}}, nil)
	if err != nil || answers[0].Build == nil || answers[1].Error == "" || answers[2].Build == nil {
		t.Errorf("got %+v, %v", answers, err)
	}
	id := answers[0].Build.ID
	other := f.drv("two", "")
	answers, err = f.c.Submit(t.Context(), []api.Request{{ID: id, Derivation: good}, {ID: id, Derivation: other}, {Derivation: other}}, nil)
	if err != nil || answers[0].Build.ID != id || answers[1].Build != nil || answers[2].Build == nil {
		t.Errorf("got %+v, %v", answers, err)
	}
	answers, err = f.c.Submit(t.Context(), []api.Request{{ID: id, Derivation: other}}, nil)
	if err != nil || answers[0].Code != api.CodeConflict {
		t.Errorf("got %+v, %v; want a conflict", answers, err)
	}
}

func TestFollowAcrossRestart(t *testing.T) {
	f := newFarm(t, nil, "m1")
	socket := socketOf(t)
	client, closeAll := f.serve(socket)
	defer client.Close()
	id := f.submit(f.drv("one", "hold"))[0]
	building := make(chan struct{})
	var seqs []uint64
	done := make(chan error, 1)
	enough := errors.New("enough")
	go func() {
		seen := false
		done <- client.FollowAcross(context.Background(), 0, patience, func(ev *api.Event) error {
			seqs = append(seqs, ev.Seq)
			if ev.State == api.Building && !seen {
				seen = true
				close(building)
			}
			if ev.Build == id && ev.State.Final() {
				return enough
			}
			return nil
		})
	}()
	<-building
	f.shutDown()
	closeAll()
	if err := client.Cancel(t.Context(), id); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("without a coordinator: %v, want one that matches ErrUnavailable", err)
	}
	f.start()
	_, closeAgain := f.serve(socket)
	defer closeAgain()
	f.agents["m1"].release("one")
	if err := <-done; !errors.Is(err, enough) {
		t.Error(err)
	}
	for i, seq := range seqs {
		if seq != uint64(i+1) {
			t.Fatalf("events %v: number %d is not %d", seqs, seq, i+1)
		}
	}
}

func TestStoppedCoordinatorEndsStreams(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	events, log := make(chan error, 1), make(chan error, 1)
	seen := make(chan struct{}, 1)
	go func() {
		events <- client.Follow(context.Background(), 0, func(*api.Event) error { mailbox.Signal(seen); return nil })
	}()
	go func() { log <- client.Log(context.Background(), id, 0, true, io.Discard) }()
	<-seen
	f.shutDown()
	if err := <-events; !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("events: %v, want one that matches ErrUnavailable", err)
	}
	select {
	case <-log:
	case <-time.After(patience):
		t.Error("the log goes on")
	}
	f.agents["m1"].release("one")
}
