package coordinator

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/machines"
	"lighter/store"
	"lighter/store/derivation"
)

const gib = 1 << 30

// withMemory gives the machines of a farm, in order, so many GiB.
func withMemory(gibs ...int64) func(*Config) {
	return func(c *Config) {
		for i, n := range gibs {
			c.Machines[i].Memory, c.Machines[i].ParallelBuilds = n*gib, 4
		}
	}
}

// wants submits a derivation with an amount of memory, and tokens.
func (f *farm) wants(drv store.Path, memory int64, tokens map[string]int) string {
	f.t.Helper()
	return f.request(api.Request{Derivation: drv, Memory: memory, Tokens: tokens})[0]
}

// request is what an agent was told of the build of a derivation.
func (a *fakeAgent) request(name string) (r *agentapi.BuildRequest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.builds {
		if derivation.NameOf(b.request.Derivation) == name {
			r = b.request
		}
	}
	return r
}

// waits checks that a build waits because of a rule that has such words.
func (f *farm) waits(id, rule, wanted, actual string) {
	f.t.Helper()
	synctest.Wait()
	w := f.why(id)
	if w.Build.State != api.Queued || len(w.Machines) == 0 {
		f.t.Fatalf("it is %s: %+v", w.Build.State, w.Machines)
	}
	if v := w.Machines[0]; v.Rule != rule || v.Wanted != wanted || v.Actual != actual {
		f.t.Errorf("it waits for %+v", v)
	}
}

// TestMemoryIsReserved: two builds that don't fit together don't run together, also after a restart.
func TestMemoryIsReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, withMemory(16), "m1")
		f.ready("m1")
		one := f.wants(f.drv("one", "hold"), 10*gib, nil)
		if got := <-f.agents["m1"].held; got != "one" {
			t.Fatal(got)
		}
		two := f.wants(f.drv("two", ""), 10*gib, nil)
		f.awaitState(f.submit(f.drv("small", ""))[0], api.Succeeded)
		f.waits(two, "memory", "10.0 GiB", "6.00 GiB of 16.0 GiB left")
		if w := f.why(two); w.MemoryReason != "10.0 GiB reserved: it was asked for" {
			t.Errorf("why: %s", w.MemoryReason)
		}
		if s := f.statusOf("m1"); s.Memory != 16*gib || s.ReservedMemory != 10*gib {
			t.Errorf("status: %d of %d", s.ReservedMemory, s.Memory)
		}
		f.crash()
		f.start()
		f.ready("m1")
		f.until("it is taken up", func() bool { return f.statusOf("m1").Running == 1 })
		f.waits(two, "memory", "10.0 GiB", "6.00 GiB of 16.0 GiB left")
		f.agents["m1"].release("one")
		if b := f.awaitState(one, api.Succeeded); b.ReservedMemory != 10*gib {
			t.Errorf("%d were reserved", b.ReservedMemory)
		}
		f.awaitState(two, api.Succeeded)
		f.idle()
	})
}

// TestTooMuchMemory: a build that asks for more than any machine has waits for one, and says so.
func TestTooMuchMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, file, all := reloadable(t, 1, "m1", "m2")
		all[0].Memory, all[1].Memory = 8*gib, 32*gib
		file.set(nil, all[0])
		f.reload()
		f.ready("m1")
		id := f.wants(f.drv("large", ""), 20*gib, nil)
		f.await(id, func(b *api.Build) bool {
			return b.Reason == "no machine can take it: m1: memory: 8.00 GiB in all; the build needs 20.0 GiB"
		})
		file.set(nil, all...)
		f.reload()
		if b := f.awaitState(id, api.Succeeded); b.Machine != "m2" {
			t.Errorf("built on %s", b.Machine)
		}
		f.idle()
	})
}

// TestReloadedMemory: a machine's memory changes while builds run and wait.
func TestReloadedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, file, all := reloadable(t, 1, "m1")
		all[0].Memory = 8 * gib
		file.set(nil, all[0])
		f.reload()
		f.ready("m1")
		one := f.wants(f.drv("one", "hold"), 5*gib, nil)
		<-f.agents["m1"].held
		two := f.wants(f.drv("two", ""), 5*gib, nil)
		f.waits(two, "memory", "5.00 GiB", "3.00 GiB of 8.00 GiB left")
		all[0].Memory = machines.MemoryUnlimited
		file.set(nil, all[0])
		f.reload()
		f.awaitState(two, api.Succeeded)
		if s := f.statusOf("m1"); s.Memory != 0 {
			t.Errorf("%d bytes are counted", s.Memory)
		}
		f.agents["m1"].release("one")
		f.awaitState(one, api.Succeeded)
		f.idle()
	})
}

