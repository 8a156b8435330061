package peer

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bandwidth is what one direction of a link carries, in bytes/s: a moving average of measurements.
// What is measured is the whole link: bytes of all streams over the time in which there is one at
// least.
type Bandwidth struct {
	moved atomic.Int64 // bytes, by all streams

	mu      sync.Mutex
	average float64
	changed bool
	streams int
	// began is when the present measurement did, and before what had been moved then.
	began  time.Time
	before int64
}

const (
	// minBandwidthBytes is how large a measurement must be to say something.
	minBandwidthBytes = 256 << 10
	// bandwidthWeight is the weight of a measurement in the average.
	bandwidthWeight = 0.3
	// measureAfter is how long one takes at least while streams follow one another.
	measureAfter = time.Second
)

// Start notes a stream. Its bytes are counted by moved.
func (b *Bandwidth) Start(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.streams++; b.streams == 1 {
		b.began, b.before = now, b.moved.Load()
	}
}

// End notes the end of a stream. One that failed says nothing of the link, whatever was beside it.
func (b *Bandwidth) End(now time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams--
	bytes, took := b.moved.Load()-b.before, now.Sub(b.began)
	enough := bytes >= minBandwidthBytes && took > 0
	switch {
	case ok && enough && (b.streams == 0 || took >= measureAfter):
		b.observeLocked(float64(bytes) / took.Seconds())
	case ok && b.streams > 0:
		return
	}
	b.began, b.before = now, b.moved.Load()
}

// Moved counts bytes of a stream.
func (b *Bandwidth) Moved(n int) { b.moved.Add(int64(n)) }

func (b *Bandwidth) observeLocked(sample float64) {
	if b.average == 0 {
		b.average = sample
	}
	b.average += bandwidthWeight * (sample - b.average)
	b.changed = true
}

// Value returns the average; 0 if it is not known.
func (b *Bandwidth) Value() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.average
}

// Set sets the average, as an earlier coordinator knew it, unless it is known.
func (b *Bandwidth) Set(average float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.average == 0 {
		b.average = average
	}
}

// TakeChanged reports whether something was measured since it was last called.
func (b *Bandwidth) TakeChanged() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := b.changed
	b.changed = false
	return changed
}
