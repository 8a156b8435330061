package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/peer"
	"lighter/internal/hookapi"
	"lighter/machines"
	"lighter/scheduler"
	"lighter/store"
	"lighter/store/derivation"
)

// oneAgent has one agent answer everywhere.
func (f *farm) oneAgent() {
	f.agents["one"].set(func(a *fakeAgent) { a.info = func(m *agentapi.Machine) { m.ID = "the agent of one" } })
	f.config.NewAgent = func(machines.Machine) peer.Agent { return f.agents["one"] }
}

// twins is a farm in which "one" and "two" are entries of one host, and "other" is another. Each takes builds
// that require its name as a feature. Entry "two" has another address, or the same.
func twins(t *testing.T, alias bool) *farm {
	t.Helper()
	f := unstarted(t, "one", "other")
	second := f.config.Machines[0]
	second.Name, second.Features = "two", []string{"on-two"}
	if alias {
		second.Host = "192.0.2.1"
	}
	f.config.Machines = append(f.config.Machines, second)
	f.oneAgent()
	f.config.NewAgent = func(m machines.Machine) peer.Agent {
		if m.Name == "other" {
			return f.agents["other"]
		}
		return f.agents["one"]
	}
	return f
}

// eachAddress runs a test with twins of which the second has the same address as the first, and
// another one. They are known to be one host when it begins.
func eachAddress(t *testing.T, change func(f *farm), test func(t *testing.T, f *farm)) {
	for name, alias := range map[string]bool{"same address": false, "another address": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := twins(t, alias)
				if change != nil {
					change(f)
				}
				f.start()
				t.Cleanup(func() { f.shutDown() })
				f.ready("one", "two", "other")
				if a, b := f.machine("one").host, f.machine("two").host; a != b {
					t.Fatal("they are two hosts")
				}
				test(t, f)
				f.idle()
			})
		})
	}
}

// TestHostChecked: entries of one host are one of those that a check compares.
func TestHostChecked(t *testing.T) {
	eachAddress(t, nil, func(t *testing.T, f *farm) {
		drv := f.drv("checked", "")
		b := f.awaitState(f.request(api.Request{Derivation: drv, Check: 2, Skip: []string{"other"}})[0], api.Failed)
		if want := "--check 2 wants 2 machines, and only 1 can build it (entries of one host count once)"; b.Failure.Message != want {
			t.Errorf("it says %q, want %q", b.Failure.Message, want)
		}
		b = f.awaitState(f.request(api.Request{Derivation: drv, Check: 2})[0], api.Succeeded)
		if f.agents["one"].count("checked") > 2 || f.agents["other"].count("checked") != 1 {
			t.Errorf("it was compared on %+v", b.Results)
		}
	})
}

// TestHostRetried: after a failure a build goes to another host, not to another entry of the same.
func TestHostRetried(t *testing.T) {
	fast := func(f *farm) {
		for _, name := range []string{"one", "two"} {
			faster(name)(&f.config)
		}
	}
	eachAddress(t, fast, func(t *testing.T, f *farm) {
		b := f.awaitState(f.request(api.Request{Derivation: f.drv("fails", "fail=one"), Retries: 1})[0], api.Succeeded)
		if b.Machine != "other" || b.Attempt != 2 {
			t.Errorf("attempt %d succeeded on %s:\n%s", b.Attempt, b.Machine, f.history(b.ID))
		}
	})
}

// TestHostSendsNothing: what was built through one entry is there for builds through another.
func TestHostSendsNothing(t *testing.T) {
	eachAddress(t, nil, func(t *testing.T, f *farm) {
		drv := f.feature("base", "on-one")
		for i, feature := range []string{"on-two", "on-one", "on-two"} {
			d := &derivation.Derivation{System: "x86_64-linux", Env: []derivation.EnvVar{{Name: "requiredSystemFeatures", Value: feature}}}
			drv = f.derive(d, fmt.Sprint("next", i), "", drv)
		}
		if b := f.awaitState(f.submit(drv)[0], api.Succeeded); b.Machine != "two" {
			t.Errorf("it was built on %s", b.Machine)
		}
		a := f.agents["one"]
		a.mu.Lock()
		defer a.mu.Unlock()
		for path := range a.sent {
			if !strings.Contains(path.Name(), "source-of-") && !path.IsDerivation() {
				t.Errorf("%s was sent", path)
			}
		}
	})
}

