package peer

import (
	"context"
	"sync"

	"lighter/internal/agentapi"
)

// Known asks the agents of machines, by their names, which builds they know. It returns the ids
// of these, and the names of the machines that did not say.
func Known(ctx context.Context, machines map[string]*Peer) (builds, silent map[string]bool) {
	builds, silent = make(map[string]bool), make(map[string]bool)
	var mu sync.Mutex
	var group sync.WaitGroup
	for name, p := range machines {
		group.Go(func() {
			err := p.Contain("a list of its builds", func() error {
				_, err := p.Client.Builds(ctx, func(id string) (*agentapi.Asked, error) {
					mu.Lock()
					defer mu.Unlock()
					builds[id] = true
					return nil, nil
				})
				return err
			})
			if err != nil {
				p.log.Debug("the machine does not say which builds it knows", "err", err)
				mu.Lock()
				defer mu.Unlock()
				silent[name] = true
			}
		})
	}
	group.Wait()
	return builds, silent
}
