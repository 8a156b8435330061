package scheduler

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Shares knows how much of the machines each of those who ask for builds may use, and how much each
// has used of late. It is not safe for concurrent use.
type Shares struct {
	halfLife time.Duration
	weight   func(share string) float64
	used     map[string]usage
	present  map[string]bool // shares that had builds when a round was planned last
}

// usage is slot time, faded as of a time.
type usage struct {
	seconds float64
	at      time.Time
}

// NewShares makes shares of which nobody has used anything. What was used counts half after
// halfLife, and always if that is 0. The weight of a share must be more than 0; nil gives all the
// same.
func NewShares(halfLife time.Duration, weight func(share string) float64) *Shares {
	return &Shares{halfLife: halfLife, weight: weight, used: make(map[string]usage)}
}

// Use notes that a share has held slots for so long together.
func (s *Shares) Use(share string, slotTime time.Duration, now time.Time) {
	s.used[share] = usage{s.faded(share, now) + slotTime.Seconds(), now}
}

// Used returns the slot time that a share has used, what is long ago counting less.
func (s *Shares) Used(share string, now time.Time) time.Duration {
	return duration(s.faded(share, now))
}

func (s *Shares) faded(share string, now time.Time) float64 {
	u := s.used[share]
	if s.halfLife <= 0 || !now.After(u.at) {
		return u.seconds
	}
	return u.seconds * math.Exp2(-now.Sub(u.at).Seconds()/s.halfLife.Seconds())
}

func (s *Shares) weightOf(share string) float64 {
	if s.weight == nil {
		return 1
	}
	if w := s.weight(share); w > 0 {
		return w
	}
	return 1
}

// arrive learns which shares have builds, and what each of these holds, in slot seconds to come.
// It returns what each counts for: used or held. One that had no builds lately starts level with
// the least served of those that had, and a second ahead, so that it is next: what others used of idle machines
// meanwhile is no debt.
func (s *Shares) arrive(held map[string]float64, now time.Time) map[string]float64 {
	level := math.Inf(1)
	counts := make(map[string]float64, len(held))
	for share, h := range held {
		counts[share] = s.faded(share, now) + h
		if s.present[share] {
			level = min(level, counts[share]/s.weightOf(share))
		}
	}
	present := make(map[string]bool, len(held))
	for share, count := range counts {
		present[share] = true
		if lacks := level*s.weightOf(share) - 1 - count; !s.present[share] && lacks > 0 && !math.IsInf(level, 1) {
			s.used[share] = usage{s.faded(share, now) + lacks, now}
			counts[share] += lacks
		}
	}
	s.present = present
	s.forget(now)
	return counts
}

// maxShares is how many shares without builds are remembered, at least.
const maxShares = 1000

// forget drops what does not count any more.
func (s *Shares) forget(now time.Time) {
	if len(s.used) <= maxShares+len(s.present) {
		return
	}
	for share := range s.used {
		if !s.present[share] && s.faded(share, now) < 1 {
			delete(s.used, share)
		}
	}
}

func (s *Shares) clone() *Shares {
	c := *s
	c.used, c.present = maps.Clone(s.used), maps.Clone(s.present)
	return &c
}

// Names returns the shares that have used something, sorted.
func (s *Shares) Names() []string { return slices.Sorted(maps.Keys(s.used)) }
