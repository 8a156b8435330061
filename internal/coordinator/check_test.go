package coordinator

import (
	"slices"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
	"lighter/store/derivation"
)

func (f *farm) checkBuild(r api.Request) string {
	f.t.Helper()
	f.ready("m1", "m2", "m3")
	return f.request(r)[0]
}

func TestCheckFindsTheSame(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	base := f.drv("base", "")
	id := f.checkBuild(api.Request{Derivation: f.drv("one", "", base), Check: 3})
	b := f.awaitState(id, api.Succeeded)
	machines := make(map[string]bool)
	for _, r := range b.Results {
		machines[r.Machine] = true
		if r.Failure != nil || r.Differs != nil || r.Hashes["out"] != b.Results[0].Hashes["out"] || len(r.Hashes["out"]) != 52 {
			t.Errorf("got %+v", r)
		}
	}
	if len(machines) != 3 || len(b.Results) != 3 || b.Reason != "3 machines made the same" {
		t.Errorf("built on %v: %+v", machines, b)
	}
	b = f.awaitState(f.request(api.Request{Derivation: b.Derivation, Check: 1})[0], api.Succeeded)
	if b.Reason != "1 machine made what the head has" || len(b.Results) != 2 || b.Results[0].Machine != api.TheHead {
		t.Errorf("where the head has it: %+v", b)
	}
	f.idle()
}

func TestCheckFindsDifferences(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	drv := f.drv("one", "differs=m2")
	f.ready("m1", "m2", "m3")
	// Its outputs are there, from elsewhere: all three build.
	f.awaitState(f.request(api.Request{Derivation: drv, On: []string{"m1"}})[0], api.Succeeded)
	b := f.awaitState(f.checkBuild(api.Request{Derivation: drv, Check: 3}), api.Failed)
	if b.Failure.Kind != api.KindDiffers || !strings.Contains(b.Failure.Message, "m2 made something else") || len(b.Results) != 4 {
		t.Fatalf("got %+v of %+v", b.Failure, b.Results)
	}
	for _, r := range b.Results {
		if want := r.Machine == "m2"; (len(r.Differs) == 1 && r.Differs[0] == "out") != want {
			t.Errorf("got %+v", r)
		}
	}
	if b.Results[0].Machine != api.TheHead {
		t.Errorf("compared with %s", b.Results[0].Machine)
	}
	f.idle()
}

func TestCheckFailsOnOne(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	b := f.awaitState(f.checkBuild(api.Request{Derivation: f.drv("one", "fail=m3"), Check: 3, Retries: 3}), api.Failed)
	if !strings.Contains(b.Failure.Message, "it fails on m3") {
		t.Errorf("got %+v", b.Failure)
	}
	f.idle()
}

func TestCheckWithoutEnoughMachines(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	b := f.awaitState(f.checkBuild(api.Request{Derivation: f.drv("one", ""), Check: 3, Skip: []string{"m2"}}), api.Failed)
	if !strings.Contains(b.Failure.Message, "--check 3 wants 3 machines, and only 2 can build it") {
		t.Errorf("got %+v", b.Failure)
	}
	f.idle()
}

func TestCheckOfWhatFails(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	b := f.awaitState(f.checkBuild(api.Request{Derivation: f.drv("one", "timeout"), Check: 2}), api.TimedOut)
	if b.Failure.Message != "too long" {
		t.Errorf("got %+v", b.Failure)
	}
	f.idle()
}

func TestCheckTriesAnotherMachine(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	drv := f.drv("one", "machine=m2")
	f.ready("m1", "m2", "m3")
	f.awaitState(f.request(api.Request{Derivation: drv, On: []string{"m1"}})[0], api.Succeeded)
	b := f.awaitState(f.checkBuild(api.Request{Derivation: drv, Check: 2}), api.Succeeded)
	for _, r := range b.Results {
		if r.Machine == "m2" {
			t.Errorf("got %+v", r)
		}
	}
	f.idle()
}

