package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/machines"
	"lighter/store"
	"lighter/store/derivation"
)

// listed is a machines file in memory.
type listed struct {
	mu   sync.Mutex
	list []machines.Machine
	err  error
}

func (l *listed) load(context.Context) ([]machines.Machine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list), l.err
}

func (l *listed) set(err error, list ...machines.Machine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list, l.err = list, err
}

// reloadable starts a farm of which the first machines stand in the file at first.
func reloadable(t *testing.T, at int, names ...string) (*farm, *listed, []machines.Machine) {
	t.Helper()
	var l listed
	f := newFarm(t, func(c *Config) { c.Machines = nil }, names...)
	all := unstarted(t, names...).config.Machines
	l.set(nil, all[:at]...)
	f.shutDown()
	f.config.LoadMachines = l.load
	f.config.Machines = all[:at]
	f.start()
	return f, &l, all
}

func (f *farm) reload() *api.Reloaded {
	f.t.Helper()
	became, err := f.c.Reload(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return became
}

// statusOf returns how a machine stands; the state is empty if there is none.
func (f *farm) statusOf(name string) (s api.MachineStatus) {
	f.t.Helper()
	if err := f.c.do(f.t.Context(), func(l *loop) {
		if m := l.byName[name]; m != nil {
			s = m.status()
		}
	}); err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *farm) why(id string) *api.Why {
	f.t.Helper()
	var why *api.Why
	if err := f.c.do(f.t.Context(), func(l *loop) {
		if lb := l.builds[id]; lb != nil {
			why = lb.task.why(l, lb)
		}
	}); err != nil {
		f.t.Fatal(err)
	}
	if why == nil {
		f.t.Fatalf("build %s is over", id)
	}
	return why
}

func TestReloadAddsMachine(t *testing.T) {
	f, l, all := reloadable(t, 1, "m1", "m2")
	d := f.drv("one", "hold")
	full := []string{f.submit(d)[0], f.submit(f.drv("two", "hold"))[0]}
	for _, id := range full {
		f.awaitState(id, api.Building)
	}
	third := f.submit(f.drv("three", ""))[0]
	f.await(third, func(b *api.Build) bool { return b.State == api.Queued })
	l.set(nil, all...)
	if diff := cmp.Diff(&api.Reloaded{Added: []string{"m2"}}, f.reload()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b := f.awaitState(third, api.Succeeded); b.Machine != "m2" {
		t.Errorf("built on %s", b.Machine)
	}
	f.releaseAll("one", "two")
	for _, id := range full {
		f.awaitState(id, api.Succeeded)
	}
	f.idle()
}

// TestReloadChangesInPlace shows that what does not concern the way to a machine holds for
// builds that wait, and leaves alone what runs.
func TestReloadChangesInPlace(t *testing.T) {
	f, l, all := reloadable(t, 1, "m1")
	one := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(one, api.Building)
	impossible := f.submit(f.feature("special", "kvm"))[0]
	f.await(impossible, func(b *api.Build) bool { return strings.HasPrefix(b.Reason, "no machine can take it") })
	changed := all[0]
	changed.Features = append(slices.Clone(changed.Features), "kvm")
	changed.ParallelBuilds, changed.Tags, changed.ParallelTransfers = 5, map[string]string{"rack": "3"}, 7
	l.set(nil, changed)
	if diff := cmp.Diff(&api.Reloaded{Changed: []string{"m1"}}, f.reload()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.awaitState(impossible, api.Succeeded)
	s := f.statusOf("m1")
	if s.ParallelBuilds != 5 || s.Tags["rack"] != "3" || s.ParallelTransfers != 7 || s.Running != 1 {
		t.Errorf("got %+v", s)
	}
	if diff := cmp.Diff(&api.Reloaded{}, f.reload()); diff != "" {
		t.Errorf("the same again: (-want +got):\n%s", diff)
	}
	f.releaseAll("one")
	if b := f.awaitState(one, api.Succeeded); b.Attempt != 1 {
		t.Errorf("it took %d attempts", b.Attempt)
	}
	// And back: what waits is told that nobody can take it any more.
	l.set(nil, all[0])
	f.reload()
	again := f.submit(f.feature("special2", "kvm"))[0]
	f.await(again, func(b *api.Build) bool { return strings.HasPrefix(b.Reason, "no machine can take it") })
	f.cancel(again)
	f.idle()
}

// TestReloadRemovesMachine has a machine leave that runs a build and keeps what another
// needs.
func TestReloadRemovesMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, l, all := reloadable(t, 1, "m1", "m2")
		base := f.drv("base", "")
		other := f.drv("other", "hold")
		top := f.submit(f.drv("top", "", base, other))[0]
		f.awaitChild(base, api.Succeeded)
		running := f.awaitChild(other, api.Building)
		l.set(nil, all[1])
		if diff := cmp.Diff(&api.Reloaded{Added: []string{"m2"}, Removed: []string{"m1"}}, f.reload()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if s := f.statusOf("m1"); !s.Removed || s.Running != 1 {
			t.Errorf("got %+v, want it to be removed once its build is done", s)
		}
		// What it keeps comes home meanwhile, and new builds go elsewhere.
		f.until("the output is at home", func() bool { return f.valid(f.output(base)) })
		if b := f.awaitState(f.submit(f.drv("new", ""))[0], api.Succeeded); b.Machine != "m2" {
			t.Errorf("a new build went to %s", b.Machine)
		}
		f.releaseAll("other")
		if b := f.awaitState(running.ID, api.Succeeded); b.Attempt != 1 || b.Machine != "m1" {
			t.Errorf("the running build ended on %s after %d attempts", b.Machine, b.Attempt)
		}
		if b := f.awaitState(top, api.Succeeded); b.Machine != "m2" {
			t.Errorf("built on %s", b.Machine)
		}
		f.until("the machine is gone", func() bool { return f.statusOf("m1").Name == "" })
		if n := f.agents["m1"].count("base") + f.agents["m2"].count("base"); n != 1 {
			t.Errorf("what it kept was built %d times", n)
		}
		f.idle()
	})
}

// TestReloadRemovesDownMachine shows that a machine which cannot be reached goes too.
func TestReloadRemovesDownMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, l, all := reloadable(t, 2, "m1", "m2")
		f.shutDown()
		f.config.Limits.MachineLostAfter = 100 * time.Millisecond
		f.start()
		id := f.submit(f.drv("one", "hold"))[0]
		b := f.awaitState(id, api.Building)
		f.agents[b.Machine].cutLink(true)
		rest := slices.DeleteFunc(slices.Clone(all), func(m machines.Machine) bool { return m.Name == b.Machine })
		l.set(nil, rest...)
		f.reload()
		f.releaseAll("one")
		if got := f.awaitState(id, api.Succeeded); got.Machine != rest[0].Name {
			t.Errorf("built on %s", got.Machine)
		}
		f.until("the machine is gone", func() bool { return f.statusOf(b.Machine).Name == "" })
		f.agents[b.Machine].restart() // nobody will tell it to forget
		f.idle()
	})
}