// TestHostReloaded takes one of two entries out of the file while a build goes on through it.
func TestHostReloaded(t *testing.T) {
	for i, removed := range []string{"one", "two"} {
		t.Run(removed, func(t *testing.T) {
			var file listed
			load := func(f *farm) { f.config.LoadMachines = file.load }
			eachAddress(t, load, func(t *testing.T, f *farm) {
				stays := []string{"two", "one"}[i]
				drv := f.drv("held", "hold")
				id := f.request(api.Request{Derivation: drv, Skip: []string{stays, "other"}})[0]
				if b := f.awaitState(id, api.Building); b.Machine != removed {
					t.Fatalf("it is on %s", b.Machine)
				}
				file.set(nil, slices.DeleteFunc(slices.Clone(f.config.Machines), func(m machines.Machine) bool { return m.Name == removed })...)
				if became := f.reload(); !slices.Equal(became.Removed, []string{removed}) {
					t.Errorf("%+v", became)
				}
				f.until("it is gone", func() bool { return f.statusOf(removed).Name == "" })
				f.ready(stays)
				f.agents["one"].release("held")
				b := f.awaitState(id, api.Succeeded)
				if b.Attempt != 1 || b.Machine != stays || f.agents["one"].count("held") != 1 {
					t.Errorf("attempt %d through %s, built %d times:\n%s", b.Attempt, b.Machine, f.agents["one"].count("held"), f.history(id))
				}
				if b := f.awaitState(f.request(api.Request{Derivation: f.drv("after", ""), Skip: []string{"other"}})[0], api.Succeeded); b.Machine != stays {
					t.Errorf("the next was built on %s", b.Machine)
				}
			})
		})
	}
}

// blocked is an agent that can't be reached by one way.
type blocked struct {
	*fakeAgent
	shut atomic.Bool
}

func (b *blocked) Machine(ctx context.Context) (*agentapi.Machine, error) {
	if b.shut.Load() {
		return nil, errors.New("no route to host")
	}
	return b.fakeAgent.Machine(ctx)
}

// TestHostByAlias has the way break by which a host is reached, while builds go on through both of
// its entries. They go on by the way of the other entry, and the first way serves again later.
func TestHostByAlias(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := twins(t, true)
		ways := make(map[string]*blocked)
		newAgent := f.config.NewAgent
		for _, name := range []string{"one", "two"} {
			ways[name] = &blocked{fakeAgent: f.agents["one"]}
		}
		f.config.NewAgent = func(m machines.Machine) peer.Agent {
			if way := ways[m.Name]; way != nil {
				return way
			}
			return newAgent(m)
		}
		f.start()
		t.Cleanup(func() { f.shutDown() })
		f.ready("one", "two")
		var ids []string
		for _, skip := range []string{"two", "one"} {
			ids = append(ids, f.request(api.Request{Derivation: f.drv("without-"+skip, "hold"), Skip: []string{skip, "other"}})...)
		}
		for _, id := range ids {
			f.awaitState(id, api.Building)
		}
		for _, broken := range []string{"one", "two", "one"} {
			for name, way := range ways {
				way.shut.Store(name == broken)
			}
			f.agents["one"].cutLink(false)
			f.until("the host is reached by the way that is left", func() (there bool) {
				if err := f.c.do(t.Context(), func(l *loop) {
					a, b := l.byName["one"], l.byName["two"]
					there = a.host == b.host && a.state == api.MachineUp && a.route.Host == map[string]string{"one": "192.0.2.1", "two": "one"}[broken]
				}); err != nil {
					t.Fatal(err)
				}
				return there
			})
		}
		f.agents["one"].release("without-one")
		f.agents["one"].release("without-two")
		for _, id := range ids {
			if b := f.awaitState(id, api.Succeeded); b.Attempt != 1 {
				t.Errorf("it succeeded in attempt %d:\n%s", b.Attempt, f.history(id))
			}
		}
		f.idle()
	})
}