func TestCheckCanceled(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	drv := f.drv("one", "hold")
	id := f.checkBuild(api.Request{Derivation: drv, Check: 2})
	f.until("it is built to compare with", func() bool {
		for b, err := range f.ledger.Builds(t.Context(), ledger.Filter{Filter: api.Filter{Derivation: drv}}) {
			if err != nil {
				t.Fatal(err)
			}
			if b.Check == 0 && b.State == api.Building {
				return true
			}
		}
		return false
	})
	f.cancel(id)
	f.awaitState(id, api.Canceled)
	f.idle()
	// And while it compares.
	plain := f.submit(drv)[0]
	m := f.awaitState(plain, api.Building).Machine
	f.agents[m].release("one")
	f.awaitState(plain, api.Succeeded)
	id = f.checkBuild(api.Request{Derivation: drv, Check: 2, Skip: []string{m}})
	f.until("it is built on the others", func() bool {
		n := 0
		for name, a := range f.agents {
			if name != m {
				n += a.knows()
			}
		}
		return n == 2
	})
	f.cancel(id)
	f.awaitState(id, api.Canceled)
	f.idle()
}

func TestCheckAfterRestart(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	id := f.checkBuild(api.Request{Derivation: f.drv("one", "hold"), Check: 2})
	f.await(id, func(b *api.Build) bool { return b.State == api.Waiting && strings.Contains(b.Reason, "once") })
	f.crash()
	f.start()
	for name := range f.agents {
		f.agents[name].release("one")
	}
	if b := f.awaitState(id, api.Succeeded); len(b.Results) != 2 {
		t.Errorf("got %+v", b.Results)
	}
	f.idle()
}

// twoOutputs makes a derivation with two outputs.
func (f *farm) twoOutputs(script string) store.Path {
	f.t.Helper()
	d := &derivation.Derivation{System: "x86_64-linux", Outputs: []derivation.Output{{Name: "doc"}, {Name: "out"}}}
	return f.derive(d, "two", script)
}

// m2 stops at the first output that differs, as guix-daemon does.
func TestCheckOfSeveralOutputs(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	drv := f.twoOutputs("differs=m2 untold=m2")
	f.ready("m1", "m2", "m3")
	f.awaitState(f.request(api.Request{Derivation: drv, On: []string{"m1"}})[0], api.Succeeded)
	b := f.awaitState(f.request(api.Request{Derivation: drv, Check: 3})[0], api.Failed)
	if b.Failure.Kind != api.KindDiffers || len(b.Results) != 4 {
		t.Fatalf("got %+v of %+v", b.Failure, b.Results)
	}
	for _, r := range b.Results {
		switch {
		case r.Machine == "m2" && (!slices.Equal(r.Differs, []string{"doc"}) || len(r.Hashes) != 1 || r.Failure != nil):
			t.Errorf("got %+v", r)
		case r.Machine != "m2" && (r.Differs != nil || len(r.Hashes) != 2):
			t.Errorf("got %+v", r)
		}
	}
	f.idle()
}

// What is as expected, and not all of it, is no result.
func TestCheckWithoutAnOutput(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	drv := f.twoOutputs("untold=m2")
	f.ready("m1", "m2")
	f.awaitState(f.request(api.Request{Derivation: drv, On: []string{"m1"}})[0], api.Succeeded)
	b := f.awaitState(f.request(api.Request{Derivation: drv, Check: 1, On: []string{"m2"}})[0], api.Failed)
	if b.Failure.Culprit == api.CulpritDerivation || !strings.Contains(b.Failure.Message, "does not say what it made of "+string(store.DefaultDir)) {
		t.Errorf("got %+v", b.Failure)
	}
	f.idle()
}

// A machine that only says that what it made differs is believed, and not to blame.
func TestCheckThatKeepsNothing(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	drv := f.drv("one", "difference=m2")
	f.ready("m1", "m2", "m3")
	f.awaitState(f.request(api.Request{Derivation: drv, On: []string{"m1"}})[0], api.Succeeded)
	b := f.awaitState(f.request(api.Request{Derivation: drv, Check: 3})[0], api.Failed)
	if b.Failure.Kind != api.KindDiffers || !strings.Contains(b.Failure.Message, "m2 made something else") || len(b.Results) != 4 {
		t.Fatalf("got %+v of %+v", b.Failure, b.Results)
	}
	for _, r := range b.Results {
		if differs := len(r.Differs) == 1 && strings.Contains(r.Differs[0], "may not be deterministic"); differs != (r.Machine == "m2") || r.Failure != nil {
			t.Errorf("got %+v", r)
		}
	}
	f.idle()
}