// TestReloadReturns shows that a machine that is removed and comes back at once just stays.
func TestReloadReturns(t *testing.T) {
	f, l, all := reloadable(t, 1, "m1")
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	l.set(nil)
	f.reload()
	waiting := f.submit(f.drv("two", ""))[0]
	f.await(waiting, func(b *api.Build) bool { return b.Reason == "no machine can take it: none builds for x86_64-linux" })
	l.set(nil, all[0])
	if diff := cmp.Diff(&api.Reloaded{Changed: []string{"m1"}}, f.reload()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.awaitState(waiting, api.Succeeded)
	f.releaseAll("one")
	if b := f.awaitState(id, api.Succeeded); b.Attempt != 1 {
		t.Errorf("it took %d attempts", b.Attempt)
	}
	f.idle()
}

// TestReloadAnotherWay has a machine's address change while it builds: the build ends, what it
// keeps comes home, and then the new agent is used.
func TestReloadAnotherWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, l, all := reloadable(t, 1, "m1", "m2")
		f.shutDown()
		f.config.NewAgent = func(m machines.Machine) peer.Agent {
			if m.Host == "new" {
				return f.agents["m2"]
			}
			return f.agents["m1"]
		}
		f.start()
		base := f.drv("base", "")
		other := f.drv("other", "hold")
		top := f.submit(f.drv("top", "", base, other))[0]
		f.awaitChild(base, api.Succeeded)
		running := f.awaitChild(other, api.Building)
		moved := all[0]
		moved.Host = "new"
		l.set(nil, moved)
		f.reload()
		late := f.submit(f.drv("late", ""))[0]
		f.until("why says so", func() bool {
			w := f.why(late)
			return len(w.Machines) == 1 && strings.Contains(w.Machines[0].Actual, "once its builds are done")
		})
		f.releaseAll("other")
		if b := f.awaitState(running.ID, api.Succeeded); b.Attempt != 1 {
			t.Errorf("it took %d attempts", b.Attempt)
		}
		f.awaitState(top, api.Succeeded)
		f.awaitState(late, api.Succeeded)
		if old, n := f.agents["m1"], f.agents["m2"]; old.count("base") != 1 || old.count("other") != 1 || n.count("top") != 1 || n.count("late") != 1 || n.count("base") != 0 {
			t.Errorf("built there and here: base %d %d, top %d %d", old.count("base"), n.count("base"), old.count("top"), n.count("top"))
		}
		f.idle()
	})
}

