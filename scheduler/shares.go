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

// Names returns the shares that have used something, sorted.
func (s *Shares) Names() []string { return slices.Sorted(maps.Keys(s.used)) }
