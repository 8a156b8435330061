package scheduler

import "math"

// maxSoon bounds for how many builds slots are kept.
const maxSoon = 64

// keepForSoon keeps, for each build that will be ready soon, a slot on the machine where it would be built
// first, if one is free there.
func (r *round) keepForSoon() {
	for i := range r.Soon[:min(len(r.Soon), maxSoon)] {
		soon := &r.Soon[i]
		var best *candidate
		first := math.Inf(1)
		for _, c := range r.machines.all {
			if c.usable() && c.bars(soon.Build) == "" {
				if end := max(soon.Ready.Seconds(), c.wait()) + c.build(soon.Build); end < first {
					best, first = c, end
				}
			}
		}
		if best != nil && best.free > len(best.kept) {
			best.kept = append(best.kept, soon)
		}
	}
}

// spares reports whether a build that ends at a time leaves the slots that are kept for builds which
// are more urgent.
func (c *candidate) spares(b *Build, end float64) bool {
	n := 0
	for _, soon := range c.kept {
		if soon.Ready.Seconds() < end && b.Share == soon.Build.Share && urgent(soon.Build, b) {
			n++
		}
	}
	return n == 0 || c.free > n
}
