package coordinator

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// gcRetry is the time after which a collection of a machine's garbage that failed is tried again.
const gcRetry = 10 * time.Minute

// timedGC says which machine's garbage is being collected because it was due; nil if none.
type timedGC struct{ machine *machine }

// collectWhenDue starts collecting the garbage of the machine for which that is most overdue,
// unless a machine's is being collected already.
func (l *loop) collectWhenDue(now time.Time) {
	if l.gc.machine != nil {
		return
	}
	var chosen *machine
	var most time.Duration
	for _, m := range l.machines {
		if overdue, due := m.gcDue(now, m.idle()); due && (chosen == nil || overdue > most) {
			chosen, most = m, overdue
		}
	}
	if chosen == nil {
		return
	}
	m, req := chosen, &agentapi.GCRequest{MaxFreed: chosen.GCMaxFreed, OlderThan: api.Seconds(chosen.GCOlderThan.Seconds())}
	l.gc.machine = m
	p := m.peer
	l.group.Go(func() {
		result, err := p.CollectGarbage(l.ctx, req)
		l.post(func(l *loop) {
			l.gc.machine = nil
			m.collected(l, result, err)
		})
	})
}

// gcDue reports whether to collect a machine's garbage now, and how long overdue that is. While
// the machine is not idle it waits for a time.
func (m *machine) gcDue(now time.Time, idle bool) (overdue time.Duration, due bool) {
	if m.GCInterval <= 0 || m.state != api.MachineUp || m.leaving() || now.Before(m.gcAfter) {
		return 0, false
	}
	return m.standing.GCDue(now, m.GCInterval, idle)
}

// idle reports whether nothing travels to or from the host.
func (h *host) idle() bool { return h.c.moving.None(h.name()) && h.peer.Sending.Pending() == 0 }

// collected notes how collecting a machine's garbage went.
func (m *machine) collected(l *loop, result *agentapi.GCResult, err error) {
	if err != nil {
		m.gcError, m.gcAfter = agentapi.Printable(err.Error(), api.MaxProblem), l.now().Add(gcRetry)
		m.log.Warn("the machine's garbage was not collected", "err", m.gcError)
		m.tell(l, "garbage was not collected: "+m.gcError)
		return
	}
	m.noteGC(l)
	m.log.Info("the machine's garbage was collected", "items", len(result.Deleted), "freed", quantity.Bytes(result.Freed))
	if len(result.Left) > 0 {
		left := human.Count(len(result.Left)+result.LeftMore, "thing") + " could not be deleted: " + result.Left[0].Problem
		m.log.Warn("of the machine's garbage "+left, "item", result.Left[0].Path)
		m.tell(l, "of its garbage "+left)
	}
}

func (h *host) noteGC(l *loop) {
	now := l.now()
	h.standing.LastGC, h.gcError = &now, ""
	h.has.Clear()
	h.saveSetting(l)
	h.peer.Poke() // its free disk has changed
}

// CollectGarbage deletes what nothing needs on a machine, now.
func (c *Coordinator) CollectGarbage(ctx context.Context, name string, opts api.MachineGC) (*api.MachineGCResult, error) {
	m, p, err := c.machine(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := opts.Check(); err != nil {
		return nil, err
	}
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	result, err := p.CollectGarbage(ctx, &agentapi.GCRequest{MaxFreed: opts.MaxFreed, OlderThan: opts.OlderThan, DryRun: opts.DryRun})
	if err != nil {
		if ended := context.Cause(ctx); ended != nil {
			return nil, ended
		}
		return nil, &api.Error{Status: http.StatusBadGateway, Code: api.CodeMachineError, Message: fmt.Sprintf("machine %s: %s", name, err)}
	}
	if !opts.DryRun {
		c.post(func(l *loop) { m.noteGC(l) })
	}
	return result.ForClients(), nil
}