// TestReloadRepairsWay has a machine down whose address a person mends: the build that runs
// there goes on.
func TestReloadRepairsWay(t *testing.T) {
	f, l, all := reloadable(t, 1, "m1")
	var mu sync.Mutex
	broken := false
	f.shutDown()
	f.config.NewAgent = func(m machines.Machine) peer.Agent {
		if m.Host == "new" {
			return f.agents["m1"]
		}
		return &unreachable{fakeAgent: f.agents["m1"], broken: func() bool { mu.Lock(); defer mu.Unlock(); return broken }}
	}
	f.start()
	kept := f.drv("kept", "")
	slow := f.drv("slow", "log=one hold log=two")
	top := f.submit(f.drv("top", "", kept, slow))[0]
	f.awaitChild(kept, api.Succeeded)
	b := f.awaitChild(slow, api.Building)
	<-f.agents["m1"].held
	mu.Lock()
	broken = true
	mu.Unlock()
	f.agents["m1"].cutLink(false)
	f.until("it is down", func() bool { return f.statusOf("m1").State == api.MachineDown })
	moved := all[0]
	moved.Host = "new"
	l.set(nil, moved)
	f.reload()
	f.await(b.ID, func(b *api.Build) bool { return strings.Contains(f.history(b.ID), "reached another way") })
	f.releaseAll("slow")
	f.awaitState(top, api.Succeeded)
	for _, name := range []string{"kept", "slow", "top"} {
		if n := f.agents["m1"].count(name); n != 1 {
			t.Errorf("%s was built %d times", name, n)
		}
	}
	done := f.awaitState(b.ID, api.Succeeded)
	var log strings.Builder
	if err := f.c.WriteLog(t.Context(), &log, done); err != nil || log.String() != "one\ntwo\n" || done.Attempt != 1 {
		t.Errorf("attempt %d, log %q, %v", done.Attempt, log.String(), err)
	}
	f.idle()
}

// TestReloadRefused shows that nothing of a bad file is used.
func TestReloadRefused(t *testing.T) {
	f, l, all := reloadable(t, 1, "m1", "m2", "m3")
	for _, tt := range []struct {
		name string
		err  error
		list []machines.Machine
		want string
	}{
		{"unreadable", errors.New("line 3: what is this"), nil, "the machines in use stay as they are: line 3: what is this"},
		{"twice", nil, []machines.Machine{all[1], all[1]}, "the machines in use stay as they are: machine m2 appears twice"},
		{"no link", nil, []machines.Machine{all[1], all[2]}, "the machines in use stay as they are: machine m3: no key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "no link" {
				f.shutDown()
				f.config.NewLink = func(m machines.Machine) (peer.Link, error) {
					if m.Name == "m3" {
						return nil, errors.New("no key")
					}
					return noLink{}, nil
				}
				f.start()
			}
			l.set(tt.err, tt.list...)
			_, err := f.c.Reload(t.Context())
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v", err)
			}
			s, err := f.c.Status(t.Context())
			if err != nil || len(s.Machines) != 1 || s.Machines[0].Removed || !strings.HasSuffix(tt.want, s.MachinesFile.Error) || s.MachinesFile.Error == "" {
				t.Errorf("got %+v, %v", s, err)
			}
		})
	}
	l.set(nil, all[0])
	f.reload()
	if s, err := f.c.Status(t.Context()); err != nil || s.MachinesFile.Error != "" || s.MachinesFile.Read == nil {
		t.Errorf("got %+v, %v", s, err)
	}
}

