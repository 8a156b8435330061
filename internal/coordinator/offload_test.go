package coordinator

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
	"lighter/store"
	"lighter/store/derivation"
)

func TestOffloadVerdicts(t *testing.T) {
	f := newHookFarm(t, nil, "m1", "m2")
	drv := f.drv("one", "")
	gone, err := store.DefaultDir.Path(strings.Repeat("a", 32) + "-gone.drv")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		question hookapi.Question
		want     hookapi.Answer
	}{
		"accept":  {hookapi.Question{Derivation: drv, System: "x86_64-linux"}, hookapi.Answer{Verdict: hookapi.Accept}},
		"feature": {hookapi.Question{Derivation: drv, System: "x86_64-linux", Features: []string{"on-m1"}}, hookapi.Answer{Verdict: hookapi.Accept}},
		"local":   {hookapi.Question{Derivation: drv, System: "x86_64-linux", WantsLocal: true}, hookapi.Answer{Verdict: hookapi.Accept}},
		"no system": {
			hookapi.Question{Derivation: drv, System: "riscv64-linux"},
			hookapi.Answer{Verdict: hookapi.Decline, Reason: "none builds for riscv64-linux"},
		},
		"no feature": {
			hookapi.Question{Derivation: drv, System: "x86_64-linux", Features: []string{"on-m1", "kvm"}},
			hookapi.Answer{Verdict: hookapi.Decline, Reason: "kvm"},
		},
		"derivation that cannot be read": {
			hookapi.Question{Derivation: gone, System: "x86_64-linux"},
			hookapi.Answer{Verdict: hookapi.Decline, Reason: gone.Base()},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.ask(&c.question)
			if got.Verdict != c.want.Verdict || !strings.Contains(got.Reason, c.want.Reason) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	f.over()
}

// wantLater checks an answer that is decline if guix-daemon has a free slot, else postpone.
func (f *hookFarm) wantLater(drv store.Path, reason string) {
	f.t.Helper()
	q := f.question(drv)
	for local, want := range map[bool]string{true: hookapi.Decline, false: hookapi.Postpone} {
		q.WantsLocal = local
		if a := f.ask(q); a.Verdict != want || !strings.Contains(a.Reason, reason) {
			f.t.Errorf("with a free slot %v: got %+v, want %s with %q", local, a, want, reason)
		}
	}
}

func TestOffloadAllMachinesDown(t *testing.T) {
	f := newHookFarm(t, nil, "m1", "m2")
	drv := f.drv("one", "")
	f.agents["m1"].cutLink(true)
	f.agents["m2"].cutLink(true)
	f.restart("stop")
	f.wantLater(drv, "m2: down: connection refused")
}

// TestOffloadMachineNotTriedYet asks while a machine is being reached for the first time.
func TestOffloadMachineNotTriedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		q := &hookapi.Question{Derivation: f.drv("one", ""), System: "x86_64-linux"}
		for _, test := range []struct {
			hang    bool
			verdict string
			reason  string
			took    time.Duration // at least
		}{
			{true, hookapi.Postpone, "m1: not reached yet", delivery.FirstContact},
			{false, hookapi.Accept, "", 0},
		} {
			f.agents["m1"].set(func(a *fakeAgent) { a.hang = test.hang })
			f.shutDown()
			f.start()
			began := time.Now()
			a, err := f.c.forDeliveries.Answer(t.Context(), q)
			if err != nil || a.Verdict != test.verdict || !strings.Contains(a.Reason, test.reason) {
				t.Errorf("hang %t: got %+v, %v; want %s with %q", test.hang, a, err, test.verdict, test.reason)
			}
			if took := time.Since(began); took < test.took || took > test.took+time.Second {
				t.Errorf("hang %t: it waited for %s, want %s and little more", test.hang, took, test.took)
			}
		}
	})
}

