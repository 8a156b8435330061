// Package conduct is what is held against a host, and what follows: that it rests, that it is in
// quarantine, that it is beyond its limits; and how often people hear of it. It is given the time,
// and belongs to one goroutine.
//
// A host can be at fault in two ways that a look at it does not show. If builds fail there that
// succeed elsewhere, it is put into quarantine after a few of them, for a person to find. If it
// fails for its own reasons, one build after the other, it would do so with all that wait: it
// rests, for a time that grows with every failure, and is tried again.
package conduct

import (
	"fmt"
	"time"

	"lighter/store"
)

// How long a host rests that fails for its own reasons.
const (
	// RestAfter is after how many builds in a row, of different derivations, it rests.
	RestAfter = 3
	firstRest = time.Second
	maxRest   = 10 * time.Minute
	// maxMishaps bounds what is remembered of a host, and so how its rest grows.
	maxMishaps = 32
)

// forgiveAfter is the number of good builds after which a build that failed only on this
// host is forgiven: builds that fail now and then are common, and not the host's fault.
const forgiveAfter = 20

// Record is what is held against a host since it last built something well.
type Record struct {
	mishaps    map[store.Path]bool // derivations that failed there, and nowhere else, for its own reasons
	faults     int                 // times that it did what no agent may
	restUntil  time.Time
	restReason string
	restFault  bool // for a fault of its own, not for mishaps
	goodBuilds int  // since the start
}

// Mishap counts a failure of a build that was blamed on the host, once for each derivation. It
// returns for how long the host rests from now; 0 if it does not.
func (r *Record) Mishap(drv store.Path, why string, now time.Time) time.Duration {
	if r.mishaps[drv] || len(r.mishaps) == maxMishaps {
		return 0
	}
	if r.mishaps == nil {
		r.mishaps = make(map[store.Path]bool)
	}
	r.mishaps[drv] = true
	n := len(r.mishaps)
	if n < RestAfter {
		return 0
	}
	r.restFault = false
	return r.rest(n-RestAfter, fmt.Sprintf("%d builds in a row failed for its own reasons, the last one: %s", n, why), now)
}

// Fault counts what no agent may do, and returns for how long the host rests from now.
func (r *Record) Fault(what string, now time.Time) time.Duration {
	r.faults++
	r.restFault = true
	return r.rest(r.faults-1, what, now)
}

// rest begins one that doubles with n.
func (r *Record) rest(n int, why string, now time.Time) time.Duration {
	rest := min(firstRest<<min(n, 20), maxRest)
	r.restUntil, r.restReason = now.Add(rest), why
	return rest
}

// Forgive no longer holds a derivation's failure against the host. It reports whether that ended
// a rest.
func (r *Record) Forgive(drv store.Path) bool {
	if !r.mishaps[drv] {
		return false
	}
	delete(r.mishaps, drv)
	if len(r.mishaps) >= RestAfter || r.restFault {
		return false
	}
	r.restUntil = time.Time{}
	return true
}

// RestUntil is when the last rest ends, or ended; zero if there was none.
func (r *Record) RestUntil() time.Time { return r.restUntil }

// RestReason is why the host rests, or did last; empty if it never did.
func (r *Record) RestReason() string { return r.restReason }

// Resting says why and until when the host gets no builds; empty if it does.
func (r *Record) Resting(now time.Time) string {
	if !now.Before(r.restUntil) {
		return ""
	}
	return fmt.Sprintf("resting until %s: %s", r.restUntil.Format(time.TimeOnly), r.restReason)
}

// Succeeded forgets what was held against a host that has built something. It reports whether
// a build that failed only there is to be forgiven too.
func (r *Record) Succeeded() bool {
	good := r.goodBuilds + 1
	*r = Record{goodBuilds: good}
	return good%forgiveAfter == 0
}
