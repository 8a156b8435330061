package coordinator

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/store/derivation"
)

// TestAllMachinesUnable ends a build once each machine has said that it can't build it.
func TestAllMachinesUnable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) { c.Limits.AttemptDelay = time.Minute }, "m1", "m2", "m3")
		f.ready("m1", "m2", "m3")
		begun := time.Now()
		b := f.awaitState(f.submit(f.drv("one", "unable"))[0], api.Failed)
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it took %s", took)
		}
		names := []string{"m1", "m2", "m3"}
		for _, name := range names {
			if n := f.agents[name].count("one"); n != 1 {
				t.Errorf("%s was asked %d times", name, n)
			}
			if !strings.Contains(b.Failure.Message, name) {
				t.Errorf("%s is missing in %q", name, b.Failure.Message)
			}
		}
		if f := b.Failure; f.Kind != api.KindUnable || f.Final() || !strings.HasPrefix(f.Message, "no machine can build it: ") || strings.Count(f.Message, "no /bin/sh here") != 1 {
			t.Errorf("got %+v", f)
		}
		if b.Attempt != 3 {
			t.Errorf("%d attempts", b.Attempt)
		}
		// None of them rests for that.
		for i := range 2 * conduct.RestAfter {
			f.awaitState(f.submit(f.drv("unable"+string(rune('a'+i)), "unable"))[0], api.Failed)
		}
		if b := f.awaitState(f.submit(f.drv("good", ""))[0], api.Succeeded); b.Attempt != 1 {
			t.Errorf("%d attempts at a good build", b.Attempt)
		}
		f.idle()
	})
}

// TestOneMachineUnable has machines that can't build it left alone, however often the others are
// tried.
func TestOneMachineUnable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, faster("m1"), "m1", "m2")
		f.ready("m1", "m2")
		b := f.awaitState(f.submit(f.drv("elsewhere", "unable=m1"))[0], api.Succeeded)
		if b.Machine != "m2" || b.Attempt != 2 {
			t.Errorf("built on %s, attempt %d", b.Machine, b.Attempt)
		}
		if h := f.history(b.ID); !strings.Contains(h, "tried again elsewhere: m1: no /bin/sh here") {
			t.Errorf("its history does not say why:\n%s", h)
		}
		f.awaitState(f.submit(f.drv("nowhere", "unable=m1 machine=m2"))[0], api.Failed)
		if n := f.agents["m1"].count("nowhere"); n != 1 {
			t.Errorf("the machine that can't was asked %d times", n)
		}
		if n := f.agents["m2"].count("nowhere"); n != f.c.limits.MaxAttempts {
			t.Errorf("the other machine was tried %d times", n)
		}
		f.idle()
	})
}

// TestCheckUnable ends a check once each machine has said that it can't build the derivation.
func TestCheckUnable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1", "m2", "m3")
		b := f.awaitState(f.checkBuild(api.Request{Derivation: f.drv("one", "unable=m3 unable=m2"), Check: 2}), api.Failed)
		if b.Failure.Kind != api.KindUnable {
			t.Errorf("got %+v", b.Failure)
		}
		for _, name := range []string{"m2", "m3"} {
			if n := f.agents[name].count("one"); n > 2 {
				t.Errorf("%s was asked %d times", name, n)
			}
		}
		f.idle()
	})
}

