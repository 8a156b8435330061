package outlook

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/scheduler/forecast"
)

// View is one forecast. It may be used by any goroutine.
type View struct {
	// Unknown says why of some or all builds it can't be told now; empty if it can.
	Unknown string

	from    time.Time
	until   time.Time // it is too old after that
	futures *forecast.Futures
	builds  []Build
	tasks   map[string]int32 // by build
	doubts  []doubt          // by task
	systems []string         // by task
	inputs  [][]int32        // by task
}

// Graph is what a forecast was made from, for those who want to know what needs what. Nobody changes it.
type Graph struct {
	At      time.Time
	Inputs  [][]int32 // what each task needs that is not done, by place; one that runs needs nothing more
	Systems []string  // of each task; empty if it is not known yet
	Builds  []Build
}

// Graph returns what it was made from.
func (v *View) Graph() Graph { return Graph{v.from, v.inputs, v.systems, v.builds} }

// Task returns the place of a build's task, if the build was there.
func (v *View) Task(id string) (task int32, is bool) {
	task, is = v.tasks[id]
	return task, is
}

// doubt is what makes the end of a task unsure.
type doubt uint8

const (
	sure   doubt = iota
	inputs       // some of what it needs was never built
	itself       // it was never built
)

func (d doubt) String() string {
	switch d {
	case inputs:
		return "some of what it needs was never built here before"
	case itself:
		return "never built here before"
	}
	return ""
}

func newView(s *Snapshot, futures *forecast.Futures) *View {
	v := &View{Unknown: s.Unknown, from: s.Now, futures: futures}
	if futures == nil || len(s.Tasks) == 0 {
		return v
	}
	v.builds, v.tasks = s.Builds, make(map[string]int32, len(s.Builds))
	for _, b := range s.Builds {
		v.tasks[b.ID] = b.Task
	}
	v.systems, v.inputs = make([]string, len(s.Tasks)), make([][]int32, len(s.Tasks))
	for i := range s.Tasks {
		v.systems[i], v.inputs[i] = s.Tasks[i].Build.System, s.Tasks[i].Inputs
	}
	v.doubts = doubts(s)
	return v
}

// doubts says of each task what makes its end unsure.
func doubts(s *Snapshot) []doubt {
	list := make([]doubt, len(s.Tasks))
	dependants := make([][]int32, len(s.Tasks))
	var work []int32
	for i := range s.Tasks {
		task := int32(i) // #nosec G115 -- tasks are in memory
		for _, in := range s.Tasks[i].Inputs {
			dependants[in] = append(dependants[in], task)
		}
		if s.Unmeasured[i] {
			list[i] = itself
			work = append(work, task)
		}
	}
	for len(work) > 0 {
		task := work[len(work)-1]
		work = work[:len(work)-1]
		for _, d := range dependants[task] {
			if list[d] == sure {
				list[d] = inputs
				work = append(work, d)
			}
		}
	}
	return list
}

// Told reports whether it is told of any build.
func (v *View) Told() bool { return len(v.tasks) > 0 }

// good reports whether it is new enough to be told.
func (v *View) good(now time.Time) bool { return now.Before(v.until) }

// End returns when a build will be done, nil if that can't be told.
func (v *View) End(id string, now time.Time) *api.Expected {
	task, has := v.tasks[id]
	if !has {
		return nil
	}
	return v.expected(v.futures.End(task), now, v.doubts[task].String())
}

// Mark notes in a build when it will be done, if it is not final.
func (v *View) Mark(b *api.Build, now time.Time) {
	if !b.State.Final() {
		b.ExpectedEnd = v.End(b.ID, now)
	}
}

// MarkQueues notes when all builds for a system will be done.
func (v *View) MarkQueues(queues []api.SystemQueue, now time.Time) {
	for i := range queues {
		q := &queues[i]
		if q.ExpectedEnd = v.System(q.System, now); q.ExpectedEnd != nil {
			q.Empty = api.Seconds(q.ExpectedEnd.Middle.Sub(now).Seconds())
		}
	}
}

// Start returns when a build that waits will be begun, nil if that can't be told.
func (v *View) Start(id string, now time.Time) *api.Expected {
	task, has := v.tasks[id]
	if !has {
		return nil
	}
	return v.expected(v.futures.Start(task), now, "")
}

// expected makes times of what is left. What should have happened by now may happen any time, and after High
// nothing is known any more.
func (v *View) expected(e forecast.End, now time.Time, unsure string) *api.Expected {
	at := func(d time.Duration) time.Time { return v.from.Add(d).Round(time.Millisecond) }
	if e == (forecast.End{}) || !at(e.High).After(now) {
		return nil
	}
	x := &api.Expected{Low: at(e.Low), Middle: at(e.Middle), High: at(e.High), Unsure: unsure}
	for _, t := range []*time.Time{&x.Low, &x.Middle} {
		if t.Before(now) {
			*t = now
		}
	}
	return x
}

// All returns when the last of all builds will be done.
func (v *View) All(now time.Time) *api.Outlook { return v.of(slices.Values(v.builds), 0, now) }

// System returns when the last build for a system will be done, nil if that can't be told of each.
func (v *View) System(system string, now time.Time) *api.Expected {
	o := v.of(func(yield func(Build) bool) {
		for _, b := range v.builds {
			if v.systems[b.Task] == system && !yield(b) {
				return
			}
		}
	}, 0, now)
	if o.Untold > 0 {
		return nil
	}
	return o.ExpectedEnd
}

// Of returns when the last of some builds will be done that are not final.
func (v *View) Of(ids iter.Seq[string], now time.Time) *api.Outlook {
	strange := 0
	var builds []Build
	for id := range ids {
		if task, has := v.tasks[id]; has {
			builds = append(builds, Build{id, task})
		} else {
			strange++
		}
	}
	return v.of(slices.Values(builds), strange, now)
}

// of is Of, with so many more of which it can't be told.
func (v *View) of(builds iter.Seq[Build], untold int, now time.Time) *api.Outlook {
	o := &api.Outlook{Unknown: v.Unknown}
	if v.futures == nil {
		return o
	}
	unmeasured, all := 0, 0
	last, more := v.futures.Last(func(yield func(int32) bool) {
		for b := range builds {
			all++
			if v.doubts[b.Task] == itself {
				unmeasured++
			}
			if !yield(b.Task) {
				return
			}
		}
	})
	unsure := ""
	if unmeasured > 0 {
		unsure = itself.String()
		if all > 1 {
			unsure = fmt.Sprintf("%s of %s %s", human.Number(unmeasured), human.Number(all), unsure)
		}
	}
	o.ExpectedEnd = v.expected(last, now, unsure)
	o.Builds, o.Untold = all-more, untold+more
	return o
}
