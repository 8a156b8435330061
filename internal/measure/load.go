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
	last  time.Time // of the last count
}

// due reports whether it is time to count.
func (a *average) due(now time.Time) bool {
	return !now.Truncate(loadInterval).Equal(a.last)
}

// add takes a count.
func (a *average) add(now time.Time, active int) {
	a.fade(now.Truncate(loadInterval).Add(-loadInterval))
	a.count(uint64(active)) //nolint:gosec // a number of threads
	a.last = now.Truncate(loadInterval)
}

// at returns the average now: nothing was active where nothing was counted.
func (a *average) at(now time.Time) float64 {
	faded := *a
	// While there are builds, the last count may just be due.
	faded.fade(now.Truncate(loadInterval).Add(-loadInterval))
	return float64(faded.value) / fixed1
}

// fade makes up for counts of nothing up to a time.
func (a *average) fade(until time.Time) {
	for a.value > 0 && a.last.Before(until) {
		a.count(0)
		a.last = a.last.Add(loadInterval)
	}
}

func (a *average) count(active uint64) {
	active *= fixed1
	value := a.value*exp1 + active*(fixed1-exp1)
	if active >= a.value {
		value += fixed1 - 1
	}
	a.value = value / fixed1
}
