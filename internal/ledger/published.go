package ledger

import (
	"encoding/binary"
	"sync"

	"lighter/internal/api"
)

// published is what readers see of what was written, besides the database.
type published struct {
	mu      sync.Mutex       // guards all below
	last    uint64           // the last event
	removed watermark        // raised before what it covers is removed
	counts  map[countKey]int // of builds
	changed chan struct{}    // closed and made again when last changes
}

// countKey is what builds are counted by.
type countKey struct {
	system string
	state  api.State
}

// news returns the number of the last event and a channel that is closed when
// there are more.
func (p *published) news() (uint64, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, p.changed
}

func (p *published) watermark() watermark {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.removed
}

func (p *published) setWatermark(w watermark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removed = w
}

// eachCount calls fn for each state of a system that builds are in.
func (p *published) eachCount(fn func(countKey, int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, n := range p.counts {
		if n != 0 {
			fn(key, n)
		}
	}
}

// advance publishes events up to the last one, and what is added to the counts.
func (p *published) advance(last uint64, counts map[countKey]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, n := range counts {
		p.counts[key] += n
	}
	if p.last != last {
		p.last = last
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// watermark says up to where numbers belong to what may be gone.
type watermark struct {
	event uint64 // up to here events may be missing
	build uint64
}

func (w watermark) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, w.event), w.build)
}
