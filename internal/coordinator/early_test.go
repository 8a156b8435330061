package coordinator

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/headroom"
	"lighter/store"
	"lighter/store/derivation"
)

// earlyFarm has a machine behind a slow link, which keeps the output of base, that top needs, which
// waits for something else.
type earlyFarm struct {
	*farm
	base, top store.Path
	topID     string
	exports   atomic.Int64
}

func newEarlyFarm(t *testing.T, change func(*Config), onExport func(context.Context)) *earlyFarm {
	f := &earlyFarm{farm: newFarm(t, change, "near", "far")}
	f.ready("near", "far")
	f.inLoop(func(l *loop) {
		l.byName["near"].peer.FetchBandwidth.Set(100e6)
		l.byName["far"].peer.FetchBandwidth.Set(1e6)
	})
	f.agents["far"].set(func(a *fakeAgent) {
		a.onExport = func(ctx context.Context) {
			f.exports.Add(1)
			if onExport != nil {
				onExport(ctx)
			}
		}
	})
	f.base = f.derive(&derivation.Derivation{System: "x86_64-linux", Env: []derivation.EnvVar{{Name: "requiredSystemFeatures", Value: "on-far"}}}, "base", "")
	f.top = f.drv("top", "", f.base, f.drv("other", "hold"))
	f.topID = f.submit(f.top)[0]
	time.Sleep(2 * time.Minute)
	return f
}

func (f *farm) inLoop(look func(l *loop)) {
	f.t.Helper()
	if err := f.c.do(f.t.Context(), look); err != nil {
		f.t.Fatal(err)
	}
}

func TestComesHomeEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newEarlyFarm(t, nil, nil)
		if !f.valid(f.output(f.base)) || f.exports.Load() != 1 || f.agents["far"].knows() != 0 {
			t.Errorf("base is at home: %v, after %d exports; far knows %d builds", f.valid(f.output(f.base)), f.exports.Load(), f.agents["far"].knows())
		}
		if b := f.children()[f.base]; b.State != api.Succeeded {
			t.Errorf("base is %s", b.State)
		}
		f.releaseAll("other")
		f.awaitState(f.topID, api.Succeeded)
		f.idle()
		if f.exports.Load() != 1 {
			t.Errorf("far exported %d times", f.exports.Load())
		}
	})
}

// TestComesHomeLater shows when outputs stay where they are: nobody else may need them, or the head has
// little room.
func TestComesHomeLater(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"only there": func(c *Config) { c.Machines[0].MandatoryFeatures = []string{"unheard-of"} },
		"little room": func(c *Config) {
			c.HeadLimits = headroom.Limits{MinFreeDisk: 1 << 20}
			c.HeadSpace = func() (api.HeadStatus, error) { return api.HeadStatus{FreeDisk: 2 << 20}, nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newEarlyFarm(t, change, nil)
				if f.exports.Load() != 0 {
					t.Errorf("far exported %d times", f.exports.Load())
				}
				f.releaseAll("other")
				f.awaitState(f.topID, api.Succeeded)
				f.idle()
			})
		})
	}
}

// TestEarlyGivenUp has nobody need what comes home early any more, or somebody want it at once.
func TestEarlyGivenUp(t *testing.T) {
	stuck := func(ctx context.Context) { <-ctx.Done() }
	t.Run("canceled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newEarlyFarm(t, nil, stuck)
			f.inLoop(func(l *loop) {
				if base := l.tasks[f.base]; !base.early() || base.kept == nil || len(l.byName["far"].attempts) != 1 {
					t.Errorf("base does not come home: %+v", base)
				}
				for _, s := range l.schedulerMachines(l.now()) {
					if s.Name == "far" && len(s.Busy) != 0 {
						t.Error("it takes a slot")
					}
				}
			})
			if _, _, err := f.c.Cancel(t.Context(), []string{f.topID}, ""); err != nil {
				t.Fatal(err)
			}
			f.idle()
			if f.valid(f.output(f.base)) || f.machine("far").peer.Fetching.Pending() != 0 {
				t.Error("it came home")
			}
		})
	})
	t.Run("wanted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// Whoever wants it now gets it by a stream of his own, or by the one that is under way
			// if he came before that was ended.
			goOn := make(chan struct{})
			f := newEarlyFarm(t, nil, func(ctx context.Context) {
				select {
				case <-ctx.Done():
				case <-goOn:
				}
			})
			id := f.submit(f.base)[0]
			synctest.Wait()
			close(goOn)
			f.awaitState(id, api.Succeeded)
			if n := f.exports.Load(); !f.valid(f.output(f.base)) || n < 1 || n > 2 {
				t.Errorf("after %d exports it is not at home", n)
			}
			f.releaseAll("other")
			f.awaitState(f.topID, api.Succeeded)
			f.idle()
		})
	})
}
