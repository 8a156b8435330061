package coordinator

import (
	"fmt"
	"slices"
	"testing"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
	"lighter/store/derivation"
)

// children returns the builds that the coordinator made itself, by derivation.
func (f *farm) children() map[store.Path]*api.Build {
	f.t.Helper()
	found := make(map[store.Path]*api.Build)
	for b, err := range f.ledger.Builds(f.t.Context(), ledger.Filter{}) {
		if err != nil {
			f.t.Fatal(err)
		}
		if b.Parent != "" {
			found[b.Derivation] = b
		}
	}
	return found
}

func TestGraph(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	base := f.drv("base", "")
	var middle []store.Path
	for i := range 6 {
		middle = append(middle, f.drv(fmt.Sprintf("middle-%d", i), "", base))
	}
	top := f.drv("top", "", append(slices.Clone(middle), base)...)
	id := f.submit(top)[0]
	b := f.awaitFinal(id)
	if b.State != api.Succeeded {
		t.Fatalf("top is %s: %v", b.State, b.Failure)
	}
	children := f.children()
	if len(children) != 7 {
		t.Errorf("got %d builds made for it, want 7", len(children))
	}
	for drv, child := range children {
		if child.State != api.Succeeded || child.Attempt != 1 || child.OutputsOn == "" {
			t.Errorf("%s is %s after %d attempts, outputs on %q; want success with outputs left on a machine",
				drv.Name(), child.State, child.Attempt, child.OutputsOn)
		}
		if n := f.agents["m1"].count(derivation.NameOf(drv)) + f.agents["m2"].count(derivation.NameOf(drv)); n != 1 {
			t.Errorf("%s was built %d times", drv.Name(), n)
		}
	}
	for _, a := range f.agents {
		for p, n := range a.sent {
			if n > 1 {
				t.Errorf("%s was sent to %s %d times", p, a.name, n)
			}
		}
	}
	closure, err := store.Closure(t.Context(), f.head, []store.Path{f.output(top)})
	if err != nil || len(closure) != 8 {
		t.Errorf("closure of the output at home: %d items, %v; want 8", len(closure), err)
	}
	f.idle()
}

func TestOutputsAtHomeAreNotBuilt(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "")
	f.awaitState(f.submit(base)[0], api.Succeeded)
	b := f.awaitState(f.submit(base)[0], api.Succeeded)
	if b.Attempt != 0 || b.OutputSize == 0 {
		t.Errorf("got %+v, want success without an attempt", b)
	}
	f.awaitState(f.submit(f.drv("top", "", base))[0], api.Succeeded)
	if n := f.agents["m1"].count("base"); n != 1 {
		t.Errorf("base was built %d times", n)
	}
	if len(f.children()) != 0 {
		t.Errorf("builds were made for what is at home: %v", f.children())
	}
	f.idle()
}

func TestSameDerivationIsBuiltOnce(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	drv := f.drv("one", "hold log=x")
	first := f.submit(drv)[0]
	f.awaitState(first, api.Building)
	others := f.submit(drv, drv)
	for _, id := range others {
		f.awaitState(id, api.Building)
	}
	f.agents["m1"].release("one")
	f.agents["m2"].release("one")
	for _, id := range append(others, first) {
		if b := f.awaitState(id, api.Succeeded); b.Attempt != 1 || id != first && b.Shares != first || b.LogSize != 2 {
			t.Errorf("got %+v, want attempt 1 shared with %s", b, first)
		}
	}
	if n := f.agents["m1"].count("one") + f.agents["m2"].count("one"); n != 1 {
		t.Errorf("it was built %d times", n)
	}
	f.idle()
}

func TestDependencyFailure(t *testing.T) {
	f := newFarm(t, nil, "m1")
	bad := f.drv("bad", "fail")
	middle := f.drv("middle", "", bad)
	top := f.drv("top", "", middle)
	other := f.drv("other", "")
	ids := f.submit(top, other)
	b := f.awaitState(ids[0], api.DependencyFailed)
	if b.Failure == nil || b.Failure.Kind != api.KindDependency || b.Failure.Input != bad {
		t.Errorf("got failure %+v, want a dependency's, %s", b.Failure, bad)
	}
	f.awaitState(ids[1], api.Succeeded)
	story, err := f.c.Story(t.Context(), f.children()[bad])
	if err != nil || story.WantedByCount != 2 || len(story.WantedBy) != 2 || story.Build.Dependents != 2 {
		t.Errorf("the failed one held up %d: %v %v", story.WantedByCount, story.WantedBy, err)
	}
	if b.Reason != "needs bad, which failed" {
		t.Errorf("reason %q", b.Reason)
	}
	own := f.children()[bad]
	if own.State != api.Failed || own.Failure.Culprit != api.CulpritDerivation || own.Failure.ExitCode != 1 || own.Attempt != 1 {
		t.Errorf("got %+v (%+v), want exit 1 in its first attempt", own, own.Failure)
	}
	f.idle()
}