// TestMemoryOfMachine: what a machine says counts where its entry says nothing, less its own part.
func TestMemoryOfMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		f.agents["m1"].set(func(a *fakeAgent) { a.info = func(m *agentapi.Machine) { m.Hardware.Memory = 16 * gib } })
		f.ready("m1")
		f.machine("m1").peer.Poke()
		f.until("its memory is known", func() bool { return f.statusOf("m1").Memory == 15*gib })
		one := f.wants(f.drv("one", "hold"), 10*gib, nil)
		<-f.agents["m1"].held
		two := f.wants(f.drv("two", ""), 10*gib, nil)
		f.waits(two, "memory", "10.0 GiB", "5.00 GiB of 15.0 GiB left")
		f.agents["m1"].release("one")
		f.awaitState(one, api.Succeeded)
		f.awaitState(two, api.Succeeded)
		f.idle()
	})
}

// TestShortOfMemory has builds that need more memory than they get: they are tried with twice as much, where there
// is a machine that has it, and their package is remembered so.
func TestShortOfMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) {
			withMemory(4, 32)(c)
			c.Machines[0].Speed, c.Machines[0].MemoryLimit, c.Machines[1].MemoryLimit = 100, gib, gib
		}, "small", "big")
		f.ready("small", "big")
		b := f.awaitState(f.submit(f.drv("thing-1", "needs=5"))[0], api.Succeeded)
		if b.Attempt < 3 || b.Machine != "big" || b.ReservedMemory < 5*gib { // what its package teaches by then may be more than twice
			t.Errorf("attempt %d on %s with %d bytes: %s", b.Attempt, b.Machine, b.ReservedMemory, f.history(b.ID))
		}
		f.idle()
		if b = f.awaitState(f.submit(f.drv("thing-2", "needs=5"))[0], api.Succeeded); b.Attempt != 1 || b.Machine != "big" {
			t.Errorf("another version: attempt %d on %s with %d bytes", b.Attempt, b.Machine, b.ReservedMemory)
		}
		b = f.awaitState(f.submit(f.drv("huge", "needs=100"))[0], api.Failed)
		if b.Machine != "big" || !strings.Contains(b.Failure.Message, "; it had 32.0 GiB, and no machine that may build it has more") {
			t.Errorf("on %s: %s", b.Machine, b.Failure.Message)
		}
		f.idle()
	})
}

// TestTokens: a build waits for what is scarce, by a feature and by its request.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) {
			c.Machines[0].ParallelBuilds, c.Machines[0].Tokens = 4, map[string]int{"gpu": 1, "licence": 1}
		}, "m1")
		f.ready("m1")
		one := f.submit(f.derive(&derivation.Derivation{
			System: "x86_64-linux", Env: []derivation.EnvVar{{Name: "requiredSystemFeatures", Value: "gpu"}},
		}, "one", "hold"))[0]
		<-f.agents["m1"].held
		two := f.wants(f.drv("two", "hold"), 0, map[string]int{"licence": 1})
		<-f.agents["m1"].held
		three := f.wants(f.drv("three", ""), 0, map[string]int{"gpu": 1, "licence": 1})
		f.awaitState(f.submit(f.drv("other", ""))[0], api.Succeeded)
		f.waits(three, "tokens", "1 gpu, 1 licence", "0 of 1 gpu left, 0 of 1 licence left")
		if s := f.statusOf("m1"); s.TakenTokens["gpu"] != 1 || s.TakenTokens["licence"] != 1 || !slices.Contains(s.Features, "gpu") {
			t.Errorf("status: %+v", s)
		}
		f.agents["m1"].release("one")
		f.awaitState(one, api.Succeeded)
		f.waits(three, "tokens", "1 gpu, 1 licence", "1 of 1 gpu left, 0 of 1 licence left")
		f.agents["m1"].release("two")
		f.awaitState(two, api.Succeeded)
		f.awaitState(three, api.Succeeded)
		never := f.wants(f.drv("never", ""), 0, map[string]int{"gpu": 2})
		f.await(never, func(b *api.Build) bool {
			return b.Reason == "no machine can take it: m1: tokens: 1 of 1 gpu left; the build needs 2 gpu"
		})
		if _, _, err := f.c.Cancel(t.Context(), []string{never}, ""); err != nil {
			t.Fatal(err)
		}
		f.idle()
	})
}