// TestHostSlots: a build hook is told of each host's slots once.
func TestHostSlots(t *testing.T) {
	eachAddress(t, nil, func(t *testing.T, f *farm) {
		if err := f.c.do(t.Context(), func(l *loop) {
			for _, m := range l.machines {
				m.setting.Draining = m.Name == "other"
			}
			for i := range delivery.MaxQueuedPerSlot * 2 {
				l.queue.Push(scheduler.Build{ID: fmt.Sprint("waits ", i), System: "mips64el-linux"})
			}
			a, _ := l.answerTo(&hookapi.Question{Derivation: f.drv("asked", ""), System: "x86_64-linux"})
			if want := fmt.Sprintf("%d builds are already waiting", delivery.MaxQueuedPerSlot*2); a.Reason != want {
				t.Errorf("it says %+v, want %s", a, want)
			}
			for i := range delivery.MaxQueuedPerSlot * 2 {
				l.queue.Remove(fmt.Sprint("waits ", i))
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHostTakenUp has builds placed through each of two entries of one host, kills the coordinator,
// or stops it, and changes the file meanwhile. Both builds go on, each in its first attempt.
func TestHostTakenUp(t *testing.T) {
	for _, address := range []string{"one", "192.0.2.1"} {
		for _, end := range []struct {
			name string
			stop func(f *farm)
		}{{"killed", (*farm).crash}, {"stopped", (*farm).shutDown}} {
			for _, file := range []struct {
				name   string
				change func(list []machines.Machine) []machines.Machine
			}{
				{"same", func(list []machines.Machine) []machines.Machine { return list }},
				{"first removed", func(list []machines.Machine) []machines.Machine { return list[1:] }},
				{"second removed", func(list []machines.Machine) []machines.Machine { return list[:1] }},
				{"renamed", func(list []machines.Machine) []machines.Machine {
					renamed := list[1]
					renamed.Name = "another"
					return []machines.Machine{list[0], renamed}
				}},
			} {
				t.Run(address+", "+end.name+", "+file.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						f := unstarted(t, "one")
						second := f.config.Machines[0]
						second.Name, second.Host = "two", address
						f.config.Machines = append(f.config.Machines, second)
						f.oneAgent()
						f.start()
						t.Cleanup(func() { f.shutDown() })
						var drvs []store.Path
						var ids []string
						for _, name := range []string{"one", "two"} {
							drv := f.drv("on-"+name, "hold")
							drvs = append(drvs, drv)
							ids = append(ids, f.request(api.Request{Derivation: drv, Skip: []string{map[string]string{"one": "two", "two": "one"}[name]}})...)
						}
						for i, id := range ids {
							if b := f.awaitState(id, api.Building); b.Machine != []string{"one", "two"}[i] {
								t.Fatalf("build %d is on %s", i, b.Machine)
							}
						}
						end.stop(f)
						f.config.Machines = file.change(f.config.Machines)
						f.start()
						f.until("both are taken up", func() bool {
							n := 0
							if err := f.c.do(t.Context(), func(l *loop) {
								for _, h := range l.hosts {
									n += len(h.attempts)
								}
							}); err != nil {
								t.Fatal(err)
							}
							return n == 2
						})
						f.agents["one"].release("on-one")
						f.agents["one"].release("on-two")
						for i, id := range ids {
							if b := f.awaitState(id, api.Succeeded); file.name == "same" && b.Machine != []string{"one", "two"}[i] {
								t.Errorf("build %d ends on %s", i, b.Machine)
							} else if b.Attempt != 1 {
								t.Errorf("build %d succeeded in attempt %d:\n%s", i, b.Attempt, f.history(id))
							}
							if n := f.agents["one"].count(drvs[i].Name()); n > 1 {
								t.Errorf("it was built %d times", n)
							}
						}
						f.idle()
					})
				})
			}
		}
	}
}
