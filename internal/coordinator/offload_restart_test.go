package coordinator

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/store"
)

func TestOffloadRestart(t *testing.T) {
	for _, how := range []string{"stop", "crash"} {
		for _, when := range []string{"building", "fetching", "building, late"} {
			t.Run(how+" "+when, func(t *testing.T) {
				f := newHookFarm(t, nil, "m1")
				h := f.hook(f.drv("one", "log=x hold log=y"))
				h.awaitLog("x\n")
				release := func() {}
				if when == "fetching" {
					var began <-chan struct{}
					began, release = f.holdExport("m1")
					f.releaseAll("one")
					<-began
				}
				f.restart(how)
				<-h.over
				switch when {
				case "building, late":
					f.releaseAll("one")
					f.await(h.order.ID, func(b *api.Build) bool { return strings.Contains(b.Reason, "hook to come back") })
				case "fetching":
					release()
				}
				h.start()
				f.releaseAll("one")
				b := h.succeeds()
				if h.logged() != "x\ny\n" || b.Attempt != 1 || f.built("one") != 1 {
					t.Errorf("got the log %q, attempt %d, built %d times", h.logged(), b.Attempt, f.built("one"))
				}
				f.over()
			})
		}
	}
}

// TestOffloadRestartQueued restarts the coordinator before the build began.
func TestOffloadRestartQueued(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	plugs := f.submit(f.drv("plug-1", "hold"), f.drv("plug-2", "hold"))
	for _, id := range plugs {
		f.awaitState(id, api.Building)
	}
	h := f.hook(f.drv("one", ""))
	h.awaitState(api.Queued)
	f.restart("crash")
	h.start()
	f.releaseAll("plug-1", "plug-2")
	h.succeeds()
	for _, id := range plugs {
		f.awaitState(id, api.Succeeded)
	}
	f.over()
}

// TestOffloadIsOver orders again what is final: the end was not heard by the hook.
func TestOffloadIsOver(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	h := f.hook(f.drv("one", ""))
	h.succeeds()
	bad := f.hook(f.drv("bad", "fail"))
	bad.result()
	f.restart("stop")
	h.start()
	if r := h.result(); r.State != api.Succeeded || len(h.ships) != 1 {
		t.Errorf("got %+v, %d shipments", r, len(h.ships))
	}
	bad.start()
	if r := bad.result(); r.State != api.Failed || r.Failure == nil || r.Failure.ExitCode != 1 {
		t.Errorf("got %+v", r)
	}
	if n := f.built("one") + f.built("bad"); n != 2 {
		t.Errorf("built %d times", n)
	}
	f.over()
}

// TestJoinDuringTheGrace asks for what a start found unfinished, before the machines said
// what they have.
func TestJoinDuringTheGrace(t *testing.T) {
	f := newHookFarm(t, func(c *Config) { c.Limits.ConnectTimeout = 50 * time.Millisecond }, "m1")
	plugs := f.submit(f.drv("plug-1", "hold"), f.drv("plug-2", "hold"))
	for _, id := range plugs {
		f.awaitState(id, api.Building)
	}
	drv := f.drv("one", "")
	id := f.submit(drv)[0]
	f.awaitState(id, api.Queued)
	f.agents["m1"].set(func(a *fakeAgent) { a.hang = true })
	f.restart("stop")
	h := f.hook(drv)
	other := f.submit(drv)[0]
	h.awaitState(api.Queued)
	f.recorded()
	f.agents["m1"].set(func(a *fakeAgent) { a.hang = false })
	f.releaseAll("plug-1", "plug-2")
	h.succeeds()
	for _, id := range append(plugs, id, other) {
		f.awaitState(id, api.Succeeded)
	}
	f.over()
}

func shortGrace(c *Config) { c.Limits.HookGrace = 100 * time.Millisecond }

// offloadedWith returns a farm with an offloaded build of drv that is building or fetching, as when
// says, and the ids of the builds of others who want it too; top is the script of a dependant.
// Release lets the fetch go on.
func offloadedWith(t *testing.T, when, others, top string) (f *hookFarm, h *fakeHook, drv store.Path, ids []string, release func()) {
	t.Helper()
	f = newHookFarm(t, shortGrace, "m1")
	drv = f.drv("one", "hold")
	h = f.hook(drv)
	h.awaitState(api.Building)
	switch others {
	case "with a client":
		ids = f.submit(drv)
		f.awaitState(ids[0], api.Building)
	case "with a dependant":
		ids = f.submit(f.drv("top", top, drv))
		f.awaitState(ids[0], api.Waiting)
	}
	release = func() {}
	if when == "fetching" {
		var began <-chan struct{}
		began, release = f.holdExport("m1")
		f.releaseAll("one")
		<-began
	}
	return f, h, drv, ids, release
}

func TestOffloadHookDoesNotComeBack(t *testing.T) {
	for _, when := range []string{"building", "fetching"} {
		for _, others := range []string{"alone", "with a client", "with a dependant"} {
			t.Run(when+" "+others, func(t *testing.T) {
				f, h, _, ids, release := offloadedWith(t, when, others, "hold")
				f.restart("stop")
				release()
				if b := f.canceled(h); !strings.Contains(b.Reason, "did not come back") {
					t.Errorf("got %+v", b)
				}
				f.releaseAll("one", "top")
				for _, id := range ids {
					f.awaitState(id, api.Succeeded)
				}
				f.over()
				if n := f.built("one"); n > 1 {
					t.Errorf("built %d times\n%s", n, f.history(h.order.ID))
					for _, b := range f.children() {
						t.Errorf("%s:\n%s", b.Derivation.Name(), f.history(b.ID))
					}
				}
			})
		}
	}
}