func TestOffloadSlotsAndQueue(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	drv := f.drv("one", "")
	var plugs []string
	for i := range 2 {
		plugs = append(plugs, f.submit(f.drv(fmt.Sprintf("plug-%d", i), "hold"))...)
	}
	for _, id := range plugs {
		f.awaitState(id, api.Building)
	}
	q := f.question(drv)
	if a := f.ask(q); a.Verdict != hookapi.Accept {
		t.Errorf("slots are taken: got %+v, want it to wait here", a)
	}
	q.WantsLocal = true
	if a := f.ask(q); a.Verdict != hookapi.Decline || !strings.Contains(a.Reason, "slots are taken") {
		t.Errorf("slots are taken, and guix-daemon has one: got %+v", a)
	}
	var more []store.Path
	for i := range 2 * delivery.MaxQueuedPerSlot {
		more = append(more, f.drv(fmt.Sprintf("more-%d", i), ""))
	}
	ids := f.submit(more...)
	f.until("all wait", func() (all bool) {
		if err := f.c.do(t.Context(), func(l *loop) { all = l.queue.Len() == len(more) }); err != nil {
			t.Fatal(err)
		}
		return all
	})
	q.WantsLocal = false
	if a := f.ask(q); a.Verdict != hookapi.Postpone || !strings.Contains(a.Reason, "128 builds are already waiting") {
		t.Errorf("a long queue: got %+v", a)
	}
	f.cancel(append(plugs, ids...)...)
	f.over()
}

func TestOffloadLedgerStalled(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	drv := f.drv("one", "")
	f.ask(f.question(drv)) // the machine was reached
	f.recorded()
	f.full.Store(true)
	f.c.post(func(l *loop) { l.event("m1", "something that is to be recorded") })
	f.until("the ledger takes nothing", func() bool { return f.c.recorder.Stalled() != nil })
	f.wantLater(drv, ledger.ErrDiskFull.Error())
	f.full.Store(false)
}

func TestOffloadPostponesWhatAClientHasBuilt(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	drv := f.drv("one", "hold")
	id := f.submit(drv)[0]
	f.awaitState(id, api.Building)
	q := f.question(drv)
	q.WantsLocal = true
	if a := f.ask(q); a.Verdict != hookapi.Postpone {
		t.Errorf("got %+v", a)
	}
	f.agents["m1"].release("one")
	f.awaitState(id, api.Succeeded)
	f.over()
}

func TestOffload(t *testing.T) {
	for _, way := range []string{"calls", "http"} {
		t.Run(way, func(t *testing.T) {
			f := newHookFarm(t, nil, "m1", "m2")
			if way == "http" {
				overHTTP(f.farm)(&f.config)
				f.restart("stop")
			}
			drv := f.drv("one", "log=first log=second")
			h := f.hook(drv)
			b := h.succeeds()
			if f.built("one") != 1 || b.Machine == "" || b.Attempt != 1 || b.LogSize != 13 || b.FetchBytes == 0 {
				t.Errorf("built %d times, the ledger has %+v", f.built("one"), b)
			}
			if got := h.logged(); got != "first\nsecond\n" {
				t.Errorf("got the log %q", got)
			}
			var states []api.State
			for _, p := range h.seen() {
				if len(states) == 0 || states[len(states)-1] != p.State {
					states = append(states, p.State)
				}
			}
			want := []api.State{api.Queued, api.Placed, api.Sending, api.Building, api.Fetching}
			if !slices.Equal(states, want) {
				t.Errorf("was told %v, want %v", states, want)
			}
			if len(h.ships) != 1 || h.ships[0].Machine != b.Machine || h.ships[0].Items != 1 || h.ships[0].Bytes == 0 {
				t.Errorf("got shipments %+v", h.ships)
			}
			if f.valid(f.output(drv)) {
				t.Error("the output was fetched home beside")
			}
			f.over()
		})
	}
}

