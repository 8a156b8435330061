package sshtransport

import "time"

// How long a machine is left alone after it could not be reached.
const (
	firstPause = time.Second
	maxPause   = time.Minute // so long a machine that is back may wait to be noticed
	// permanentPause is the least after an error that a person must do something about.
	permanentPause = time.Minute
)

// backoff computes growing pauses. The zero value is ready.
type backoff struct{ failures int }

// next returns the pause after another failure: double the one before, give or take a
// quarter by chance in [0, 1).
func (b *backoff) next(permanent bool, chance float64) time.Duration {
	pause := maxPause
	if b.failures < 6 { // 2⁶ s is more than maxPause
		pause = firstPause << b.failures
	}
	b.failures++
	if permanent {
		pause = max(pause, permanentPause)
	}
	pause = time.Duration(float64(pause) * (0.75 + chance/2))
	return min(pause, maxPause)
}
