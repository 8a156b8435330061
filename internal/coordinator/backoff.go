package coordinator

import "time"

// backoff is how long a machine is left alone after it could not be reached: longer each
// time.
type backoff struct {
	first, most time.Duration
	failures    int // since it was reached last
}

// next returns the pause after another failure: twice the one before, less up to a quarter
// by chance in [0, 1). Where needsPerson says that time alone mends nothing, it is the longest.
func (b *backoff) next(needsPerson bool, chance float64) time.Duration {
	pause := b.first
	for n := b.failures; n > 0 && pause < b.most; n-- {
		pause = min(2*pause, b.most)
	}
	b.failures++
	if needsPerson {
		pause = max(pause, b.most)
	}
	return time.Duration(float64(pause) * (1 - chance/4))
}