func TestOffloadSomeOutputs(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	drv := f.derive(&derivation.Derivation{
		System: "x86_64-linux", Outputs: []derivation.Output{{Name: "doc"}, {Name: "lib"}, {Name: "out"}},
	}, "one", "")
	n, err := headstore.New(f.head).Node(t.Context(), drv)
	if err != nil {
		t.Fatal(err)
	}
	h := f.newHook(drv)
	h.order.Outputs = []store.Path{n.OutputMap()["lib"], n.OutputMap()["out"]}
	h.start()
	h.succeeds()
	if len(h.got) != 2 {
		t.Errorf("got %v, want two outputs", h.got)
	}
	f.over()
}

func TestOffloadFails(t *testing.T) {
	f := newHookFarm(t, func(c *Config) { c.Limits.MaxAttempts = 2 }, "m1")
	for script, want := range map[string]struct {
		state   api.State
		culprit api.Culprit
		kind    string
	}{
		"log=x fail": {api.Failed, api.CulpritDerivation, string(store.FailedExit)},
		"timeout":    {api.TimedOut, api.CulpritDerivation, string(store.FailedTimeout)},
		"machine":    {api.Failed, api.CulpritMachine, ""},
	} {
		h := f.hook(f.drv("bad", script))
		r := h.result()
		if r.State != want.state || r.Failure == nil || r.Failure.Culprit != want.culprit || r.Failure.Kind != want.kind || r.Machine != "m1" {
			t.Errorf("%s: got %+v, %+v", script, r, r.Failure)
		}
		if strings.Contains(script, "log") && h.logged() != "x\n" {
			t.Errorf("%s: got the log %q", script, h.logged())
		}
		f.awaitState(h.order.ID, want.state)
	}
	f.over()
}

func TestOffloadCanceledByAClient(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	h := f.hook(f.drv("one", "hold"))
	h.awaitState(api.Building)
	f.cancel(h.order.ID)
	if r := h.result(); r.State != api.Canceled || r.Reason == "" {
		t.Errorf("got %+v", r)
	}
	f.over()
}

// TestOffloadRefusedArchive has a hook refuse what a machine delivers: it is built again,
// elsewhere if there is another machine.
func TestOffloadRefusedArchive(t *testing.T) {
	for _, names := range [][]string{{"m1", "m2"}, {"m1"}} {
		t.Run(fmt.Sprint(len(names)), func(t *testing.T) {
			f := newHookFarm(t, nil, names...)
			h := f.newHook(f.drv("one", "log=x"))
			h.onReceive(func(number int, archive []byte) hookapi.Receipt {
				if number == 1 {
					return hookapi.Receipt{Error: "bad signature"}
				}
				h.onReceive(nil)
				return h.check(number, archive)
			})
			h.start()
			if r := h.result(); r.State != api.Succeeded {
				t.Fatalf("got %+v", r)
			}
			b := f.awaitState(h.order.ID, api.Succeeded)
			if len(h.ships) != 2 || b.Attempt != 2 {
				t.Fatalf("got %d shipments, %d attempts", len(h.ships), b.Attempt)
			}
			if len(names) > 1 && h.ships[0].Machine == h.ships[1].Machine {
				t.Errorf("both shipments came from %s", h.ships[0].Machine)
			}
			if got := h.logged(); got != "x\nx\n" {
				t.Errorf("got the logs %q of two attempts", got)
			}
			if !strings.Contains(f.history(h.order.ID), "its archive of the outputs was refused: bad signature") {
				t.Errorf("the history does not say why:\n%s", f.history(h.order.ID))
			}
			f.over()
		})
	}
}

func TestOffloadAlwaysRefused(t *testing.T) {
	f := newHookFarm(t, func(c *Config) { c.Limits.MaxAttempts = 3 }, "m1", "m2")
	h := f.newHook(f.drv("one", ""))
	h.onReceive(func(int, []byte) hookapi.Receipt { return hookapi.Receipt{Error: "bad signature"} })
	h.start()
	r := h.result()
	if r.State != api.Failed || r.Failure == nil || r.Failure.Culprit != api.CulpritMachine || !strings.Contains(r.Failure.Message, "bad signature") {
		t.Errorf("got %+v, %+v", r, r.Failure)
	}
	if len(h.ships) != 3 {
		t.Errorf("got %d shipments", len(h.ships))
	}
	f.over()
}

