package coordinator

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/stage"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
	"lighter/store"
)

// takes has a derivation be known to take a time.
func (f *farm) takes(drv store.Path, d time.Duration) store.Path {
	f.t.Helper()
	n, err := headstore.New(f.head).Node(context.Background(), drv)
	if err != nil {
		f.t.Fatal(err)
	}
	key := n.Key()
	_, err = f.ledger.Apply(context.Background(), []ledger.Change{{Samples: &ledger.Samples{
		Key: key, Samples: []estimate.Sample{{Version: key.Version, Duration: d, Speed: 1, Time: time.Now()}},
	}}}, false)
	if err != nil {
		f.t.Fatal(err)
	}
	return drv
}

// see has a test look into the loop.
func (f *farm) see(look func(l *loop)) {
	f.t.Helper()
	if err := f.c.do(f.t.Context(), look); err != nil {
		f.t.Fatal(err)
	}
}

// TestSlotIsKeptForWhatComesNext has a path of two builds on the fast machine, and less urgent builds that would
// take its other slot in between.
func TestSlotIsKeptForWhatComesNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) { c.Machines[0].Speed = 4 }, "fast", "slow")
		f.ready("fast", "slow")
		first := f.takes(f.drv("first", "hold"), 2*time.Minute)
		second := f.takes(f.drv("second", "hold", first), 20*time.Minute)
		path := f.submit(second)
		f.awaitState(path[0], api.Waiting)
		if on := <-f.agents["fast"].held; on != "first" {
			t.Fatalf("the fast machine builds %s", on)
		}
		var long []string
		for _, name := range []string{"long-1", "long-2", "long-3"} {
			long = append(long, f.submit(f.takes(f.drv(name, "hold"), 10*time.Minute))...)
		}
		on := map[string]bool{<-f.agents["slow"].held: true, <-f.agents["slow"].held: true}
		synctest.Wait()
		if len(on) != 2 || len(f.agents["fast"].held) != 0 {
			t.Errorf("the slow machine builds %v, and the fast one %d besides the first of the path", on, len(f.agents["fast"].held))
		}
		f.agents["fast"].release("first")
		// And the other slot goes to what waited.
		if next := []string{<-f.agents["fast"].held, <-f.agents["fast"].held}; !slices.Contains(next, "second") {
			t.Errorf("the fast machine builds %s next", next)
		}
		for _, name := range []string{"second", "long-1", "long-2", "long-3"} {
			f.agents["fast"].release(name)
			f.agents["slow"].release(name)
		}
		for _, id := range append(path, long...) {
			f.awaitState(id, api.Succeeded)
		}
		f.idle()
	})
}

// TestSlotIsNotKeptForever has the build take far longer than it should, after which the next would be ready.
func TestSlotIsNotKeptForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		f.ready("m1")
		first := f.takes(f.drv("first", "hold"), 50*time.Second)
		path := f.submit(f.takes(f.drv("second", "", first), 20*time.Minute))
		<-f.agents["m1"].held
		long := f.submit(f.takes(f.drv("long", "hold"), 10*time.Minute))
		began := time.Now()
		<-f.agents["m1"].held
		// By then a quarter of the time that it took is more than a minute.
		if waited := time.Since(began); waited < 4*time.Minute || waited > 4*time.Minute+2*soonAgain {
			t.Errorf("the other build waited for %s", waited)
		}
		f.agents["m1"].release("first")
		f.agents["m1"].release("long")
		f.awaitState(path[0], api.Succeeded)
		f.awaitState(long[0], api.Succeeded)
		f.idle()
	})
}

// plugged is a farm of one machine whose slots two builds for hooks hold, "plug-0" and "plug-1".
func plugged(t *testing.T) (f *hookFarm, plugs []*fakeHook) {
	t.Helper()
	f = newHookFarm(t, nil, "m1")
	f.ready("m1")
	for _, name := range []string{"plug-0", "plug-1"} {
		plugs = append(plugs, f.hook(f.drv(name, "hold")))
		<-f.agents["m1"].held
	}
	return f, plugs
}

// queued waits until a task is in the queue with a rank.
func (f *hookFarm) queued(drv store.Path, rank time.Duration) {
	f.t.Helper()
	f.until(drv.Name()+" waits with its rank", func() (ok bool) {
		f.see(func(l *loop) {
			t := l.tasks[drv]
			ok = t != nil && t.stage == stage.Queued && t.rank.Round(time.Second) == rank
		})
		return ok
	})
}

// TestHookLongestPathFirst has guix-daemon ask for a short path first, and then for the first build of a long one.
func TestHookLongestPathFirst(t *testing.T) {
	f, plugs := plugged(t)
	short := f.takes(f.drv("short", "hold"), 20*time.Minute)
	base := f.takes(f.drv("base", "hold"), time.Minute)
	middle := f.takes(f.drv("middle", "", base), 10*time.Minute)
	f.takes(f.drv("top", "", middle), 15*time.Minute)

	hooks := append(plugs, f.hook(short))
	f.queued(short, 20*time.Minute)
	hooks = append(hooks, f.hook(base))
	f.queued(base, 26*time.Minute)
	for i, want := range []string{"base", "short"} {
		f.agents["m1"].release(plugs[i].order.Derivation.Name()[:len("plug-0")])
		if got := <-f.agents["m1"].held; got != want {
			t.Errorf("%s was begun, want %s", got, want)
		}
	}
	f.agents["m1"].release("base")
	f.agents["m1"].release("short")
	for _, h := range hooks {
		h.succeeds()
	}
	f.over()
}

// TestHookSlotIsKept has the outputs of a build be on their way to guix-daemon, which will ask for the next one of
// the longest path when it has them.
func TestHookSlotIsKept(t *testing.T) {
	f, plugs := plugged(t)
	small := f.takes(f.drv("small", "hold"), 5*time.Minute)
	base := f.takes(f.drv("base", "hold"), time.Minute)
	middle := f.takes(f.drv("middle", "hold", base), 10*time.Minute)
	first := f.newHook(base)
	first.receive = func(_ int, archive []byte) hookapi.Receipt {
		_, err := f.head.Import(context.Background(), bytes.NewReader(archive), store.ImportOptions{})
		if err != nil {
			return hookapi.Receipt{Error: err.Error()}
		}
		first.note(func() { first.got[f.output(base)] = true })
		return hookapi.Receipt{}
	}
	first.start()
	hooks := append(plugs, f.hook(small), first)
	f.queued(small, 5*time.Minute)
	f.queued(base, 11*time.Minute)
	f.agents["m1"].release("plug-0")
	if got := <-f.agents["m1"].held; got != "base" {
		t.Fatalf("%s was begun", got)
	}
	f.until("it is known what comes next", func() (known bool) {
		f.see(func(l *loop) { known = l.coming.Len() == 1 })
		return known
	})
	exporting, release := f.holdExport("m1")
	f.agents["m1"].release("base")
	<-exporting
	f.queued(small, 5*time.Minute) // though a slot is free
	f.see(func(l *loop) {
		if l.placing = true; len(l.soon(l.now(), l.schedulerMachines(l.now()))) != 1 {
			t.Error("no slot is kept")
		}
	})
	f.queued(small, 5*time.Minute)
	release()
	hooks[3].succeeds()
	hooks = append(hooks, f.hook(middle))
	if got := <-f.agents["m1"].held; got != "middle" {
		t.Errorf("%s was begun, want the next of the path", got)
	}
	for _, name := range []string{"plug-1", "small", "middle"} {
		f.agents["m1"].release(name)
	}
	for _, h := range hooks {
		h.succeeds()
	}
	f.over()
}