// TestAutoCores: a build gets its part of the cores.
func TestAutoCores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) {
			c.Machines[0].ParallelBuilds, c.Machines[0].BuildCores = 3, machines.BuildCoresAuto
		}, "m1")
		f.agents["m1"].set(func(a *fakeAgent) { a.info = func(m *agentapi.Machine) { m.Cores = 12 } })
		f.ready("m1")
		f.machine("m1").peer.Poke()
		f.until("its cores are known", func() bool { return f.statusOf("m1").Cores == 12 })
		var ids []string
		submit := func(names ...string) {
			var drvs []store.Path
			for _, name := range names {
				drvs = append(drvs, f.drv(name, "hold"))
			}
			ids = append(ids, f.submit(drvs...)...)
		}
		check := func(name string, want int) {
			t.Helper()
			synctest.Wait()
			if r := f.agents["m1"].request(name); r == nil || r.Cores != want {
				t.Errorf("%s: %+v, want %d cores", name, r, want)
			}
		}
		submit("alone")
		<-f.agents["m1"].held
		check("alone", 12)
		submit("second")
		<-f.agents["m1"].held
		check("second", 6)
		f.agents["m1"].release("alone")
		f.awaitState(ids[0], api.Succeeded)
		submit("third", "fourth", "fifth")
		<-f.agents["m1"].held
		<-f.agents["m1"].held
		check("third", 4)
		check("fourth", 4)
		for i, name := range []string{"second", "third", "fourth", "fifth"} {
			f.agents["m1"].release(name)
			f.awaitState(ids[i+1], api.Succeeded)
		}
		f.idle()
	})
}

// TestHostMemory: what is reserved through one entry of a host is taken from the other's.
func TestHostMemory(t *testing.T) {
	counts := func(f *farm) {
		for i := range f.config.Machines {
			f.config.Machines[i].Memory, f.config.Machines[i].ParallelBuilds = 16*gib, 4
		}
	}
	eachAddress(t, counts, func(t *testing.T, f *farm) {
		on := func(name string) *derivation.Derivation {
			return &derivation.Derivation{System: "x86_64-linux", Env: []derivation.EnvVar{{Name: "requiredSystemFeatures", Value: "on-" + name}}}
		}
		first := f.wants(f.derive(on("one"), "first", "hold"), 10*gib, nil)
		<-f.agents["one"].held
		second := f.wants(f.derive(on("two"), "second", ""), 10*gib, nil)
		synctest.Wait()
		w := f.why(second)
		if i := slices.IndexFunc(w.Machines, func(v api.MachineVerdict) bool { return v.Machine == "two" }); w.Machines[i].Rule != "memory" {
			t.Errorf("it waits for %+v", w.Machines[i])
		}
		f.agents["one"].release("first")
		f.awaitState(first, api.Succeeded)
		f.awaitState(second, api.Succeeded)
	})
}

// TestMemoryJoins: a build that waits needs what another request for it asks for.
func TestMemoryJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) { withMemory(16)(c); c.Machines[0].ParallelBuilds = 1 }, "m1")
		f.ready("m1")
		one := f.wants(f.drv("one", "hold"), 10*gib, nil)
		<-f.agents["m1"].held
		drv := f.drv("two", "")
		ids := []string{f.submit(drv)[0], f.wants(drv, 12*gib, nil)}
		synctest.Wait()
		if w := f.why(ids[0]); w.Memory != 12*gib {
			t.Errorf("%d are reserved", w.Memory)
		}
		var queued int64
		if err := f.c.do(t.Context(), func(l *loop) {
			for b := range l.queue.All() {
				queued = b.Memory
			}
		}); err != nil || queued != 12*gib {
			t.Errorf("the queue has %d, %v", queued, err)
		}
		f.agents["m1"].release("one")
		for _, id := range append(ids, one) {
			f.awaitState(id, api.Succeeded)
		}
		f.idle()
	})
}