// TestOffloadRefusedByAFullDisk has a hook whose own disk fails: no machine is blamed, and
// the build ends with the hook.
func TestOffloadRefusedByAFullDisk(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	h := f.newHook(f.drv("one", ""))
	answered := make(chan struct{})
	h.onReceive(func(int, []byte) hookapi.Receipt {
		close(answered)
		return hookapi.Receipt{Error: "no space left on device", Local: true}
	})
	h.start()
	<-answered
	time.Sleep(10 * time.Millisecond)
	h.leave()
	f.canceled(h)
	if len(h.ships) != 1 || f.built("one") != 1 {
		t.Errorf("got %d shipments, built %d times", len(h.ships), f.built("one"))
	}
	f.over()
}

func TestOffloadTwoHooksBuildOnce(t *testing.T) {
	f := newHookFarm(t, nil, "m1", "m2")
	drv := f.drv("one", "log=x hold log=y")
	first := f.hook(drv)
	first.awaitLog("x\n")
	second := f.hook(drv)
	second.awaitLog("x\n")
	f.releaseAll("one")
	for _, h := range []*fakeHook{first, second} {
		b := h.succeeds()
		if h.logged() != "x\ny\n" || b.Attempt != 1 {
			t.Errorf("got the log %q, the ledger has %+v", h.logged(), b)
		}
	}
	if n := f.built("one"); n != 1 {
		t.Errorf("built %d times", n)
	}
	f.over()
}

func TestOffloadHookGone(t *testing.T) {
	for name, until := range map[string]func(f *hookFarm, h *fakeHook){
		"queued": func(f *hookFarm, h *fakeHook) {
			h.awaitState(api.Queued)
		},
		"sending": func(f *hookFarm, h *fakeHook) {
			h.awaitState(api.Sending)
		},
		"building": func(f *hookFarm, h *fakeHook) {
			h.awaitState(api.Building)
			<-f.agents["m1"].held
		},
		"fetching": func(f *hookFarm, h *fakeHook) {
			began, _ := f.holdExport("m1")
			f.releaseAll("one")
			<-began
		},
		"waiting for the receipt": func(f *hookFarm, h *fakeHook) {
			answering := make(chan struct{})
			h.note(func() {
				h.early = func(int) *hookapi.Receipt {
					close(answering)
					h.conn.Close()
					return nil
				}
			})
			f.releaseAll("one")
			<-answering
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			records, inputs := 2, []store.Path{f.drv("base", "")}
			switch name {
			case "sending":
				records, inputs = 1, nil // the first import is of its source
			case "queued":
				records, inputs = 1, nil // it may go before it is known what it needs
			}
			h := f.newHook(f.drv("one", "hold", inputs...))
			var plugs []string
			switch name {
			case "queued":
				plugs = f.submit(f.drv("plug-1", "hold"), f.drv("plug-2", "hold"))
				for _, id := range plugs {
					f.awaitState(id, api.Building)
				}
			case "sending":
				f.agents["m1"].set(func(a *fakeAgent) { a.onImport = waitForEnd })
			}
			h.start()
			until(f, h)
			h.leave()
			if b := f.canceled(h); !strings.Contains(b.Reason, "no longer wants it") || b.Stopped == nil {
				t.Errorf("the ledger has %+v", b)
			}
			f.cancel(plugs...)
			f.over()
			if n := f.records(); n != records+len(plugs) {
				t.Errorf("the ledger has %d builds", n)
			}
		})
	}
}

