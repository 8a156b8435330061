package apiclient

import (
	"context"
	"errors"
	"time"

	"lighter/internal/api"
	"lighter/internal/backoff"
)

// Away reports whether an error says that no coordinator answers now, rather than what
// it answers.
func Away(err error) bool {
	var answer *api.Error
	return !errors.As(err, &answer) || errors.Is(err, api.ErrUnavailable)
}

// Outage is a time in which no coordinator answers. It starts with the first Wait.
type Outage struct {
	since time.Time
	pause time.Duration
}

// Wait pauses before the next try, for longer each time. Once the outage has lasted for
// patience it returns err, with which the last try failed; where the context ends, its cause.
func (o *Outage) Wait(ctx context.Context, patience time.Duration, err error) error {
	const firstPause, longestPause = 50 * time.Millisecond, 2 * time.Second
	if o.since.IsZero() {
		o.since, o.pause = time.Now(), firstPause
	}
	if time.Since(o.since) >= patience {
		return err
	}
	pause := o.pause
	o.pause = min(2*o.pause, longestPause)
	return backoff.Wait(ctx, pause)
}

// WhileAway calls do until the coordinator answers it, for good or ill, or has been away
// for longer than patience. It tells waiting, unless that is nil, that it waits.
func WhileAway(ctx context.Context, patience time.Duration, waiting func(error), do func() error) error {
	var outage Outage
	for {
		err := do()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !Away(err):
			return err
		case outage.since.IsZero() && waiting != nil && patience > 0:
			waiting(err)
		}
		if err := outage.Wait(ctx, patience, err); err != nil {
			return err
		}
	}
}