// TestWatchFile has a real file change, be wrong, vanish, and come back.
func TestWatchFile(t *testing.T) {
	f := unstarted(t, "m1", "m2")
	file := filepath.Join(f.dir, "machines.toml")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	entry := func(name string) string {
		return "[[machine]]\nname = \"" + name + "\"\nsystems = [\"x86_64-linux\"]\nuser = \"me\"\n"
	}
	write(entry("m1"))
	f.config.MachinesFile = file
	f.config.LoadMachines = func(context.Context) ([]machines.Machine, error) { return machines.Load(file) }
	f.config.Limits.WatchInterval = time.Millisecond
	var err error
	if f.config.Machines, err = machines.Load(file); err != nil {
		t.Fatal(err)
	}
	f.start()
	t.Cleanup(f.shutDown)
	names := func() string {
		s, err := f.c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range s.Machines {
			names = append(names, m.Name)
		}
		return strings.Join(names, " ") + "; " + s.MachinesFile.Error
	}
	write(entry("m1") + entry("m2"))
	f.until("the new machine is there", func() bool { return names() == "m1 m2; " })
	write(entry("m1") + "nonsense = \n")
	f.until("the error shows", func() bool { return strings.HasPrefix(names(), "m1 m2; ") && strings.Contains(names(), "nonsense") })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	f.until("it is gone", func() bool { return strings.HasPrefix(names(), "m1 m2; it is no longer there") })
	write(entry("m2"))
	f.until("it is used again", func() bool { return names() == "m2; " })
	if b := f.awaitState(f.submit(f.drv("one", ""))[0], api.Succeeded); b.Machine != "m2" {
		t.Errorf("built on %s", b.Machine)
	}
	f.idle()
}

// TestRefresh has a file change, and a person ask at once, before the coordinator looks at it.
func TestRefresh(t *testing.T) {
	f := unstarted(t, "m1", "m2")
	file := filepath.Join(f.dir, "machines.toml")
	reads := 0
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	const entry = "[[machine]]\nname = %q\nsystems = [\"x86_64-linux\"]\nuser = \"me\"\n"
	write(fmt.Sprintf(entry, "m1"))
	f.config.MachinesFile = file
	f.config.LoadMachines = func(context.Context) ([]machines.Machine, error) { reads++; return machines.Load(file) }
	f.config.Limits.WatchInterval = time.Hour
	var err error
	if f.config.Machines, err = machines.Load(file); err != nil {
		t.Fatal(err)
	}
	f.start()
	t.Cleanup(f.shutDown)
	write(fmt.Sprintf(entry, "m2"))
	if err := f.c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := reads
	if err := f.c.Refresh(t.Context()); err != nil || reads != before {
		t.Errorf("it is as before: read %d times, %v", reads-before, err)
	}
	list, err := f.c.Machines(t.Context())
	if err != nil || !slices.ContainsFunc(list, func(m api.MachineStatus) bool { return m.Name == "m2" }) {
		t.Errorf("machines %+v, %v", list, err)
	}
	write("nonsense")
	if err := f.c.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a bad file: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := f.c.Refresh(t.Context()); err != nil {
		t.Errorf("no file: %v", err)
	}
	f.idle()
}

// TestRestartWithoutMachine has the machine of a running build vanish from the file while no
// coordinator runs.
func TestRestartWithoutMachine(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	id := f.submit(f.drv("one", "hold"))[0]
	b := f.awaitState(id, api.Building)
	<-f.agents[b.Machine].held
	f.shutDown()
	f.config.Machines = slices.DeleteFunc(f.config.Machines, func(m machines.Machine) bool { return m.Name == b.Machine })
	f.start()
	f.releaseAll("one")
	if got := f.awaitState(id, api.Succeeded); got.Machine == b.Machine || got.Attempt != 2 {
		t.Errorf("attempt %d on %s", got.Attempt, got.Machine)
	}
	f.agents[b.Machine].restart()
	f.idle()
}

// feature adds a derivation that requires a feature.
func (f *farm) feature(name, feature string) store.Path {
	f.t.Helper()
	d := &derivation.Derivation{System: "x86_64-linux", Env: []derivation.EnvVar{{Name: "requiredSystemFeatures", Value: feature}}}
	return f.derive(d, name, "")
}

// TestReloadWithoutLink has a machine's entry change to one that no link can be made for, and
// be mended.
func TestReloadWithoutLink(t *testing.T) {
	f, l, all := reloadable(t, 1, "m1")
	f.shutDown()
	f.config.NewLink = func(m machines.Machine) (peer.Link, error) {
		if m.Host == "bad" {
			return nil, errors.New("no key")
		}
		return noLink{}, nil
	}
	f.start()
	bad := all[0]
	bad.Host = "bad"
	l.set(nil, bad)
	f.reload()
	const want = "it cannot be reached the way the machines file now says: machine m1: no key"
	f.until("its status says so", func() bool { return f.statusOf("m1").Error == want })
	id := f.submit(f.drv("one", ""))[0]
	f.until("why says so", func() bool {
		w := f.why(id)
		return len(w.Machines) == 1 && w.Machines[0].Actual == want
	})
	good := all[0]
	good.Host = "good"
	l.set(nil, good)
	f.reload()
	f.awaitState(id, api.Succeeded)
	f.idle()
}