// TestOffloadHookTimedOut has guix-daemon end the hook because its own limit is over.
func TestOffloadHookTimedOut(t *testing.T) {
	for name, limit := range map[string]func(*hookapi.Order){
		"timeout": func(o *hookapi.Order) { o.Timeout = 60 },
		"silence": func(o *hookapi.Order) { o.MaxSilentTime = 60 },
	} {
		t.Run(name, func(t *testing.T) {
			var later atomic.Int64
			f := newHookFarm(t, func(c *Config) {
				c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
			}, "m1")
			h := f.newHook(f.drv("one", "hold"))
			limit(&h.order)
			h.start()
			h.awaitState(api.Building)
			<-f.agents["m1"].held
			later.Store(int64(time.Minute))
			h.leave()
			if b := f.awaitState(h.order.ID, api.TimedOut); b.Failure == nil || b.Failure.Kind != name || b.Stopped == nil {
				t.Errorf("the ledger has %+v", b.Failure)
			}
			f.over()
		})
	}
}

func TestOffloadOneOfTwoHooksGone(t *testing.T) {
	for _, when := range []string{"building", "fetching"} {
		t.Run(when, func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			drv := f.drv("one", "log=x hold")
			first, second := f.hook(drv), f.newHook(drv)
			first.awaitState(api.Building)
			second.start()
			second.awaitState(api.Building)
			if when == "fetching" {
				began, release := f.holdExport("m1")
				f.releaseAll("one")
				<-began
				defer release()
				first.leave()
				f.canceled(first)
				release()
			} else {
				first.leave()
				f.canceled(first)
				f.releaseAll("one")
			}
			second.succeeds()
			if n := f.built("one"); n != 1 {
				t.Errorf("built %d times", n)
			}
			f.over()
		})
	}
}

// TestOffloadAndClient has a hook and a client want the same: the hook is served first.
func TestOffloadAndClient(t *testing.T) {
	for _, first := range []string{"hook", "client"} {
		t.Run(first, func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			drv := f.drv("one", "log=x hold")
			h := f.newHook(drv)
			var id string
			if first == "hook" {
				h.start()
				h.awaitState(api.Building)
				id = f.submit(drv)[0]
				f.awaitState(id, api.Building)
			} else {
				id = f.submit(drv)[0]
				f.awaitState(id, api.Building)
				h.start()
				h.awaitState(api.Building)
			}
			home := true
			h.onReceive(func(number int, archive []byte) hookapi.Receipt {
				home = f.valid(f.output(drv))
				h.onReceive(nil)
				return h.check(number, archive)
			})
			f.releaseAll("one")
			h.succeeds()
			f.awaitState(id, api.Succeeded)
			if home {
				t.Error("it was fetched home before the hook had it")
			}
			if !f.valid(f.output(drv)) || f.built("one") != 1 {
				t.Errorf("at home: %v, built %d times", f.valid(f.output(drv)), f.built("one"))
			}
			f.over()
		})
	}
}

// TestOffloadHookGoneClientGoesOn ends a hook that a client's build shares the work with.
func TestOffloadHookGoneClientGoesOn(t *testing.T) {
	for _, when := range []string{"building", "fetching"} {
		t.Run(when, func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			drv := f.drv("one", "hold")
			h := f.hook(drv)
			h.awaitState(api.Building)
			id := f.submit(drv)[0]
			f.awaitState(id, api.Building)
			if when == "building" {
				h.leave()
				f.canceled(h)
				f.releaseAll("one")
			} else {
				began, release := f.holdExport("m1")
				f.releaseAll("one")
				<-began
				h.leave()
				f.canceled(h)
				release()
			}
			f.awaitState(id, api.Succeeded)
			if !f.valid(f.output(drv)) || f.built("one") != 1 {
				t.Errorf("at home: %v, built %d times", f.valid(f.output(drv)), f.built("one"))
			}
			f.over()
		})
	}
}

