package coordinator

import (
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/scheduler"
)

// maxSampled is how many tasks' expected durations a status adds up at most.
const maxSampled = 10_000

// queues says how much work there is, by system.
func (l *loop) queues(now time.Time) []api.SystemQueue {
	left := l.workLeft(now)
	list := l.counts.Queues(now, l.started)
	for i := range list {
		list[i].Empty = api.Seconds(l.timeFor(list[i].System, left[list[i].System]).Seconds())
	}
	return list
}

// work is the work that is left for one system, as the time that it takes at speed 1.
type work struct{ all, path time.Duration }

// workLeft adds up the expected durations of what is left to build, and finds the longest path
// of builds that need each other. If there are very many it takes a sample.
func (l *loop) workLeft(now time.Time) map[string]*work {
	left := make(map[string]*work)
	looked := 0
	for _, t := range l.tasks {
		if looked++; looked > maxSampled {
			break
		}
		if t.stage.Available() || len(t.builds) == 0 {
			continue
		}
		system := l.counts.System(t.builds[0].System)
		w := left[system]
		if w == nil {
			w = &work{}
			left[system] = w
		}
		expected := t.expected()
		if expected == 0 {
			expected = scheduler.DefaultDuration
		}
		w.path = max(w.path, t.rank)
		if t.underWay != nil {
			expected = max(0, expected-now.Sub(t.underWay.began))
		}
		w.all += expected
	}
	if n := len(l.tasks); n > maxSampled {
		for _, w := range left {
			w.all = time.Duration(float64(w.all) * float64(n) / maxSampled)
		}
	}
	return left
}

// timeFor says how long the hosts that take builds now need for the work; 0 if there are none.
func (l *loop) timeFor(system string, w *work) time.Duration {
	var all, fastest float64
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
	if w == nil || all <= 0 {
		return 0
	}
	return time.Duration(max(float64(w.all)/all, float64(w.path)/fastest))
}
