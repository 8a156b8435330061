package scheduler

import (
	"cmp"
	"slices"
)

const (
	// againPart is the part of the time that a build still needs where it runs, within which it must
	// be done on another machine to be begun again there.
	againPart = 0.5
	// againGain is the least time to be gained by that, in seconds.
	againGain = 10
)

// again finds machines that nothing else can use, and begins builds there again that would be done
// much later where they run. What is on two machines is not begun a third time.
func (r *round) again() {
	var idle []*candidate
	for _, c := range r.machines.all {
		if c.free > 0 && len(c.kept) == 0 && c.occupied(nil, 0, 0) == "" {
			idle = append(idle, c)
		}
	}
	if len(idle) == 0 {
		return
	}
	type running struct {
		*Running
		on *candidate
	}
	var builds []running
	hosts := make(map[string]bool)
	for _, c := range r.machines.all {
		if c.Host != "" && hosts[c.Host] {
			continue
		}
		hosts[c.Host] = true
		for i := range c.Busy {
			if b := &c.Busy[i]; b.Build != nil && !b.Once {
				builds = append(builds, running{b, c})
			}
		}
	}
	slices.SortStableFunc(builds, func(a, b running) int { return cmp.Compare(b.Remaining, a.Remaining) })
	for _, b := range builds {
		// What is overdue is taken to need as long again: of unknown builds some take very long.
		remaining := b.Remaining.Seconds()
		if elapsed := b.Elapsed.Seconds(); elapsed*b.on.speed > expected(b.Build) {
			remaining = max(remaining, elapsed)
		}
		if remaining < againGain {
			continue
		}
		// It takes at least what it has taken so far, and what is expected still.
		build := *b.Build
		build.Expected = max(build.Expected, duration((remaining+b.Elapsed.Seconds())*b.on.speed))
		best, free := choice{finish: remaining * againPart}, choice{finish: remaining * againPart}
		for _, c := range idle {
			if c.free > 0 && c.speed > b.on.speed && (c.Host == "" || c.Host != b.on.Host) && c.bars(&build) == "" {
				r.consider(&build, c, &best, &free)
			}
		}
		if free.candidate != nil && remaining-free.end >= againGain {
			free.start(&build, free.end, free.lack)
			r.plan.Again = append(r.plan.Again, Again{
				Build: b.Build, From: b.on.Name, To: free.Name, Missing: free.lack.Bytes, Finish: duration(free.finish), Instead: b.Remaining,
			})
		}
	}
}
