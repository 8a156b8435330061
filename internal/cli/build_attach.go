package cli

import (
	"context"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/command"
)

// maxHeld bounds the builds that one command holds: their ids go into one request.
const maxHeld = 10_000

// hold tells the coordinator that these builds are wanted, until release is called or
// this process is gone; it tells a coordinator that replaces this one too.
func hold(ctx context.Context, client *apiclient.Client, builds []*api.Build) (release func(), err error) {
	if len(builds) > maxHeld {
		return nil, command.UsageErrorf("--attached is for at most %d builds, not for %d", maxHeld, len(builds))
	}
	var ids []string
	for _, b := range builds {
		if b.Attached {
			ids = append(ids, b.ID)
		}
	}
	if len(ids) == 0 {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		const pause = 500 * time.Millisecond
		for ctx.Err() == nil {
			_ = client.Attach(ctx, ids...) // ends when the coordinator does; what is wrong shows in the builds
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	})
	return func() {
		cancel()
		group.Wait()
	}, nil
}
