// Package backoff says how long to wait before what failed is tried again.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Pause is how long something that failed is left alone. The zero value is for what did not. It
// is not for several goroutines at a time.
type Pause struct {
	Until time.Time
	Cause error // of the last failure

	failures int // in a row
}

// Begin begins the pause, as After, when something has failed once more.
func (p *Pause) Begin(cause error, first, most time.Duration) {
	p.failures++
	p.Cause, p.Until = cause, time.Now().Add(After(p.failures, first, most, rand.Float64()))
}

// Left returns how much of the pause is left; 0 or less means none.
func (p *Pause) Left() time.Duration { return time.Until(p.Until) }

// After returns the pause after that many failures in a row: first after one, and twice as long
// after each more, at most most. The pause is shorter by up to a quarter, by chance in [0, 1),
// so that what failed at the same time is not tried again at the same time.
func After(failures int, first, most time.Duration, chance float64) time.Duration {
	pause := first
	for n := 1; n < failures && 0 < pause && pause < most; n++ {
		pause = min(2*pause, most)
	}
	return time.Duration(float64(pause) * (1 - chance/4))
}

// Wait waits for a time, or for the end of the context, whose cause it returns.
func Wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