// TestOffloadHookGoneDependantGoesOn ends a hook whose build another build needs.
func TestOffloadHookGoneDependantGoesOn(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	base := f.drv("base", "hold")
	h := f.hook(base)
	h.awaitState(api.Building)
	id := f.submit(f.drv("top", "", base))[0]
	f.awaitState(id, api.Waiting)
	h.leave()
	f.canceled(h)
	f.releaseAll("base")
	f.awaitState(id, api.Succeeded)
	if n := f.built("base"); n != 1 {
		t.Errorf("base was built %d times", n)
	}
	f.over()
}

// TestOffloadOfADependency orders what is being built for another build anyway.
func TestOffloadOfADependency(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprint("gone ", gone), func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			base := f.drv("base", "log=x hold")
			id := f.submit(f.drv("top", "hold", base))[0]
			child := f.awaitChild(base, api.Building)
			h := f.hook(base)
			h.awaitLog("x\n")
			if gone {
				began, release := f.holdExport("m1")
				f.releaseAll("base")
				<-began
				h.leave()
				f.canceled(h)
				release()
			} else {
				f.releaseAll("base")
				h.succeeds()
			}
			f.awaitState(child.ID, api.Succeeded)
			f.releaseAll("top")
			f.awaitState(id, api.Succeeded)
			if n := f.built("base"); n != 1 {
				t.Errorf("base was built %d times", n)
			}
			f.over()
		})
	}
}

// TestOffloadOfWhatIsKept orders an output that stays on a machine for another build.
func TestOffloadOfWhatIsKept(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	base := f.drv("base", "")
	id := f.submit(f.drv("top", "hold", base))[0]
	f.awaitState(id, api.Building)
	for range 2 {
		f.hook(base).succeeds()
	}
	f.releaseAll("top")
	f.awaitState(id, api.Succeeded)
	if n := f.built("base"); n != 1 {
		t.Errorf("base was built %d times", n)
	}
	f.over()
}

// TestOutputsAtHomeThatAreStillNeeded asks again for what came home, while another build
// needs it.
func TestOutputsAtHomeThatAreStillNeeded(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	base := f.drv("base", "hold")
	first := f.submit(base)[0]
	f.awaitState(first, api.Building)
	top := f.submit(f.drv("top", "hold", base))[0]
	f.awaitState(top, api.Waiting)
	f.releaseAll("base")
	f.awaitState(first, api.Succeeded)
	f.awaitState(top, api.Building)
	if b := f.awaitState(f.submit(base)[0], api.Succeeded); b.Attempt > 1 {
		t.Errorf("got %+v", b)
	}
	h := f.hook(base)
	if r := h.result(); r.State != api.Succeeded || len(h.ships) != 0 {
		t.Errorf("got %+v and %d shipments, want success without any", r, len(h.ships))
	}
	f.releaseAll("top")
	f.awaitState(top, api.Succeeded)
	f.over()
}

// TestOffloadSameIDAgain begins a second conversation about a build while the first, which
// is as good as gone, still stands.
func TestOffloadSameIDAgain(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	h := f.hook(f.drv("one", "log=x hold log=y"))
	h.awaitLog("x\n")
	again := f.newHook(h.order.Derivation)
	again.order = h.order
	again.start()
	<-h.over
	again.awaitState(api.Building)
	f.releaseAll("one")
	again.succeeds()
	if got := again.logged(); got != "y\n" {
		t.Errorf("got the log %q, want the rest", got)
	}
	f.over()
}

// TestOffloadComesBack takes the conversation over many times.
func TestOffloadComesBack(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	h := f.hook(f.drv("one", "log=x hold log=y"))
	h.awaitLog("x\n")
	for range 20 {
		over := h.over
		h.start()
		<-over // ended by the coordinator
	}
	f.releaseAll("one")
	h.succeeds()
	if got := h.logged(); got != "x\ny\n" || f.built("one") != 1 {
		t.Errorf("got the log %q, built %d times", got, f.built("one"))
	}
	f.over()
}

