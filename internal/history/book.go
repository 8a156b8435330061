package history

import (
	"math"
	"time"

	"lighter/internal/api"
)

// Book is where readings are made. It belongs to one goroutine.
type Book struct {
	hour  *Hour     // that is being written
	from  time.Time // since when what is below was noted
	used  map[string]time.Duration
	ended map[string]*[3]int64 // by system: succeeded, failed, other
}

// NewBook returns a book that begins now. last is the newest hour that is kept, or nil: if it is the
// present one, the book goes on with it.
func NewBook(now time.Time, last *Hour) *Book {
	b := &Book{hour: last}
	b.begin(now)
	return b
}

func (b *Book) begin(now time.Time) {
	b.from = now.Round(0) // by the clock on the wall, which can be set
	b.used, b.ended = make(map[string]time.Duration), make(map[string]*[3]int64)
}

// Used notes that a slot of a machine was used from one time to another, since the last reading.
func (b *Book) Used(machine string, from, to time.Time) {
	if from.Before(b.from) {
		from = b.from
	}
	if d := to.Sub(from); d > 0 {
		b.used[machine] += min(d, 2*Interval)
	}
}

// Ended notes that a build has ended; made says that it ran on a machine.
func (b *Book) Ended(system string, s api.State, made bool) {
	e := b.ended[system]
	if e == nil {
		e = new([3]int64)
		b.ended[system] = e
	}
	switch {
	case made && s == api.Succeeded:
		e[0]++
	case s.FailedItself():
		e[1]++
	default:
		e[2]++
	}
}

// Due reports whether it is time for a reading.
func (b *Book) Due(now time.Time) bool {
	return !now.Before(b.from.Truncate(Interval).Add(Interval)) || now.Round(0).Before(b.from)
}

// Read makes the reading of the interval in which the last one ended, and returns its hour, which is to
// replace what is kept of that. It is nil if no time has passed, or the clock was set back: then the next
// reading begins now.
func (b *Book) Read(now time.Time, queues []api.SystemQueue, machines []api.MachineStatus) *Hour {
	defer b.begin(now)
	covered := int64(min(now.Round(0).Sub(b.from), 2*Interval).Round(time.Second) / time.Second)
	if covered <= 0 || b.from.Unix() < 0 {
		return nil
	}
	number := HourOf(b.from)
	if b.hour == nil || b.hour.Number != number {
		b.hour = &Hour{Number: number}
	}
	h := b.hour
	i := h.reading(partOf(b.from))
	h.Covered[i] = min(h.Covered[i]+covered, maxCovered)
	for _, s := range h.Systems {
		s.Columns[queued][i], s.Columns[waiting][i], s.Columns[running][i] = 0, 0, 0 // what an earlier coordinator noted
	}
	for _, q := range queues {
		s := h.series(&h.Systems, q.System, systemColumns)
		for c, n := range []int{queued: q.Queued, waiting: q.Waiting, running: q.Running} {
			s.Columns[c][i] = int64(n)
		}
	}
	for system, ended := range b.ended {
		s := h.series(&h.Systems, system, systemColumns)
		for c, n := range ended {
			s.Columns[succeeded+c][i] += n
		}
	}
	for k := range machines {
		m := &machines[k]
		s := h.series(&h.Machines, m.Name, machineColumns)
		s.Columns[slots][i], s.Columns[load][i] = 0, 0
		if m.State == api.MachineUp {
			s.Columns[slots][i], s.Columns[load][i] = int64(m.ParallelBuilds), encodeLoad(m.Load)
		}
	}
	for machine, d := range b.used {
		s := h.series(&h.Machines, machine, machineColumns)
		s.Columns[used][i] = min(s.Columns[used][i]+int64(d.Round(unitOfUse)/unitOfUse), maxValue)
	}
	return h.clone()
}

func encodeLoad(v float64) int64 {
	if !(v >= 0) { // or not a number
		return 0
	}
	return 1 + int64(min(math.Round(100*v), maxValue/2))
}
