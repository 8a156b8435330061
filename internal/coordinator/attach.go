package coordinator

import (
	"context"
	"time"
)

// Attach keeps attached builds wanted for as long as ctx lasts and the coordinator runs. It
// calls held once they are.
func (c *Coordinator) Attach(ctx context.Context, ids []string, held func() error) error {
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	if err := c.do(ctx, func(l *loop) { l.attach(ids, 1) }); err != nil {
		return err
	}
	defer c.post(func(l *loop) { l.attach(ids, -1) })
	if err := held(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// attach counts clients that come or go.
func (l *loop) attach(ids []string, n int) {
	for _, id := range ids {
		if l.attached[id] += n; l.attached[id] == 0 {
			delete(l.attached, id)
			l.awaitClient(id)
		}
	}
}

// awaitClient cancels a build if no client wants it after AttachGrace.
func (c *Coordinator) awaitClient(id string) {
	c.group.Go(func() {
		timer := time.NewTimer(c.limits.AttachGrace)
		defer timer.Stop()
		select {
		case <-c.ctx.Done():
		case <-timer.C:
			c.post(func(l *loop) {
				if lb := l.builds[id]; lb != nil && l.attached[id] == 0 {
					lb.cancel(l, "its clients are gone")
				}
			})
		}
	})
}
