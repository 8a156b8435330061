package coordinator

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/store"
)

// TestBadDerivationsStopNobody has builds fail everywhere, as it seems for the machines'
// reasons: that speaks against them, and no machine rests for it.
func TestBadDerivationsStopNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1", "m2", "m3")
		f.ready("m1", "m2", "m3")
		var bad []store.Path
		for i := range 12 {
			bad = append(bad, f.drv(fmt.Sprint("bad-", i), "machine"))
		}
		for _, id := range f.submit(bad...) {
			if b := f.awaitFinal(id); b.State != api.Failed || b.Failure.Culprit != api.CulpritMachine {
				t.Errorf("got %s, %+v", b.State, b.Failure)
			}
		}
		if err := f.c.do(t.Context(), func(l *loop) {
			for _, m := range l.machines {
				if why := m.conduct.Resting(time.Now()); why != "" {
					t.Errorf("%s is %s", m.Name, why)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		f.awaitState(f.submit(f.drv("good", ""))[0], api.Succeeded)
		f.idle()
	})
}

// TestRestIsSaid has a machine fail alone, again and again: it rests, and its status says so.
func TestRestIsSaid(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	f.ready("m1", "m2")
	var bad []store.Path
	for i := range conduct.RestAfter + 8 {
		bad = append(bad, f.drv(fmt.Sprint("bad-", i), "machine=m1"))
	}
	for _, id := range f.submit(bad...) {
		if b := f.awaitState(id, api.Succeeded); b.Machine != "m2" {
			t.Errorf("built on %s", b.Machine)
		}
	}
	var status api.MachineStatus
	if err := f.c.do(t.Context(), func(l *loop) {
		m := l.byName["m1"]
		m.conduct.Fault(m.conduct.RestReason(), time.Now().Add(time.Hour)) // so that it is not over
		status = m.status()
	}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(status.Error, "resting until ") || !strings.Contains(status.Error, "no space left on device") {
		t.Errorf("the status says %q", status.Error)
	}
}

// TestRequestsEnd has a machine that answers polls, but not what matters.
func TestRequestsEnd(t *testing.T) {
	for _, what := range []string{"PUT /v1/builds/{id}", "POST /v1/import", "trailer"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, func(c *Config) { c.Limits.AnswerTimeout = 50 * time.Millisecond })
				b := h.try("log=x", only(what, func([]byte) []byte { return nil }))
				if b.State != api.Succeeded || b.Machine != honest {
					t.Errorf("it is %s on %s: %+v", b.State, b.Machine, b.Failure)
				}
				if story := h.history(b.ID); !strings.Contains(story, "elsewhere: evil: ") {
					t.Errorf("the machine is not blamed:\n%s", story)
				}
				var resting string
				if err := h.c.do(t.Context(), func(l *loop) { resting = l.byName[evil].conduct.RestReason() }); err != nil || resting == "" {
					t.Errorf("the machine does not rest, %v", err)
				}
			})
		})
	}
}

// TestLimitsOfBuildsAreKept has an agent that lets builds run for longer than they may.
func TestLimitsOfBuildsAreKept(t *testing.T) {
	for name, request := range map[string]api.Request{
		"may take": {Timeout: 0.02}, "was silent": {MaxSilentTime: 0.02},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFarm(t, func(c *Config) {
					c.Limits.MaxAttempts = 2
					c.Limits.AnswerTimeout, c.Limits.MachineLostAfter = 20*time.Millisecond, 20*time.Millisecond
				}, "m1", "m2")
				request.Derivation = f.drv("endless", "hold")
				b := f.awaitState(f.request(request)[0], api.Failed)
				if b.Failure.Kind != api.KindFault || b.Failure.Culprit != api.CulpritMachine || !strings.Contains(b.Failure.Message, name) {
					t.Errorf("got %+v", b.Failure)
				}
				f.releaseAll("endless")
				f.idle()
			})
		})
	}
}

// TestCutLogIsNotSilence has a builder write on after its log is too long: the end comes last.
func TestCutLogIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		begun := time.Now()
		f.agents["m1"].set(func(a *fakeAgent) {
			a.lie = func(s *agentapi.BuildStatus) { s.Written = int64(time.Since(begun)) }
		})
		id := f.request(api.Request{Derivation: f.drv("long", "log=x hold"), MaxSilentTime: 1})[0]
		<-f.agents["m1"].held
		time.Sleep(24 * time.Hour)
		f.releaseAll("long")
		if b := f.awaitState(id, api.Succeeded); b.Attempt != 1 {
			t.Errorf("%d attempts", b.Attempt)
		}
		f.idle()
	})
}