// TestDiamondFails fails what several builds need by several ways: each is counted once.
func TestDiamondFails(t *testing.T) {
	f := newFarm(t, nil, "m1")
	bad := f.drv("bad", "hold fail")
	left, right := f.drv("left", "", bad), f.drv("right", "", bad)
	ids := f.submit(f.drv("top", "", left, right), left, f.drv("top2", "", right, bad))
	f.awaitChild(bad, api.Building)
	story, err := f.c.Story(t.Context(), f.children()[bad])
	if err != nil || story.WantedByCount != 4 || len(story.WantedBy) != 4 {
		t.Errorf("it holds up %d: %v %v", story.WantedByCount, story.WantedBy, err)
	}
	f.agents["m1"].release("bad")
	for _, id := range ids {
		if b := f.awaitState(id, api.DependencyFailed); b.Failure.Input != bad {
			t.Errorf("%s is blamed on %s", b.Derivation, b.Failure.Input)
		}
	}
	if b := f.awaitChild(bad, api.Failed); b.Dependents != 4 {
		t.Errorf("%d dependents, want 4", b.Dependents)
	}
	f.idle()
}

func TestTimedOut(t *testing.T) {
	f := newFarm(t, nil, "m1")
	if b := f.awaitState(f.submit(f.drv("slow", "timeout"))[0], api.TimedOut); b.Failure.Kind != string(store.FailedTimeout) {
		t.Errorf("got failure %+v", b.Failure)
	}
	f.idle()
}

func TestIntermediateIsFetchedWhenAskedFor(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "")
	top := f.drv("top", "hold", base)
	id := f.submit(top)[0]
	f.awaitState(id, api.Building)
	if f.valid(f.output(base)) {
		t.Fatal("the intermediate output came home by itself")
	}
	b := f.awaitState(f.submit(base)[0], api.Succeeded)
	if !f.valid(f.output(base)) || f.agents["m1"].count("base") != 1 {
		t.Errorf("base was built %d times, at home: %v; got %+v", f.agents["m1"].count("base"), f.valid(f.output(base)), b)
	}
	f.agents["m1"].release("top")
	f.awaitState(id, api.Succeeded)
	f.idle()
}

// on is a derivation that only the machine can take.
func on(machine string) *derivation.Derivation {
	return &derivation.Derivation{System: "x86_64-linux", Env: []derivation.EnvVar{{Name: "requiredSystemFeatures", Value: "on-" + machine}}}
}

// TestInputFromAnotherMachine needs an item that is only on another machine.
func TestInputFromAnotherMachine(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	d1 := on("m1")
	base := f.derive(d1, "base", "")
	d2 := on("m2")
	top := f.derive(d2, "top", "", base)
	b := f.awaitState(f.submit(top)[0], api.Succeeded)
	if b.Machine != "m2" || f.agents["m1"].count("base") != 1 {
		t.Errorf("top was built on %s, base %d times on m1", b.Machine, f.agents["m1"].count("base"))
	}
	f.idle()
}

// TestInputWithReferenceFromAnotherMachine needs an item from another machine that
// refers to one which nobody needs any more for itself.
func TestInputWithReferenceFromAnotherMachine(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	base := f.derive(on("m1"), "base", "")
	mid := f.derive(on("m1"), "mid", "", base)
	gate := f.derive(on("m2"), "gate", "hold")
	top := f.derive(on("m2"), "top", "", mid, gate)
	id := f.submit(top)[0]
	f.awaitState(id, api.Waiting)
	f.awaitChild(mid, api.Succeeded)
	f.until("base is forgotten", func() bool { return f.agents["m1"].knows() == 1 })
	f.agents["m2"].release("gate")
	f.awaitState(id, api.Succeeded)
	if n, m := f.agents["m1"].count("base"), f.agents["m1"].count("mid"); n != 1 || m != 1 {
		t.Errorf("base was built %d times, mid %d times; want both once", n, m)
	}
	f.idle()
}

