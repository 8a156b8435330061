package coordinator

import (
	"context"
	"maps"

	"lighter/internal/api"
	"lighter/internal/coordinator/attic"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/coordinator/compare"
	"lighter/internal/coordinator/peer"
)

func newPruner(c *Coordinator) *attic.Pruner {
	return attic.New(attic.Options{
		Ledger: c.ledger, Logs: c.logs, Logger: c.log, Now: c.now, StateFolder: c.cfg.StateFolder,
		KnownToMachines: c.knownToMachines, LogsOf: func(b *api.Build) []buildlog.Name { return compare.LogsOf(b, c.limits.MaxAttempts) }, HooksSeen: c.eventHooks.Seen,
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
	away = make(map[string]bool)
	up := make(map[string]*peer.Peer)
	if err := c.do(ctx, func(l *loop) {
		for _, m := range l.machines {
			if m.state == api.MachineUp {
				up[m.Name] = m.peer
			} else {
				away[m.Name] = true
			}
		}
	}); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.ContactTimeout)
	defer cancel()
	builds, silent := peer.Known(ctx, up)
	maps.Copy(away, silent)
	return builds, away, nil
}