// TestForeignSystem gives a machine nothing for systems that only its entry names.
func TestForeignSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) {
			for i := range c.Machines {
				c.Machines[i].Systems = []string{"x86_64-linux", "aarch64-linux"}
			}
		}, "m1", "m2")
		f.agents["m2"].set(func(a *fakeAgent) {
			a.info = func(m *agentapi.Machine) { m.Emulated = []string{"aarch64-linux"} }
		})
		f.ready("m1", "m2")
		f.machine("m2").peer.Poke() // it may have been looked at before
		f.until("what it emulates is known", func() bool { return slices.Contains(f.statusOf("m2").Systems, "aarch64-linux") })
		for _, name := range []string{"a", "b", "c"} {
			if b := f.awaitState(f.submit(f.derive(&derivation.Derivation{System: "aarch64-linux"}, name, ""))[0], api.Succeeded); b.Machine != "m2" || b.Attempt != 1 {
				t.Errorf("built on %s, attempt %d", b.Machine, b.Attempt)
			}
		}
		if _, err := f.c.Drain(t.Context(), "m2", "", ""); err != nil {
			t.Fatal(err)
		}
		id := f.submit(f.derive(&derivation.Derivation{System: "aarch64-linux"}, "d", ""))[0]
		b := f.await(id, func(b *api.Build) bool { return b.State == api.Queued })
		synctest.Wait()
		why, err := f.c.Why(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if v := why.Machines[0]; v.Rule != "system" || v.Actual != "the machines file says that it builds for aarch64-linux, but it builds for x86_64-linux" {
			t.Errorf("m1: %+v", v)
		}
		if _, err := f.c.ResumeMachine(t.Context(), "m2", "", ""); err != nil {
			t.Fatal(err)
		}
		f.awaitState(id, api.Succeeded)
		f.idle()
	})
}

// TestForeignSystemWaits says why a build for a system that no machine has waits.
func TestForeignSystemWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) { c.Machines[0].Systems = []string{"x86_64-linux", "aarch64-linux"} }, "m1")
		f.ready("m1")
		id := f.submit(f.derive(&derivation.Derivation{System: "aarch64-linux"}, "one", ""))[0]
		b := f.await(id, func(b *api.Build) bool { return b.Reason != "" && b.State == api.Queued })
		if want := "no machine can take it: m1: the machines file says that it builds for aarch64-linux, but it builds for x86_64-linux"; b.Reason != want {
			t.Errorf("it waits because %q, want %q", b.Reason, want)
		}
	})
}

// TestStarvedIsTriedElsewhere tries a build whose builder was killed, or filled the disk, once more, on
// another machine.
func TestStarvedIsTriedElsewhere(t *testing.T) {
	for word, kind := range map[string]string{"killed": "killed", "full": "disk-full"} {
		t.Run(word, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, faster("m1"), "m1", "m2", "m3")
				f.ready("m1", "m2", "m3")
				b := f.awaitState(f.submit(f.drv("small", word+"=m1"))[0], api.Succeeded)
				if b.Machine == "m1" || b.Attempt != 2 {
					t.Errorf("built on %s, attempt %d", b.Machine, b.Attempt)
				}
				b = f.awaitState(f.submit(f.drv("large", word))[0], api.Failed)
				if b.Attempt != 2 || b.Failure.Kind != kind || !b.Failure.Final() {
					t.Errorf("attempt %d, %+v", b.Attempt, b.Failure)
				}
				for name, agent := range f.agents {
					if n := agent.count("large"); n > 1 {
						t.Errorf("%s tried it %d times", name, n)
					}
				}
				f.idle()
			})
		})
	}
}

// TestKilledIsTriedAlone tries a build whose builder was killed on the only machine once more when
// nothing else is built there.
func TestKilledIsTriedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		f.ready("m1")
		other := f.submit(f.drv("other", "hold"))[0]
		<-f.agents["m1"].held
		id := f.submit(f.drv("large", "killed"))[0]
		f.await(id, func(b *api.Build) bool { return strings.HasPrefix(b.Reason, "tried again") })
		time.Sleep(aloneWait / 2)
		if n := f.agents["m1"].count("large"); n != 1 {
			t.Errorf("it was tried %d times beside another build", n)
		}
		f.agents["m1"].release("other")
		f.awaitState(other, api.Succeeded)
		if b := f.awaitState(id, api.Failed); b.Attempt != 2 {
			t.Errorf("%d attempts", b.Attempt)
		}
		f.idle()
	})
}
