package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/ledger"
	"lighter/store"
	"lighter/store/derivation"
)

// faster makes a machine the one that is chosen where it may be.
func faster(name string) func(*Config) {
	return func(cfg *Config) {
		for i := range cfg.Machines {
			if cfg.Machines[i].Name == name {
				cfg.Machines[i].Speed = 100
			}
		}
	}
}

func TestRetriedOnAnotherMachine(t *testing.T) {
	f := newFarm(t, faster("m1"), "m1", "m2")
	f.ready("m1", "m2")
	id := f.request(api.Request{Derivation: f.drv("one", "fail=m1"), Retries: 1})[0]
	b := f.awaitState(id, api.Succeeded)
	if b.Machine != "m2" || b.Retried != 1 || b.Attempt != 2 || b.Failure != nil {
		t.Errorf("got %+v", b)
	}
	f.idle()
}

func TestRetriesEnd(t *testing.T) {
	f := newFarm(t, nil, "m1")
	id := f.request(api.Request{Derivation: f.drv("one", "fail"), Retries: 2})[0]
	if b := f.awaitState(id, api.Failed); b.Retried != 2 || b.Attempt != 3 {
		t.Errorf("got %+v", b)
	}
	if n := f.agents["m1"].count("one"); n != 3 {
		t.Errorf("it was built %d times", n)
	}
	f.idle()
}

func TestDownloadsAreRetried(t *testing.T) {
	f := newFarm(t, nil, "m1")
	drv := f.derive(&derivation.Derivation{System: "x86_64-linux", Outputs: []derivation.Output{{
		Name: "out", HashAlgorithm: "sha256", Hash: strings.Repeat("ab", 32),
	}}}, "source", "fail")
	id := f.submit(drv)[0]
	if b := f.awaitState(id, api.Failed); b.Attempt != 4 {
		t.Errorf("%d attempts at a download", b.Attempt)
	}
	f.idle()
}

func TestOnAndSkip(t *testing.T) {
	f := newFarm(t, faster("m1"), "m1", "m2", "m3")
	f.ready("m1", "m2", "m3")
	ids := f.request(
		api.Request{Derivation: f.drv("on", ""), On: []string{"m3"}},
		api.Request{Derivation: f.drv("skip", ""), Skip: []string{"m1", "m3"}},
	)
	for i, want := range []string{"m3", "m2"} {
		if b := f.awaitState(ids[i], api.Succeeded); b.Machine != want {
			t.Errorf("%s was built on %s, want %s", b.Derivation, b.Machine, want)
		}
	}
	id := f.request(api.Request{Derivation: f.drv("nowhere", ""), On: []string{"m4"}})[0]
	b := f.await(id, func(b *api.Build) bool { return b.Reason != "" })
	if !strings.Contains(b.Reason, "none of those that it may use") {
		t.Errorf("the reason is %q", b.Reason)
	}
	f.cancel(id)
	f.idle()
}

