package coordinator

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/hookapi"
)

// events returns the events of a kind that are about no build, as the ledger has them.
func (f *farm) events(kind api.EventKind) []string {
	f.t.Helper()
	var list []string
	if err := f.ledger.Events(f.t.Context(), 1, false, func(ev api.Event) error {
		if ev.Kind == kind && ev.Build == "" {
			list = append(list, strings.TrimSpace(ev.Machine+" "+ev.Reason))
		}
		return nil
	}); err != nil {
		f.t.Fatal(err)
	}
	return list
}

func TestDrainAndResume(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client, closeAll := f.serve(socketOf(t))
	running := f.submit(f.drv("running", "hold"))[0]
	f.awaitState(running, api.Building)
	s, err := client.Drain(t.Context(), "m1", "new disk")
	if err != nil || !s.Draining || s.DrainReason != "new disk" {
		t.Fatalf("got %+v, %v", s, err)
	}
	waiting := f.submit(f.drv("waiting", ""))[0]
	drained := func() bool {
		w := f.why(waiting)
		return len(w.Machines) == 1 && w.Machines[0].Actual == "draining: new disk"
	}
	f.until("why says that it is draining", drained)
	f.releaseAll("running")
	f.awaitState(running, api.Succeeded)

	closeAll()
	f.crash()
	f.start()
	client, closeAll = f.serve(socketOf(t))
	defer closeAll()
	f.until("why says so after a crash", drained)
	if s, err = client.ResumeMachine(t.Context(), "m1"); err != nil || s.Draining || s.DrainReason != "" {
		t.Fatalf("got %+v, %v", s, err)
	}
	f.awaitState(waiting, api.Succeeded)
	if diff := cmp.Diff([]string{"m1 draining: new disk", "m1 resumed"}, f.events(api.KindOperator)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if _, err := client.Drain(t.Context(), "m9", ""); err == nil || err.Error() != `no machine is named "m9"` {
		t.Errorf("got %v", err)
	}
	if _, err := client.Drain(t.Context(), "m1", strings.Repeat("x", api.MaxNote+1)); err == nil || !strings.Contains(err.Error(), "at most 1024") {
		t.Errorf("got %v", err)
	}
	f.idle()
}

func TestTags(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Machines[0].Tags = map[string]string{"rack": "3", "owner": "me"} }, "m1")
	client, closeAll := f.serve(socketOf(t))
	change := func(c api.TagChange) map[string]string {
		t.Helper()
		s, err := client.TagMachine(t.Context(), "m1", &c)
		if err != nil {
			t.Fatal(err)
		}
		return s.Tags
	}
	got := change(api.TagChange{Set: map[string]string{"rack": "4", "new": "yes"}, Remove: []string{"owner"}})
	want := map[string]string{"rack": "4", "new": "yes"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	closeAll()
	f.crash()
	f.start()
	client, closeAll = f.serve(socketOf(t))
	defer closeAll()
	if diff := cmp.Diff(want, f.statusOf("m1").Tags); diff != "" {
		t.Errorf("after a crash (-want +got):\n%s", diff)
	}
	// A tag that an operator sets again, and one whose setting goes: the file's is back.
	if diff := cmp.Diff(map[string]string{"new": "yes", "owner": "you"}, change(api.TagChange{Set: map[string]string{"owner": "you"}, Remove: []string{"rack"}})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	many := make(map[string]string)
	for i := range api.MaxTags {
		many[fmt.Sprint("t", i)] = ""
	}
	for _, tt := range []struct {
		change api.TagChange
		want   string
	}{
		{api.TagChange{}, "neither set nor remove names a tag"},
		{api.TagChange{Set: map[string]string{"": "x"}}, "a tag has a name"},
		{api.TagChange{Set: map[string]string{"a": "x"}, Remove: []string{"a"}}, "both set and removed"},
		{api.TagChange{Set: many}, "would have more than 64 tags"},
	} {
		if _, err := client.TagMachine(t.Context(), "m1", &tt.change); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.change, err, tt.want)
		}
	}
}

