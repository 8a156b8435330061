package tally

import "time"

// hour counts what happened in the last 60 minutes.
type hour struct {
	minutes [60]int
	last    int64 // minute of the newest count, since 1970
}

func (h *hour) add(now time.Time) {
	h.advance(now)
	h.minutes[h.last%60]++
}

func (h *hour) sum(now time.Time) int {
	h.advance(now)
	sum := 0
	for _, n := range h.minutes {
		sum += n
	}
	return sum
}

func (h *hour) advance(now time.Time) {
	minute := now.Unix() / 60
	if minute-h.last >= 60 {
		h.minutes = [60]int{}
		h.last = minute
	}
	for ; h.last < minute; h.last++ {
		h.minutes[(h.last+1)%60] = 0
	}
}
