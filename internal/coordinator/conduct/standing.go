package conduct

import "time"

// Standing is what must survive a restart of what is held against a host, and done to it.
type Standing struct {
	// Quarantined says why it gets no builds until QuarantinedUntil.
	Quarantined      string     `json:"quarantined,omitempty"`
	QuarantinedUntil *time.Time `json:"quarantinedUntil,omitempty"`
	// Disagreed counts builds that failed there and succeeded elsewhere.
	Disagreed int        `json:"disagreed,omitempty"`
	Lost      bool       `json:"lost,omitempty"` // its builds go on elsewhere
	LastGC    *time.Time `json:"lastGC,omitempty"`
}

// And returns what holds of a host of which two entries said different things when they were not
// known to be of one host: the worse, and the later.
func (s Standing) And(other Standing) Standing {
	if s.Quarantined == "" {
		s.Quarantined, s.QuarantinedUntil = other.Quarantined, other.QuarantinedUntil
	}
	if other.LastGC != nil && (s.LastGC == nil || s.LastGC.Before(*other.LastGC)) {
		s.LastGC = other.LastGC
	}
	s.Disagreed, s.Lost = max(s.Disagreed, other.Disagreed), s.Lost || other.Lost
	return s
}

// Quarantine begins one, unless the host is in quarantine; it reports whether it did.
func (s *Standing) Quarantine(why string, until time.Time) bool {
	if s.Quarantined != "" {
		return false
	}
	s.Quarantined, s.QuarantinedUntil = why, &until
	return true
}

// Free ends a quarantine, and forgives all that led to it.
func (s *Standing) Free() { s.Quarantined, s.QuarantinedUntil, s.Disagreed = "", nil, 0 }

// Expire ends a quarantine whose time is over, which it reports. Half of what led to it is
// forgiven: the host is tried again.
func (s *Standing) Expire(now time.Time) bool {
	if s.QuarantinedUntil == nil || now.Before(*s.QuarantinedUntil) {
		return false
	}
	s.Quarantined, s.QuarantinedUntil, s.Disagreed = "", nil, s.Disagreed/2
	return true
}

// gcPatience is how long collecting garbage waits until nothing travels to or from the machine, as
// a part of the machine's interval.
const gcPatience = 0.25

// GCDue reports whether to collect garbage now that is collected at intervals, and how long overdue that is.
func (s *Standing) GCDue(now time.Time, interval time.Duration, idle bool) (overdue time.Duration, due bool) {
	overdue = interval
	if s.LastGC != nil {
		overdue = now.Sub(*s.LastGC) - interval
	}
	if overdue < 0 {
		return 0, false
	}
	return overdue, idle || float64(overdue) > gcPatience*float64(interval)
}