// TestOffloadEndedWhileDown restarts a coordinator after the hook had what it wants, and
// guix-daemon registered it.
func TestOffloadEndedWhileDown(t *testing.T) {
	for _, when := range []string{"building", "fetching"} {
		for _, others := range []string{"alone", "with a client", "with a dependant"} {
			t.Run(when+" "+others, func(t *testing.T) {
				f, h, drv, ids, release := offloadedWith(t, when, others, "")
				archive, err := makeArchive(f.agents["m1"].key, f.output(drv), nil, "built from "+string(drv))
				if err != nil {
					t.Fatal(err)
				}
				f.restart("crash")
				if _, err := f.head.Import(t.Context(), bytes.NewReader(archive), store.ImportOptions{}); err != nil {
					t.Fatal(err)
				}
				release()
				f.awaitState(h.order.ID, api.Succeeded)
				f.releaseAll("one")
				for _, id := range ids {
					f.awaitState(id, api.Succeeded)
				}
				f.over()
			})
		}
	}
}

// persist has a hook come back whenever the conversation breaks off, until the end.
func (h *fakeHook) persist(group *sync.WaitGroup) {
	group.Go(func() {
		for deadline := time.Now().Add(3 * patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			conn, r, err := hookapi.Dial(h.f.socket)
			if err != nil {
				continue
			}
			h.mu.Lock()
			order, gone := h.order, h.conn == noConn
			h.conn = conn
			h.mu.Unlock()
			if gone {
				conn.Close()
				return
			}
			if hookapi.WriteJSON(conn, hookapi.Build, &order) == nil {
				err = h.read(conn, r)
			}
			conn.Close()
			h.mu.Lock()
			over := h.final != nil || h.conn == noConn
			h.err = err
			h.mu.Unlock()
			if over {
				return
			}
		}
	})
}

// noConn is the connection of a hook that was killed.
var noConn = cutPipe()

// kill ends a hook that persists.
func (h *fakeHook) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil {
		h.conn.Close()
	}
	h.conn = noConn
}

// TestOffloadCrashLoop has hooks and clients want a graph, some hooks killed, links cut, and
// the coordinator crash: in the end all is final, and nothing is left anywhere.
func TestOffloadCrashLoop(t *testing.T) {
	for _, way := range []string{"calls", "http"} {
		t.Run(way, func(t *testing.T) { offloadCrashLoop(t, way == "http") })
	}
}

func offloadCrashLoop(t *testing.T, http bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f := newHookFarm(t, func(c *Config) { c.Limits.HookGrace = time.Second }, "m1", "m2")
	if http {
		overHTTP(f.farm)(&f.config)
		f.restart("stop")
	}
	var drvs []store.Path
	for i := range 24 {
		script := "log=x log=y"
		if i%11 == 10 {
			script = "fail"
		}
		var inputs []store.Path
		if i > 6 && i%2 == 0 && i%11 != 10 {
			inputs = append(inputs, drvs[random.IntN(6)])
		}
		drvs = append(drvs, f.drv(fmt.Sprintf("d%02d", i), script, inputs...))
	}
	var group sync.WaitGroup
	defer group.Wait()
	var hooks []*fakeHook
	var ids []string
	killed := make(map[*fakeHook]bool)
	for range 12 {
		for range 4 {
			h := f.newHook(drvs[random.IntN(len(drvs))])
			hooks = append(hooks, h)
			h.persist(&group)
		}
		ids = append(ids, f.submit(drvs[random.IntN(len(drvs))])...)
		f.awaitEvents(f.ledger.LastEvent()+uint64(1+random.IntN(60)), 50*time.Millisecond)
		victim := hooks[random.IntN(len(hooks))]
		victim.kill()
		killed[victim] = true
		switch random.IntN(4) {
		case 0:
			f.agents["m1"].cutLink(false)
		case 1:
			f.restart("crash")
		case 2:
			f.restart("stop")
		case 3:
			f.agents["m2"].restart()
		}
	}
	for _, id := range ids {
		f.awaitFinal(id)
	}
	group.Wait()
	f.over()
	for _, h := range hooks {
		doomed := f.dooms(h.order.Derivation)
		switch r := h.final; {
		case killed[h]:
		case r == nil:
			t.Errorf("%s has no end: %v\n%s", h.order.Derivation.Name(), h.err, f.history(h.order.ID))
		case r.State == api.Succeeded && h.got[h.order.Outputs[0]] && !doomed:
			if log := string(h.log); !strings.HasSuffix(log, "x\ny\n") && log != "" {
				t.Errorf("%s: got the log %q", h.order.Derivation.Name(), log)
			}
		case r.State == api.Succeeded && f.valid(h.order.Outputs[0]):
			// It was at home already.
		case r.State == api.Failed && doomed:
		default:
			t.Errorf("%s: got %+v (%+v)\n%s", h.order.Derivation.Name(), r, r.Failure, f.history(h.order.ID))
		}
	}
}
