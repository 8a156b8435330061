package measure

import "time"

// loadInterval is how often the kernel counts active threads for the load averages: LOAD_FREQ of its
// include/linux/sched/loadavg.h, less a tick.
const loadInterval = 5 * time.Second

// The kernel's fixed-point numbers, and by how much a load of a minute fades in loadInterval.
const (
	fixed1 = 1 << 11
	exp1   = 1884
)

// average is a load average of a minute, made of counts as the kernel makes its own (calc_load). Counting is due at
// fixed times, whatever builds come and go between them.
type average struct {
	value uint64    // times fixed1
	last  time.Time // that was counted for
}

// maxMissed bounds for how many times one count stands, in case a clock is set. After so many, nothing is
// left of what was before.
const maxMissed = 200

// due reports whether it is time to count.
func (a *average) due(now time.Time) bool { return !a.last.Equal(now.Truncate(loadInterval)) }

// add takes a count. It stands for the times too for which counting comes too late: on a machine that is
// very busy, or has very many processes.
func (a *average) add(now time.Time, active int) {
	now = now.Truncate(loadInterval)
	if least := now.Add(-maxMissed * loadInterval); a.last.Before(least) {
		a.last = now.Add(-loadInterval)
		if a.value > 0 {
			a.last = least
		}
	}
	for ; a.last.Before(now); a.last = a.last.Add(loadInterval) {
		a.count(uint64(active)) //nolint:gosec // a number of threads
	}
	a.last = now // a clock may have been set back
}

// after returns the average at a time until which nothing more was active.
func (a average) after(now time.Time) float64 {
	a.add(now, 0)
	return a.now()
}

// now returns the average as it was counted last.
func (a *average) now() float64 { return float64(a.value) / fixed1 }

func (a *average) count(active uint64) {
	active *= fixed1
	value := a.value*exp1 + active*(fixed1-exp1)
	if active >= a.value {
		value += fixed1 - 1
	}
	a.value = value / fixed1
}