// TestInputWhoseReferenceIsNotAtHome sends an item through a head that does not have what
// it refers to, since garbage was collected there, to a machine that has.
func TestInputWhoseReferenceIsNotAtHome(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	base := f.derive(on("m1"), "base", "")
	mid := f.derive(on("m2"), "mid", "", base)
	gate := f.derive(on("m1"), "gate", "hold")
	top := f.derive(on("m1"), "top", "", base, mid, gate)
	id := f.submit(top)[0]
	f.awaitState(id, api.Waiting)
	f.awaitChild(mid, api.Succeeded)
	if !f.valid(f.output(base)) {
		t.Fatal("base did not come by the head")
	}
	paths := []store.Path{f.output(base)}
	f.until("the lease of mid's attempt has ended", func() bool {
		_, err := f.head.CollectGarbage(t.Context(), store.GCOptions{Paths: paths})
		return err == nil
	})
	f.agents["m1"].release("gate")
	f.awaitState(id, api.Succeeded)
	if n, m := f.agents["m1"].count("base"), f.agents["m2"].count("mid"); n != 1 || m != 1 {
		t.Errorf("base was built %d times, mid %d times; want both once", n, m)
	}
	f.idle()
}

func TestInputLostWithItsMachine(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Limits.MachineLostAfter = 50e6 }, "m1", "m2")
	base := f.drv("base", "")
	gate := f.derive(on("m2"), "gate", "hold")
	top := f.derive(on("m2"), "top", "", base, gate)
	// Slots on m2 are taken, so that base goes to m1.
	d := func(name string) store.Path {
		return f.derive(on("m2"), name, "hold")
	}
	plugs := f.submit(d("plug-1"), d("plug-2"))
	for _, id := range plugs {
		f.awaitState(id, api.Building)
	}
	id := f.submit(top)[0]
	f.awaitState(id, api.Waiting)
	first := f.awaitChild(base, api.Succeeded)
	if first.Machine != "m1" {
		t.Fatalf("base was built on %s", first.Machine)
	}
	f.agents["m1"].cutLink(true)
	f.machine("m1").peer.Poke()
	f.agents["m2"].release("plug-1")
	f.agents["m2"].release("plug-2")
	f.agents["m2"].release("gate")
	f.awaitState(id, api.Succeeded)
	if n := f.agents["m2"].count("base"); n != 1 {
		t.Errorf("base was built %d times on m2, want 1, since m1 was lost", n)
	}
	f.agents["m1"].up()
	f.idle()
}

// awaitChild waits for the newest build of a derivation that the coordinator made.
func (f *farm) awaitChild(drv store.Path, s api.State) *api.Build {
	f.t.Helper()
	var id string
	for id == "" {
		if b := f.children()[drv]; b != nil {
			id = b.ID
		}
	}
	return f.awaitState(id, s)
}

func TestNoMachineForSystem(t *testing.T) {
	f := newFarm(t, nil, "m1")
	drv := f.derive(&derivation.Derivation{System: "riscv64-linux"}, "one", "")
	id := f.submit(drv)[0]
	b := f.await(id, func(b *api.Build) bool { return b.Reason != "" })
	if want := "no machine can take it: none builds for riscv64-linux"; b.Reason != want || b.State != api.Queued {
		t.Errorf("got %s, %q; want %q", b.State, b.Reason, want)
	}
	if _, _, err := f.c.Cancel(t.Context(), []string{id}, ""); err != nil {
		t.Fatal(err)
	}
	f.awaitState(id, api.Canceled)
	f.idle()
}

// TestMoreDependantsFirst has two builds that are ready, as urgent as each other but for how
// many wait for them.
func TestMoreDependantsFirst(t *testing.T) {
	f := newFarm(t, nil, "m1")
	f.ready("m1")
	inLoop := func(look func(l *loop)) {
		t.Helper()
		if err := f.c.do(t.Context(), look); err != nil {
			t.Fatal(err)
		}
	}
	inLoop(func(l *loop) { l.setPaused(true, "", "to look at the queue") })
	one, many := f.drv("one", ""), f.drv("many", "")
	f.submit(one)
	f.submit(many)
	f.submit(f.drv("top", "", one))
	for _, name := range []string{"top1", "top2", "top3"} {
		f.submit(f.drv(name, "", many))
	}
	f.until("both are ready, and what waits for them is known", func() (known bool) {
		inLoop(func(l *loop) {
			known = l.queue.Len() == 2 && l.tasks[one].dependants.Size() == 1 && l.tasks[many].dependants.Size() == 3
		})
		return known
	})
	var order []int
	inLoop(func(l *loop) {
		for b := range l.queue.All() {
			order = append(order, b.Dependants)
		}
	})
	if !slices.Equal(order, []int{3, 1}) {
		t.Errorf("in the queue are builds that so many wait for: %v", order)
	}
}
