package web

import (
	"context"
	"errors"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// ask asks the coordinator something, among a bounded number of others.
func (s *Server) ask(ctx context.Context, do func(context.Context, *apiclient.Client) error) error {
	select {
	case s.asks <- struct{}{}:
		defer func() { <-s.asks }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return do(ctx, s.client)
}

// statusAge is how old a status may be that is shown.
const statusAge = time.Second

// statuses has the coordinator's status, asked for at most once a second however many look.
type statuses struct {
	s *Server

	asking chan struct{} // has a place for who asks
	mu     sync.Mutex    // owns all below
	last   *api.Status   // nil before the first answer
	at     time.Time     // when that was asked for
	tried  time.Time     // when one was last asked for
	err    error         // of the last try
}

func newStatuses(s *Server) *statuses { return &statuses{s: s, asking: make(chan struct{}, 1)} }

// get returns a status that is not to be changed. Where the coordinator does not answer it is the last
// one, if there is one: see stale.
func (f *statuses) get(ctx context.Context) (*api.Status, error) {
	select {
	case f.asking <- struct{}{}:
		defer func() { <-f.asking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f.mu.Lock()
	fresh := f.s.now().Sub(f.tried) < statusAge
	f.mu.Unlock()
	if !fresh {
		f.fetch(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil {
		return nil, f.err
	}
	return f.last, nil
}

func (f *statuses) fetch(ctx context.Context) {
	at := f.s.now()
	var status *api.Status
	err := f.s.ask(ctx, func(ctx context.Context, c *apiclient.Client) (err error) {
		status, err = c.Status(ctx)
		return err
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried, f.err = at, err
	if err == nil {
		// What is nobody's business who looks at a page.
		status.Installation, status.Caller = nil, nil
		f.last, f.at = status, at
	}
}

// outdated has the next who asks get a new status: somebody has just changed something.
func (f *statuses) outdated() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried = time.Time{}
}

// stale says that the last status is old, because the coordinator does not answer.
func (f *statuses) stale() *Stale {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil || f.last == nil {
		return nil
	}
	text := "it gives an error"
	if errors.Is(f.err, api.ErrUnavailable) || errors.Is(f.err, context.DeadlineExceeded) {
		text = "it does not answer"
	}
	return &Stale{Since: f.at, Error: text}
}