// TestClockIsSetDuringBuild has what is learnt be as it was seen here.
func TestClockIsSetDuringBuild(t *testing.T) {
	h := newHostile(t)
	for _, value := range []string{`"2200-01-01T00:00:00Z"`, `"1970-01-01T00:00:00Z"`} {
		for _, field := range []string{"started", "stopped"} {
			b := h.try("log=x", only("trailer", func(text []byte) []byte { return with(text, field, value) }))
			if b.State != api.Succeeded || b.Machine != evil || b.BuildTime > 60 {
				t.Errorf("%s %s: %s on %s in %g s", field, value, b.State, b.Machine, b.BuildTime)
			}
			if b.Started == nil || time.Since(*b.Started).Abs() > time.Hour {
				t.Errorf("%s %s: started %v", field, value, b.Started)
			}
		}
	}
	h.survives()
}

// TestChangingMachineIsToldWithMeasure has a machine say something else with each look.
func TestChangingMachineIsToldWithMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t)
		var looks atomic.Int64
		h.twist(only("GET /v1/machine", func(text []byte) []byte {
			return with(text, "buildProblem", fmt.Sprintf(`"problem %d %s"`, looks.Add(1), strings.Repeat("x", 10000)))
		}))
		before := h.c.ledger.LastEvent()
		for range 10 * conduct.NewsBurst {
			h.look()
		}
		if n := h.c.ledger.LastEvent() - before; n > conduct.NewsBurst+5 {
			t.Errorf("%d looks made %d events", looks.Load(), n)
		}
		h.survives()
	})
}

// TestOutputsThatDoNotFit has outputs that are larger than what is free on the head.
func TestOutputsThatDoNotFit(t *testing.T) {
	var free atomic.Int64
	f := newFarm(t, func(c *Config) {
		c.HeadLimits.MinFreeDisk = 1000
		c.HeadSpace = func() (api.HeadStatus, error) {
			return api.HeadStatus{FreeDisk: free.Load(), FreeInodes: -1, StateFreeDisk: -1}, nil
		}
		free.Store(1001)
	}, "m1")
	var exports atomic.Int64
	f.agents["m1"].set(func(a *fakeAgent) { a.onExport = func(context.Context) { exports.Add(1) } })
	id := f.submit(f.drv("large", ""))[0]
	b := f.await(id, func(b *api.Build) bool { return strings.Contains(b.Reason, "do not fit on the head") })
	if !strings.Contains(b.Reason, "tried again in") || exports.Load() != 0 {
		t.Errorf("got %q, %d exports", b.Reason, exports.Load())
	}
	free.Store(1 << 30)
	if b := f.awaitState(id, api.Succeeded); f.agents["m1"].count("large") != 1 || b.Attempt != 1 {
		t.Errorf("built %d times in %d attempts", f.agents["m1"].count("large"), b.Attempt)
	}
	if _, err := f.c.room.Reserve([]*store.Info{{NARSize: 1<<30 - 1000}}); err != nil {
		t.Errorf("room is kept for nothing: %v", err)
	}
	f.idle()
}

// TestPanicEndsTheLinkAlone has handling what one machine says panic.
func TestPanicEndsTheLinkAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		var calls atomic.Int64
		panics := func(context.Context) {
			if calls.Add(1) == 1 {
				panic("a test")
			}
		}
		for i, set := range []func(a *fakeAgent){func(a *fakeAgent) { a.onImport = panics }, func(a *fakeAgent) { a.onExport = panics }} {
			calls.Store(0)
			f.agents["m1"].set(set)
			b := f.awaitState(f.submit(f.drv(fmt.Sprint("one-", i), ""))[0], api.Succeeded)
			if !strings.Contains(f.history(b.ID), "panic") {
				t.Errorf("it went unseen:\n%s", f.history(b.ID))
			}
		}
		f.idle()
	})
}

// TestCheckAsksAnother has one of three machines not say what it made.
func TestCheckAsksAnother(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Machines[1].Speed = 100 }, "m1", "m2", "m3")
	drv := f.twoOutputs("untold=m2")
	f.ready("m1", "m2", "m3")
	f.awaitState(f.request(api.Request{Derivation: drv, On: []string{"m1"}})[0], api.Succeeded)
	b := f.awaitState(f.request(api.Request{Derivation: drv, Check: 1, Skip: []string{"m1"}})[0], api.Succeeded)
	if n := len(b.Results); n != 2 || b.Results[1].Machine != "m3" || f.agents["m2"].count("two") == 0 {
		t.Errorf("got %+v", b.Results)
	}
	b = f.awaitState(f.request(api.Request{Derivation: drv, Check: 1, On: []string{"m2"}})[0], api.Failed)
	if b.Failure.Culprit != api.CulpritMachine || b.Failure.Machine != "m2" {
		t.Errorf("got %+v", b.Failure)
	}
	f.idle()
}