func TestSkipIfBuilt(t *testing.T) {
	published := make(map[store.Path]bool)
	f := newFarm(t, func(cfg *Config) { cfg.Published = func(_ context.Context, p store.Path) bool { return published[p] } }, "m1")
	one, two := f.drv("one", ""), f.drv("two", "")
	published[f.output(two)] = true
	f.awaitState(f.submit(one)[0], api.Succeeded)
	for _, test := range []struct {
		drv  store.Path
		want string
	}{
		{one, "its outputs are in the store"},
		{two, "its outputs are published"},
		{f.drv("three", ""), ""},
	} {
		answers, err := f.c.Submit(t.Context(), []api.Request{{Derivation: test.drv, SkipIfBuilt: true}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a := answers[0]; a.Skipped != test.want || (a.Build == nil) != (test.want != "") || a.Error != "" {
			t.Errorf("%s: got %+v, want %q", test.drv, a, test.want)
		}
	}
	f.idle()
}

func TestAllInputs(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "")
	middle := f.drv("middle", "", base)
	top := f.drv("top", "", middle)
	r := api.Request{ID: newID(), Derivation: top, AllInputs: true, Tags: map[string]string{"set": "all"}}
	for range 2 { // and once more, as a client does that had no answer
		f.awaitState(f.request(r)[0], api.Succeeded)
		builds := f.tagged("set", "all")
		if len(builds) != 3 {
			t.Fatalf("%d builds, want 3: %v", len(builds), builds)
		}
		for _, b := range builds {
			if b = *f.awaitFinal(b.ID); b.State != api.Succeeded || b.Parent != "" {
				t.Errorf("got %+v", b)
			}
		}
	}
	r.ID = newID()
	f.awaitState(f.request(r)[0], api.Succeeded)
	if n := len(f.tagged("set", "all")); n != 4 {
		t.Errorf("%d builds, though all inputs had theirs", n)
	}
	f.idle()
}

func (f *farm) tagged(key, value string) []api.Build {
	f.t.Helper()
	var list []api.Build
	for b, err := range f.ledger.Builds(f.t.Context(), ledger.Filter{Filter: api.Filter{Tags: map[string]string{key: value}}}) {
		if err != nil {
			f.t.Fatal(err)
		}
		list = append(list, *b)
	}
	return list
}

func TestMissingInputsAreKept(t *testing.T) {
	f := newFarm(t, func(cfg *Config) { cfg.Limits.KeepMissingInputs = true }, "m1")
	base := f.drv("base", "")
	top := f.drv("top", "", base)
	id := f.submit(top)[0]
	if b := f.awaitState(id, api.Failed); b.Failure.Input != base || !strings.Contains(b.Failure.Message, "no build of it was submitted") {
		t.Errorf("got %+v", b.Failure)
	}
	ids := f.submit(base, top)
	f.awaitState(ids[0], api.Succeeded)
	f.awaitState(ids[1], api.Succeeded)
	f.idle()
}

func TestMissingInputsAreTold(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "")
	id := f.submit(f.drv("top", "", base))[0]
	f.awaitState(id, api.Succeeded)
	events, err := f.ledger.BuildEvents(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, ev := range events {
		if ev.Kind == api.KindMissingInputs {
			told = append(told, ev.Reason)
		}
	}
	if !slices.Equal(told, []string{base.String()}) || events[0].Kind != api.KindSubmitted {
		t.Errorf("got %q of %+v", told, events)
	}
	f.idle()
}

func TestRetryByClient(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	f.ready("m1", "m2")
	client := serveAPI(t, f)
	base := f.drv("base", "fail=m1")
	top := f.drv("top", "", base)
	ids := f.request(api.Request{Derivation: base, On: []string{"m1"}}, api.Request{Derivation: top, Skip: []string{"m2"}})
	first := f.awaitState(ids[0], api.Failed)
	f.awaitState(ids[1], api.DependencyFailed)
	if first.Dependents != 1 {
		t.Errorf("it held up %d", first.Dependents)
	}
	f.agents["m1"].set(func(a *fakeAgent) { a.name = "mended" })
	done, err := client.Retry(t.Context(), &api.Selection{IDs: ids[:1], WithDependents: true, Reason: "mended"})
	if err != nil || !slices.Equal(done.IDs, ids) {
		t.Fatalf("retried %+v, %v; want %v", done, err, ids)
	}
	for _, id := range ids {
		if b := f.awaitState(id, api.Succeeded); b.Failure != nil || b.Stopped == nil || b.Dependents != 0 {
			t.Errorf("got %+v", b)
		}
	}
	if b := f.awaitFinal(ids[0]); b.Attempt <= first.Attempt {
		t.Errorf("attempt %d after %d", b.Attempt, first.Attempt)
	}
	// What succeeded is not tried again.
	if done, err = client.Retry(t.Context(), &api.Selection{IDs: ids}); err != nil || done.Count != 0 {
		t.Errorf("retried %+v, %v", done, err)
	}
	f.idle()
}

func TestRetryAfterRestart(t *testing.T) {
	f := newFarm(t, nil, "m1")
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	f.cancel(id)
	f.awaitState(id, api.Canceled)
	client := serveAPI(t, f)
	if _, err := client.Retry(t.Context(), &api.Selection{IDs: []string{id}}); err != nil {
		t.Fatal(err)
	}
	f.awaitState(id, api.Building)
	f.crash()
	f.start()
	f.agents["m1"].release("one")
	if b := f.awaitState(id, api.Succeeded); b.Attempt < 2 {
		t.Errorf("got %+v", b)
	}
	f.idle()
}

func TestPriority(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client := serveAPI(t, f)
	plugs := f.submit(f.drv("a", "hold"), f.drv("b", "hold"))
	for _, id := range plugs {
		f.awaitState(id, api.Building)
	}
	base := f.drv("base", "hold")
	top := f.drv("top", "", base)
	ids := f.request(api.Request{Derivation: f.drv("c", "hold"), Priority: 5}, api.Request{Derivation: top})
	f.awaitState(ids[1], api.Waiting)
	f.awaitChild(base, api.Queued)
	changed, err := client.Prioritise(t.Context(), &api.Selection{
		Filter: &api.Filter{Derivation: top}, Priority: 9,
	})
	if err != nil || !slices.Equal(changed.IDs, ids[1:]) {
		t.Fatalf("changed %+v, %v", changed, err)
	}
	f.agents["m1"].release("a")
	f.awaitChild(base, api.Building) // before c
	if b := f.await(ids[0], func(*api.Build) bool { return true }); b.State != api.Queued {
		t.Errorf("c is %s", b.State)
	}
	// Back: what is needed for it alone goes down again.
	if _, err := client.Prioritise(t.Context(), &api.Selection{IDs: ids[1:], Priority: -1}); err != nil {
		t.Fatal(err)
	}
	if err := f.c.do(t.Context(), func(l *loop) {
		if p := l.tasks[base].priority; p != -1 {
			t.Errorf("priority of what it needs is %d", p)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "base", "c"} {
		f.agents["m1"].release(name)
	}
	for _, id := range ids {
		f.awaitState(id, api.Succeeded)
	}
	f.idle()
}

func TestCancelWithDependents(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client := serveAPI(t, f)
	base := f.drv("base", "hold")
	ids := f.submit(base, f.drv("top", "", base), f.drv("other", "hold"))
	f.awaitState(ids[0], api.Building)
	f.awaitState(ids[1], api.Waiting)
	f.awaitState(ids[2], api.Building)
	canceled, err := client.CancelAll(t.Context(), &api.Selection{IDs: ids[:1], WithDependents: true})
	if err != nil || canceled.Count != 2 {
		t.Fatalf("canceled %+v, %v", canceled, err)
	}
	f.awaitState(ids[0], api.Canceled)
	f.awaitState(ids[1], api.Canceled)
	f.agents["m1"].release("other")
	f.awaitState(ids[2], api.Succeeded)
	f.idle()
}

func TestSupersede(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client := serveAPI(t, f)
	tags := func(branch, commit string) map[string]string {
		return map[string]string{"branch": branch, "commit": commit}
	}
	ids := f.request(
		api.Request{Derivation: f.drv("a", "hold"), Tags: tags("master", "1")},
		api.Request{Derivation: f.drv("b", "hold"), Tags: tags("staging", "1")},
		api.Request{Derivation: f.drv("c", ""), Tags: tags("master", "2")},
	)
	canceled, err := client.CancelAll(t.Context(), &api.Selection{Reason: "superseded", Filter: &api.Filter{
		Tags: map[string]string{"branch": "master"}, NotTags: map[string]string{"commit": "2"},
	}})
	if err != nil || !slices.Equal(canceled.IDs, ids[:1]) {
		t.Errorf("canceled %+v, %v", canceled, err)
	}
	if b := f.awaitState(ids[0], api.Canceled); b.Reason != "superseded" {
		t.Errorf("got %+v", b)
	}
	f.agents["m1"].release("b")
	f.awaitState(ids[1], api.Succeeded)
	f.awaitState(ids[2], api.Succeeded)
	f.idle()
}

func TestBadSelections(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client := serveAPI(t, f)
	for _, test := range []struct {
		selection api.Selection
		want      string
	}{
		{api.Selection{}, "has ids or a filter"},
		{api.Selection{Filter: &api.Filter{}}, "selects all builds"},
		{api.Selection{IDs: []string{"abcd"}, Filter: &api.Filter{Name: "a"}}, "not both"},
		{api.Selection{Filter: &api.Filter{States: []api.State{"lost"}}}, `state "lost"`},
		{api.Selection{Filter: &api.Filter{Name: "*a"}}, "only at the end"},
	} {
		if _, err := client.Retry(t.Context(), &test.selection); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.selection, err, test.want)
		}
	}
}

// ready waits until machines are up.
func (f *farm) ready(names ...string) {
	f.t.Helper()
	f.until("machines are up", func() bool {
		up := 0
		if err := f.c.do(f.t.Context(), func(l *loop) {
			for _, name := range names {
				if l.byName[name].state == api.MachineUp {
					up++
				}
			}
		}); err != nil {
			f.t.Fatal(err)
		}
		return up == len(names)
	})
}

// serveAPI serves clients until the test is over.
func serveAPI(t *testing.T, f *farm) *apiclient.Client {
	t.Helper()
	client, stop := f.serve(socketOf(t))
	t.Cleanup(stop)
	return client
}

func TestDisagreementsEndInQuarantine(t *testing.T) {
	f := newFarm(t, faster("m1"), "m1", "m2")
	f.ready("m1", "m2")
	for i := range 3 {
		id := f.request(api.Request{Derivation: f.drv(fmt.Sprint("d", i), "fail=m1"), Retries: 1})[0]
		if b := f.awaitState(id, api.Succeeded); b.Machine != "m2" {
			t.Errorf("built on %s", b.Machine)
		}
	}
	id := f.submit(f.drv("after", ""))[0]
	if b := f.awaitState(id, api.Succeeded); b.Machine != "m2" || b.Attempt != 1 {
		t.Errorf("built on %s in attempt %d, though m1 is in quarantine", b.Machine, b.Attempt)
	}
	list, err := serveAPI(t, f).Machines(t.Context())
	if err != nil || !strings.Contains(list[0].Quarantined, "3 builds failed there that succeeded elsewhere") {
		t.Errorf("got %+v, %v", list, err)
	}
	f.idle()
}

func TestMachineRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, faster("m1"), "m1", "m2")
		f.ready("m1", "m2")
		for i := range conduct.RestAfter {
			f.awaitState(f.submit(f.drv(fmt.Sprint("d", i), "machine=m1"))[0], api.Succeeded)
		}
		id := f.submit(f.drv("after", ""))[0]
		if b := f.awaitState(id, api.Succeeded); b.Machine != "m2" || b.Attempt != 1 {
			t.Errorf("built on %s in attempt %d, though m1 rests", b.Machine, b.Attempt)
		}
		time.Sleep(time.Second) // then it is tried again
		if b := f.awaitState(f.submit(f.drv("later", ""))[0], api.Succeeded); b.Machine != "m1" {
			t.Errorf("built on %s, though m1 rests no more", b.Machine)
		}
		f.idle()
	})
}
