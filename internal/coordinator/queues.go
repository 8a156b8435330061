package coordinator

import (
	"cmp"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/tally"
	"lighter/scheduler"
)

// queues says how much work there is, by system.
func (l *loop) queues(now time.Time) []api.SystemQueue {
	left := tally.Left{Counts: l.counts}
	for _, t := range l.tasks {
		if !left.Look() {
			break
		}
		if t.stage.Available() || len(t.builds) == 0 {
			continue
		}
		var ran time.Duration
		if t.underWay != nil {
			ran = now.Sub(t.underWay.began)
		}
		left.Add(t.builds[0].System, cmp.Or(t.expected(), scheduler.DefaultDuration), ran, t.rank)
	}
	list := l.counts.Queues(now, l.started)
	for i := range list {
		speeds, fastest := l.speeds(list[i].System)
		list[i].Empty = api.Seconds(left.Takes(list[i].System, len(l.tasks), speeds, fastest).Seconds())
	}
	return list
}

// speeds returns what the slots that take builds for a system now have together, and the most that one has.
func (l *loop) speeds(system string) (all, fastest float64) {
	for _, h := range l.hosts {
		var most float64 // machines of a host share its slots
		for _, m := range h.machines {
			if m.unavailable() == "" && slices.Contains(m.systems(), system) {
				s := m.speed.Speed(m.Speed)
				most = max(most, s*float64(m.ParallelBuilds))
				fastest = max(fastest, s)
			}
		}
		all += most
	}
	return all, fastest
}
