package local

import (
	"context"
	"errors"
	"sync"

	"lighter/store"
)

// inflight are the builds that this open store is doing, by their first output.
type inflight struct {
	mu sync.Mutex
	m  map[store.Path]*flight
}

// flight is one of them.
type flight struct {
	done   chan struct{}
	result *store.BuildResult
	err    error
}

// do calls build, unless a build of the same output is under way: then it waits for that
// and takes its result. It does not take a failure that only comes from how that build was
// requested, but tries again.
func (f *inflight) do(ctx context.Context, output store.Path, build func() (*store.BuildResult, error)) (*store.BuildResult, error) {
	for {
		f.mu.Lock()
		other := f.m[output]
		if other == nil {
			own := &flight{done: make(chan struct{})}
			if f.m == nil {
				f.m = make(map[store.Path]*flight)
			}
			f.m[output] = own
			f.mu.Unlock()
			own.result, own.err = build()
			f.mu.Lock()
			delete(f.m, output)
			f.mu.Unlock()
			close(own.done)
			return own.result, own.err
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-other.done:
		}
		if other.err == nil || isFinal(other.err) {
			return other.result, other.err
		}
	}
}

// isFinal reports whether the next attempt would fail in the same way.
func isFinal(err error) bool {
	var failure *store.BuildError
	if !errors.As(err, &failure) {
		return false
	}
	return failure.Failure != store.FailedTimeout && failure.Failure != store.FailedSilence
}
