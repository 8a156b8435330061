package coordinator

import (
	"context"
	"sync"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/attic"
	"lighter/internal/coordinator/buildlog"
)

func newPruner(c *Coordinator) *attic.Pruner {
	return attic.New(attic.Options{
		Ledger: c.ledger, Logs: c.logs, Logger: c.log, Now: c.now, StateFolder: c.cfg.StateFolder,
		KnownToMachines: c.knownToMachines, LogsOf: c.logsOf, HooksSeen: c.eventHooks.Seen,
		Flush: func(ctx context.Context) error { return c.durable(ctx, func(*loop) error { return nil }) },
	})
}

// Prune moves old builds out of the ledger into an attic; see [attic.Pruner].
func (c *Coordinator) Prune(ctx context.Context, req *api.Prune) (*api.Pruned, error) {
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	return c.pruner.Prune(ctx, req)
}

// knownToMachines returns the ids of the builds that machines know, and the names of the
// machines that can't say what they know.
func (c *Coordinator) knownToMachines(ctx context.Context) (builds, away map[string]bool, err error) {
	builds, away = make(map[string]bool), make(map[string]bool)
	var up []*machine
	if err := c.do(ctx, func(l *loop) {
		for _, m := range l.machines {
			if m.state == api.MachineUp {
				up = append(up, m)
			} else {
				away[m.Name] = true
			}
		}
	}); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.ContactTimeout)
	defer cancel()
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, m := range up {
		group.Go(func() {
			err := m.peer.Contain("a list of its builds", func() error {
				_, err := m.peer.Client.Builds(ctx, func(id string) (*agentapi.Asked, error) {
					mu.Lock()
					defer mu.Unlock()
					builds[id] = true
					return nil, nil
				})
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				m.log.Debug("the machine does not say which builds it knows", "err", err)
				away[m.Name] = true
			}
		})
	}
	group.Wait()
	return builds, away, nil
}

// logsOf returns the last logs that a build may have: those of earlier attempts have the same
// ids.
func (c *Coordinator) logsOf(b *api.Build) []buildlog.Name {
	list := []buildlog.Name{{ID: b.ID, Attempt: b.Attempt}}
	if b.Shares != "" {
		list = append(list, buildlog.Name{ID: b.Shares, Attempt: b.Attempt})
	}
	if b.Check > 0 {
		for _, id := range c.comparisons(b) {
			list = append(list, buildlog.Name{ID: id, Attempt: 1})
		}
	}
	return list
}
