package coordinator

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/peer"
	"lighter/machines"
	"lighter/store"
)

func TestGCDue(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	for _, tt := range []struct {
		name string
		m    *machine
		busy bool
		want bool
	}{
		{"never", &machine{host: &host{state: api.MachineUp}}, false, false},
		{"first", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineUp}}, false, true},
		{"first, busy", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineUp}}, true, true},
		{"down", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineDown}}, false, false},
		{"removed", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineUp}, removed: true}, false, false},
		{"too early", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineUp, standing: conduct.Standing{LastGC: ago(59 * time.Minute)}}}, false, false},
		{"due", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineUp, standing: conduct.Standing{LastGC: ago(time.Hour)}}}, false, true},
		{"due, but busy", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineUp, standing: conduct.Standing{LastGC: ago(61 * time.Minute)}}}, true, false},
		{"busy for long", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineUp, standing: conduct.Standing{LastGC: ago(80 * time.Minute)}}}, true, true},
		{"failed lately", &machine{Machine: machines.Machine{GCInterval: time.Hour}, host: &host{state: api.MachineUp, gcAfter: now.Add(time.Second)}}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, due := tt.m.gcDue(now, !tt.busy); due != tt.want {
				t.Errorf("due %v", due)
			}
		})
	}
}

// collecting is an agent whose garbage collections the test sees.
type collecting struct {
	*fakeAgent
	calls chan *agentapi.GCRequest
	mu    sync.Mutex
	err   error
	left  []store.GCLeft
}

func (a *collecting) CollectGarbage(ctx context.Context, req *agentapi.GCRequest) (*agentapi.GCResult, error) {
	select {
	case a.calls <- req:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return &agentapi.GCResult{Freed: 42, Left: a.left}, a.err
}

func (a *collecting) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

// TestTimedGC has the garbage of two machines collected, one after the other, also after a
// failure, and not again after a restart.
func TestTimedGC(t *testing.T) {
	calls := make(chan *agentapi.GCRequest)
	agents := make(map[string]*collecting)
	f := newFarm(t, func(c *Config) {
		inner := c.NewAgent
		for i := range c.Machines {
			c.Machines[i].GCInterval, c.Machines[i].GCOlderThan, c.Machines[i].GCMaxFreed = time.Hour, time.Minute, 7
			agents[c.Machines[i].Name] = &collecting{calls: calls}
		}
		c.NewAgent = func(m machines.Machine) peer.Agent {
			agents[m.Name].fakeAgent = inner(m).(*fakeAgent)
			return agents[m.Name]
		}
		c.Limits.IdleAlarm = 2 * time.Millisecond
	}, "m1", "m2")
	agents["m1"].fail(errors.New("the store is locked"))
	for range 2 {
		select {
		case req := <-calls:
			if *req != (agentapi.GCRequest{MaxFreed: 7, OlderThan: 60}) {
				t.Errorf("got %+v", req)
			}
		case <-time.After(patience):
			t.Fatal("nobody collects garbage")
		}
	}
	f.until("one went well", func() bool { return f.statusOf("m2").LastGC != nil })
	if s := f.statusOf("m1"); s.LastGC != nil || s.Error != "its garbage was not collected: the store is locked" {
		t.Errorf("got %+v", s)
	}
	agents["m1"].mu.Lock()
	agents["m1"].err, agents["m1"].left = nil, []store.GCLeft{{Problem: "it is in use"}}
	agents["m1"].mu.Unlock()
	if err := f.c.do(t.Context(), func(l *loop) { l.byName["m1"].gcAfter = time.Time{} }); err != nil {
		t.Fatal(err)
	}
	<-calls
	f.until("it goes well", func() bool { return f.statusOf("m1").LastGC != nil && f.statusOf("m1").Error == "" })
	f.shutDown()
	f.start()
	f.awaitState(f.submit(f.drv("one", ""))[0], api.Succeeded)
	if s := f.statusOf("m1"); s.LastGC == nil {
		t.Error("the time is not kept")
	}
	select {
	case <-calls:
		t.Error("it is collected again")
	default:
	}
	if got := strings.Join(f.events(""), "\n"); !strings.Contains(got, "m1 garbage was not collected: the store is locked") {
		t.Errorf("events %s", got)
	} else if !strings.Contains(got, "m1 of its garbage 1 thing could not be deleted: it is in use") {
		t.Errorf("events %s", got)
	}
	f.idle()
}