// TestOffloadLateReceipt has a hook refuse an archive before it has all of it, and the link
// break then: the receipt is not taken for one of the next shipment, before or after which it
// comes.
func TestOffloadLateReceipt(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("late ", late), func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			a := f.agents["m1"]
			cut := make(chan struct{})
			first := true
			h := f.newHook(f.drv("one", ""))
			h.early = func(number int) *hookapi.Receipt {
				refused := hookapi.Receipt{Number: 1, Error: "refused at once"}
				switch {
				case number == 1 && !late:
					defer close(cut)
					return &refused
				case number == 1:
					close(cut)
				case late:
					if err := hookapi.WriteJSON(h.conn, hookapi.Delivered, refused); err != nil {
						t.Error(err)
					}
				}
				return nil
			}
			f.wrapExport("m1", func(r io.ReadCloser) io.ReadCloser {
				if !first {
					return r
				}
				first = false
				return readFunc(func([]byte) (int, error) {
					<-cut
					time.Sleep(20 * time.Millisecond) // so that the receipt is there
					a.cutLink(false)
					return 0, errCut
				})
			})
			h.start()
			b := h.succeeds()
			if len(h.ships) != 2 || b.Attempt != 1 {
				t.Errorf("got %d shipments, %d attempts", len(h.ships), b.Attempt)
			}
			f.over()
		})
	}
}

// TestOffloadShipmentIsCut loses the link in the middle of an archive.
func TestOffloadShipmentIsCut(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	cuts := 3
	f.wrapExport("m1", func(r io.ReadCloser) io.ReadCloser {
		if cuts--; cuts < 0 {
			return r
		}
		n := 0
		return readFunc(func(p []byte) (int, error) {
			if n++; n > 1 {
				f.agents["m1"].cutLink(false)
				return 0, errCut
			}
			return r.Read(p[:40])
		})
	})
	h := f.hook(f.drv("one", ""))
	b := h.succeeds()
	if len(h.ships) != 4 || b.Attempt != 1 || f.built("one") != 1 {
		t.Errorf("got %d shipments, %d attempts", len(h.ships), b.Attempt)
	}
	f.over()
}

// TestOffloadTruncatedArchive has a machine end its archive early, as if that was all.
func TestOffloadTruncatedArchive(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	first := true
	f.agents["m1"].set(func(a *fakeAgent) {
		a.archive = func(archive []byte) []byte {
			if !first {
				return archive
			}
			first = false
			return archive[:len(archive)/2]
		}
	})
	h := f.hook(f.drv("one", ""))
	h.succeeds()
	if len(h.ships) != 2 {
		t.Errorf("got %d shipments", len(h.ships))
	}
	f.over()
}

// TestOffloadMachineLostWithOutputs loses the machine that keeps the outputs before the
// hook has them.
func TestOffloadMachineLostWithOutputs(t *testing.T) {
	f := newHookFarm(t, func(c *Config) { c.Limits.MachineLostAfter = 50 * time.Millisecond }, "m1", "m2")
	h := f.newHook(f.drv("one", ""))
	for name, a := range f.agents {
		a.set(func(a *fakeAgent) {
			a.onExport = func(ctx ctx) {
				a.cutLink(true)
				<-ctx.Done()
				f.machine(name).peer.Poke()
				other := map[string]string{"m1": "m2", "m2": "m1"}[name]
				f.agents[other].set(func(a *fakeAgent) { a.onExport = nil })
			}
		})
	}
	h.start()
	b := h.succeeds()
	if b.Attempt != 2 || f.built("one") != 2 {
		t.Errorf("attempt %d, built %d times", b.Attempt, f.built("one"))
	}
	for _, a := range f.agents {
		a.up()
	}
	f.over()
}

// TestOffloadAgentForgets restarts the agent that keeps the outputs.
func TestOffloadAgentForgets(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	once := true
	f.agents["m1"].set(func(a *fakeAgent) {
		a.onExport = func(ctx) {
			if once {
				once = false
				a.restart()
			}
		}
	})
	f.hook(f.drv("one", "")).succeeds()
	f.over()
}
