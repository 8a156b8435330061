package scheduler

import "math"

const (
	// maxExact is up to how many machines are all looked at for each build.
	maxExact = 64
	// looks is how many of about the same speed are looked at where there are more.
	looks = 2
	// sameSpeed is how much slower the slowest of a bucket may be than its fastest.
	sameSpeed = 0.9
)

// bucket has machines of about the same speed, that first which is free first. Since nothing becomes
// free during a round, what the heap knows of one may be too early, but never too late.
type bucket struct {
	speed float64 // of the fastest
	heap  heap[at]
}

// at is when a machine is free, in seconds from now.
type at struct {
	*candidate
	time float64
}

func (c *candidate) freeAt() float64 { return c.wait() + c.pending/c.bandwidth }

// bucketsOf sorts the machines for a demand into buckets, the fastest first.
func (r *round) bucketsOf(e *eligible) []*bucket {
	if e.buckets != nil {
		return e.buckets
	}
	var last *bucket
	for i := e.usable.next(0); i >= 0; i = e.usable.next(i + 1) {
		c := r.machines.all[i]
		if last == nil || c.speed < last.speed*sameSpeed {
			last = &bucket{speed: c.speed}
			last.heap.less = func(a, b at) bool {
				if a.time != b.time {
					return a.time < b.time
				}
				return a.index < b.index
			}
			e.buckets = append(e.buckets, last)
		}
		last.heap.push(at{c, c.freeAt()})
	}
	return e.buckets
}

// chooseOfMany is choose where it would take too long to look at all machines: it looks at those
// that are near, and of each speed at those that are free first.
func (r *round) chooseOfMany(e *entry, f *fit, best, free *choice) {
	if r.Near != nil {
		for _, name := range r.Near(&e.Build) {
			if i, ok := r.machines.index[name]; ok && f.usable.has(i) {
				r.consider(&e.Build, r.machines.all[i], best, free)
			}
		}
	}
	for _, b := range r.bucketsOf(f.eligible) {
		took := expected(&e.Build) / b.speed
		if took >= max(best.finish, free.finish) {
			break // no later one is better
		}
		r.lookInto(b, e, f, took, best, free)
	}
	if free.candidate == nil && r.hasFree(f) {
		r.searchAll(e, f, best, free)
	}
}

// maxSearches bounds for how many builds of a round all machines are looked at.
const maxSearches = 64

// searchAll looks at all machines where those at which a build was looked could not take it: their
// disks are full, or they have not enough memory.
func (r *round) searchAll(e *entry, f *fit, best, free *choice) {
	if r.searches++; r.searches > maxSearches {
		return
	}
	for i := f.usable.next(f.cursor); i >= 0; i = f.usable.next(i + 1) {
		if c := r.machines.all[i]; c.free > 0 {
			r.consider(&e.Build, c, best, free)
		}
	}
}

// lookInto considers the first machines of a bucket.
func (r *round) lookInto(b *bucket, e *entry, f *fit, took float64, best, free *choice) {
	var seen [8 * looks]at
	n, left := 0, looks
	for left > 0 && n < len(seen) && len(b.heap.items) > 0 {
		top := b.heap.items[0]
		if now := top.freeAt(); now > top.time {
			b.heap.items[0].time = now
			b.heap.fix(0)
			continue
		}
		if math.IsInf(top.time, 1) || top.time+took >= max(best.finish, free.finish) {
			break
		}
		seen[n] = b.heap.pop()
		n++
		if f.usable.has(top.index) {
			if r.consider(&e.Build, top.candidate, best, free) {
				left--
			}
		}
	}
	for _, a := range seen[:n] {
		b.heap.push(a)
	}
}
