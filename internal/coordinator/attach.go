package coordinator

import (
	"fmt"
	"net/http"
	"time"
)

// getAttach holds the builds with Attached that a client names wanted, for as long as the
// client keeps the answer open.
func (c *Coordinator) getAttach(w http.ResponseWriter, r *http.Request) error {
	who, err := c.caller(r.Context())
	if err != nil {
		return err
	}
	ids := r.URL.Query()["build"]
	if len(ids) == 0 || len(ids) > maxCancel {
		return badRequest("want 1 to %d builds, got %d", maxCancel, len(ids))
	}
	for i, id := range ids {
		b, err := c.findBuild(r.Context(), id)
		if err != nil {
			return err
		}
		if !b.Attached {
			return badRequest("build %s was not submitted as one that is canceled when its clients are gone", b.ID)
		}
		if b.Submitter != nil && !who.mayChange(b) {
			return who.refuse(fmt.Sprintf("hold build %s, which is %s", b.ID, whose(b)))
		}
		ids[i] = b.ID
	}
	ctx, cancel := c.untilStopped(r.Context())
	defer cancel()
	if err := c.do(ctx, func(l *loop) { l.attach(ids, 1) }); err != nil {
		return err
	}
	defer c.post(func(l *loop) { l.attach(ids, -1) })
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return nil // the client is gone
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

// awaitClient cancels a build unless a client wants it, after the time in which one may
// come back.
func (c *Coordinator) awaitClient(id string) {
	c.group.Go(func() {
		timer := time.NewTimer(c.limits.AttachGrace)
		defer timer.Stop()
		select {
		case <-c.ctx.Done():
		case <-timer.C:
			c.post(func(l *loop) {
				if r := l.builds[id]; r != nil && l.attached[id] == 0 {
					r.cancel(l, "its clients are gone")
				}
			})
		}
	})
}
