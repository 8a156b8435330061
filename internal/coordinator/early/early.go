// Package early decides which outputs come home before anybody asks for them. What stays on a machine
// behind a slow link is waited for by whatever needs it elsewhere, while the link was idle before. So
// it comes home as soon as it is made, after all that is wanted now.
package early

import "slices"

const (
	// slow is what a link carries at most, in bytes/s, to be slow whatever the others are.
	slow = 10e6
	// farSlower is how many times slower than that of the farm's middle one a link is slow too.
	farSlower = 16
	// maxAtOnce is how many outputs come home early from one machine at the same time, and maxBytes
	// is how many bytes they have unless there is only one.
	maxAtOnce = 4
	maxBytes  = 256 << 20
	// maxWaiting is how many outputs wait at most; others may be added later.
	maxWaiting = 1000
)

// Slow reports whether a link, of which the rate in bytes/s was measured, is slow. others has the
// rates of all links; 0, in both, is not known.
func Slow(rate float64, others []float64) bool {
	if rate <= 0 {
		return false
	}
	known := slices.DeleteFunc(slices.Clone(others), func(r float64) bool { return r <= 0 })
	slices.Sort(known)
	return rate <= slow || len(known) > 0 && rate*farSlower <= known[len(known)/2]
}

// Line is what is to come home early from one machine. The zero value is empty. It is not safe for
// concurrent use.
type Line[T comparable] struct {
	waiting  []T
	underWay map[T]int64 // bytes
	bytes    int64       // of all that is under way
}

// Add has something wait for its turn, unless it does already or is under way, or too much waits.
func (l *Line[T]) Add(x T) {
	if _, ok := l.underWay[x]; !ok && len(l.waiting) < maxWaiting && !slices.Contains(l.waiting, x) {
		l.waiting = append(l.waiting, x)
	}
}

// Next returns what may start now, and takes it for under way. size says how many bytes something has,
// or that it need not come any more.
func (l *Line[T]) Next(size func(T) (bytes int64, wanted bool)) (x T, ok bool) {
	for len(l.waiting) > 0 && len(l.underWay) < maxAtOnce {
		x = l.waiting[0]
		bytes, wanted := size(x)
		if wanted && len(l.underWay) > 0 && l.bytes+bytes > maxBytes {
			break
		}
		l.waiting = l.waiting[1:]
		if !wanted {
			continue
		}
		if l.underWay == nil {
			l.underWay = make(map[T]int64)
		}
		l.underWay[x] = bytes
		l.bytes += bytes
		return x, true
	}
	return *new(T), false
}

// Over notes that something is no longer under way.
func (l *Line[T]) Over(x T) {
	l.bytes -= l.underWay[x]
	delete(l.underWay, x)
}
