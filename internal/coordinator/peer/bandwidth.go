package peer

import (
	"sync"
	"time"
)

// Bandwidth is a moving average of measurements, in bytes/s.
type Bandwidth struct {
	mu      sync.Mutex
	average float64
	changed bool
}

// How large a transfer must be to say something about the bandwidth, and its weight in the
// average.
const (
	minBandwidthBytes = 256 << 10
	bandwidthWeight   = 0.3
)

func (b *Bandwidth) observe(bytes int64, took time.Duration) {
	if bytes < minBandwidthBytes || took <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	sample := float64(bytes) / took.Seconds()
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

// Set sets the average, as an earlier coordinator knew it.
func (b *Bandwidth) Set(average float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.average = average
}

// TakeChanged reports whether something was measured since it was last called.
func (b *Bandwidth) TakeChanged() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := b.changed
	b.changed = false
	return changed
}
