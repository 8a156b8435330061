package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/store"
)

func (f *farm) releaseAll(names ...string) {
	for _, a := range f.agents {
		for _, name := range names {
			a.release(name)
		}
	}
}

func TestRestartTakesUpWhatGoesOn(t *testing.T) {
	for _, how := range []string{"stop", "crash"} {
		t.Run(how, func(t *testing.T) {
			f := newFarm(t, nil, "m1", "m2")
			base := f.drv("base", "")
			top := f.drv("top", "log=before hold log=after", base)
			last := f.drv("last", "", top)
			id := f.submit(last)[0]
			child := f.awaitChild(top, api.Building)
			<-f.agents[child.Machine].held
			if how == "crash" {
				f.crash()
			} else {
				f.shutDown()
			}
			f.start()
			f.await(child.ID, func(*api.Build) bool { return strings.Contains(f.history(child.ID), "takes it up again") })
			f.releaseAll("top")
			b := f.awaitState(child.ID, api.Succeeded)
			if b.Attempt != 1 {
				t.Errorf("it took %d attempts", b.Attempt)
			}
			f.awaitState(id, api.Succeeded)
			for _, name := range []string{"base", "top", "last"} {
				if n := f.agents["m1"].count(name) + f.agents["m2"].count(name); n != 1 {
					t.Errorf("%s was built %d times", name, n)
				}
			}
			f.idle()
		})
	}
}

func TestRestartFinishesWhatIsDone(t *testing.T) {
	f := newFarm(t, nil, "m1")
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	f.shutDown()
	f.agents["m1"].release("one")
	f.start()
	if b := f.awaitState(id, api.Succeeded); b.Attempt != 1 || f.agents["m1"].count("one") != 1 {
		t.Errorf("attempt %d, built %d times", b.Attempt, f.agents["m1"].count("one"))
	}
	f.idle()
}

func TestRestartWithLostAgent(t *testing.T) {
	f := newFarm(t, nil, "m1")
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	f.shutDown()
	f.agents["m1"].restart()
	f.agents["m1"].release("one")
	f.start()
	if b := f.awaitState(id, api.Succeeded); b.Attempt != 2 {
		t.Errorf("attempt %d, want 2", b.Attempt)
	}
	f.idle()
}

func TestRestartWithoutTheMachine(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	id := f.submit(f.drv("one", "hold"))[0]
	b := f.awaitState(id, api.Building)
	f.shutDown()
	f.config.Machines = slices.DeleteFunc(f.config.Machines, func(m machineEntry) bool { return m.Name == b.Machine })
	f.releaseAll("one")
	f.start()
	if after := f.awaitState(id, api.Succeeded); after.Machine == b.Machine {
		t.Errorf("built on %s, which is no longer in the file", after.Machine)
	}
}

func TestForeignBuildsAreLeftAlone(t *testing.T) {
	f := newFarm(t, nil, "m1")
	g := &farm{t: t, dir: t.TempDir(), head: f.head, acl: f.acl, agents: f.agents, config: f.config, hasher: f.hasher}
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	g.start() // another coordinator, with another ledger, uses the same agent
	defer g.shutDown()
	g.awaitState(g.submit(f.drv("two", ""))[0], api.Succeeded)
	f.agents["m1"].release("one")
	f.awaitState(id, api.Succeeded)
}

// TestCrashLoop crashes the coordinator at random points of a graph's life, and
// starts it again, until all is built.
func TestCrashLoop(t *testing.T) {
	for _, way := range []string{"calls", "http"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashLoop(t, way == "http") })
		})
	}
}

func crashLoop(t *testing.T, http bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f := newFarm(t, nil, "m1", "m2", "m3")
	if http {
		f.shutDown()
		overHTTP(f)(&f.config)
		f.start()
	}
	var drvs, wanted []store.Path
	for i := range 60 {
		script := "log=x"
		if i%13 == 12 {
			script = "fail"
		}
		var inputs []store.Path
		for range random.IntN(3) {
			if len(drvs) > 0 {
				in := drvs[random.IntN(len(drvs))]
				if !slices.Contains(inputs, in) {
					inputs = append(inputs, in)
				}
			}
		}
		drv := f.drv(fmt.Sprintf("d%02d", i), script, inputs...)
		drvs = append(drvs, drv)
		if random.IntN(2) == 0 {
			wanted = append(wanted, drv)
		}
	}
	ids := f.submit(wanted...)
	for crashes := range 25 {
		events := uint64(1 + random.IntN(60))
		f.awaitEvents(f.ledger.LastEvent()+events, 100*time.Millisecond)
		f.crash()
		if crashes%5 == 4 {
			f.agents["m1"].restart()
		}
		f.start()
	}
	for i, id := range ids {
		b := f.awaitFinal(id)
		want := api.Succeeded
		if f.dooms(wanted[i]) {
			want = f.endOf(wanted[i])
		}
		if b.State != want {
			t.Errorf("%s is %s (%v), want %s\n%s", b.Derivation.Name(), b.State, b.Failure, want, f.history(id))
		}
		if want == api.Succeeded && !f.valid(f.output(b.Derivation)) {
			t.Errorf("%s is not at home", b.Derivation.Name())
		}
	}
	f.idle()
	for _, a := range f.agents {
		for attempt, n := range a.started {
			if n != 1 {
				t.Errorf("%s started %s %d times", a.name, attempt, n)
			}
		}
	}
	f.allFinal()
}

// allFinal checks that the ledger has no build that is not final.
func (f *farm) allFinal() {
	f.t.Helper()
	for b, err := range f.ledger.Builds(f.t.Context(), ledger.Filter{Filter: api.Filter{States: ledger.NonFinal()}}) {
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Errorf("build %s of %s is %s for ever", b.ID, b.Derivation.Name(), b.State)
	}
}

// awaitEvents waits until the ledger has so many events, or a time is over: then the
// builds are done, or the machines hold them.
func (f *farm) awaitEvents(n uint64, limit time.Duration) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), limit)
	defer cancel()
	enough := errors.New("enough")
	err := f.ledger.Events(ctx, n, true, func(api.Event) error { return enough })
	if !errors.Is(err, enough) && !errors.Is(err, context.DeadlineExceeded) {
		f.t.Fatal(err)
	}
}

// dooms reports whether a derivation fails, or something that it needs does.
func (f *farm) dooms(drv store.Path) bool {
	n, err := headstore.New(f.head).Node(f.t.Context(), drv)
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := headstore.New(f.head).Text(f.t.Context(), drv)
	if err != nil {
		f.t.Fatal(err)
	}
	if strings.Contains(string(text), `("script","fail")`) {
		return true
	}
	return slices.ContainsFunc(n.Inputs, f.dooms)
}

// endOf is how a derivation that is doomed ends: itself, or because of what it needs.
func (f *farm) endOf(drv store.Path) api.State {
	n, err := headstore.New(f.head).Node(f.t.Context(), drv)
	if err != nil {
		f.t.Fatal(err)
	}
	if slices.ContainsFunc(n.Inputs, f.dooms) {
		return api.DependencyFailed
	}
	return api.Failed
}