func TestPause(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client, closeAll := f.serve(socketOf(t))
	if err := client.Pause(t.Context(), "moving house"); err != nil {
		t.Fatal(err)
	}
	drv := f.drv("one", "")
	id := f.submit(drv)[0]
	held := func() bool { return f.why(id).Summary == "paused: moving house" }
	f.until("why says so", held)
	other := f.drv("other", "")
	for wantsLocal, want := range map[bool]string{true: hookapi.Decline, false: hookapi.Postpone} {
		var a hookapi.Answer
		if _, err := f.c.head.Node(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		if err := f.c.do(t.Context(), func(l *loop) {
			a, _ = l.answerTo(&hookapi.Question{Derivation: other, System: "x86_64-linux", WantsLocal: wantsLocal})
		}); err != nil {
			t.Fatal(err)
		}
		if a.Verdict != want || a.Reason != "the coordinator is paused: moving house" {
			t.Errorf("wants local %v: got %+v", wantsLocal, a)
		}
	}
	closeAll()
	f.crash()
	f.start()
	client, closeAll = f.serve(socketOf(t))
	defer closeAll()
	f.until("why says so after a crash", held)
	if s, err := client.Status(t.Context()); err != nil || s.Paused != "paused: moving house" {
		t.Errorf("got %+v, %v", s, err)
	}
	if err := client.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.awaitState(id, api.Succeeded)
	if s, err := client.Status(t.Context()); err != nil || s.Paused != "" {
		t.Errorf("got %+v, %v", s, err)
	}
	if diff := cmp.Diff([]string{"paused: moving house", "resumed"}, f.events(api.KindOperator)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	f.idle()
}

func TestQuarantine(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Limits.QuarantineTime = time.Hour }, "m1")
	quarantine := func() {
		if err := f.c.do(t.Context(), func(l *loop) {
			m := l.byName["m1"]
			for range 5 {
				m.disagreed(l)
			}
			m.quarantine(l, "3 builds failed there and succeeded on m2")
		}); err != nil {
			t.Fatal(err)
		}
	}
	quarantine()
	id := f.submit(f.drv("one", ""))[0]
	held := func() bool {
		w := f.why(id)
		return len(w.Machines) == 1 && strings.Contains(w.Machines[0].Actual, "in quarantine until ")
	}
	f.until("why says so", held)
	f.shutDown()
	f.start()
	f.until("why says so after a restart", held)
	if s := f.statusOf("m1"); s.Quarantined == "" || s.QuarantinedUntil == nil || time.Until(*s.QuarantinedUntil) < 59*time.Minute {
		t.Errorf("got %+v", s)
	}
	// Its time ends.
	disagreed := 0
	if err := f.c.do(t.Context(), func(l *loop) {
		past := time.Now().Add(-time.Second)
		m := l.byName["m1"]
		m.standing.QuarantinedUntil = &past
		l.placing = true
	}); err != nil {
		t.Fatal(err)
	}
	f.awaitState(id, api.Succeeded)
	if err := f.c.do(t.Context(), func(l *loop) { disagreed = l.byName["m1"].standing.Disagreed }); err != nil || disagreed != 2 {
		t.Errorf("%d builds count against it, want half; %v", disagreed, err)
	}
	// A person ends it.
	quarantine()
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	second := f.submit(f.drv("two", ""))[0]
	if s, err := client.ResumeMachine(t.Context(), "m1"); err != nil || s.Quarantined != "" || s.QuarantinedUntil != nil {
		t.Errorf("got %+v, %v", s, err)
	}
	f.awaitState(second, api.Succeeded)
	f.idle()
}

// TestQuarantineWakesUp has nobody look at the queue when the time of a quarantine is over.
func TestQuarantineWakesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) { c.Limits.QuarantineTime = 600 * time.Millisecond }, "m1")
		if err := f.c.do(t.Context(), func(l *loop) { l.byName["m1"].quarantine(l, "it lies") }); err != nil {
			t.Fatal(err)
		}
		f.awaitState(f.submit(f.drv("one", ""))[0], api.Succeeded)
		f.idle()
	})
}

func TestMachineLostAndBack(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Limits.MachineLostAfter = 30 * time.Millisecond }, "m1")
	f.until("it is up", func() bool { return f.statusOf("m1").State == api.MachineUp })
	lose := func() {
		f.agents["m1"].cutLink(true)
		if err := f.c.do(t.Context(), func(l *loop) { l.byName["m1"].peer.Wake() }); err != nil {
			t.Fatal(err)
		}
	}
	lose()
	f.until("it is lost", func() bool { return len(f.events(api.KindMachineLost)) == 1 })
	f.shutDown() // that it was lost is not told again
	f.start()
	f.until("it is down", func() bool { return f.statusOf("m1").State == api.MachineDown })
	f.agents["m1"].up()
	f.until("it is back", func() bool { return len(f.events(api.KindMachineBack)) == 1 })
	lose()
	f.until("it is lost again", func() bool { return len(f.events(api.KindMachineLost)) == 2 })
	if got := f.events(api.KindMachineLost); !strings.HasPrefix(got[0], "m1 not reached for ") {
		t.Errorf("got %q", got)
	}
	f.agents["m1"].up()
	f.until("it is back again", func() bool { return len(f.events(api.KindMachineBack)) == 2 })
}
