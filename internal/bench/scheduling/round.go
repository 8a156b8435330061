package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"lighter/scheduler"
)

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

const roundSystem, otherSystem = "x86_64-linux", "aarch64-linux"

// situation is what a round has to decide about.
type situation struct {
	name             string
	builds, machines int
	classes          int             // by the machines that builds avoid
	busy             func(i int) int // how many of its 4 slots a machine has in use
	change           func(i int, m *scheduler.Machine)
}

func situations() (all []situation) {
	full := func(int) int { return 4 }
	empty := func(int) int { return 0 }
	for _, n := range []int{10, 100, 1000} {
		oneFree := func(i int) int { return 4 - oneIf(i == n/2) }
		other := func(i int, m *scheduler.Machine) {
			if i == n {
				m.Systems = []string{otherSystem}
			}
		}
		slower := func(i int, m *scheduler.Machine) {
			if i%2 == 0 {
				m.Speed /= 10
			}
		}
		all = append(all,
			situation{"nothing free", 100_000, n, 1, full, nil},
			situation{"one slot free", 100_000, n, 1, oneFree, nil},
			situation{"all free (start)", 100_000, n, 1, empty, nil},
			situation{"idle machine of another system", 100_000, n + 1, 1, func(i int) int { return 4 * oneIf(i < n) }, other},
			situation{"half of the machines free but 10x slower", 100_000, n, 1, func(i int) int { return 4 * (i % 2) }, slower},
		)
	}
	const n = 1000
	oneFree := func(i int) int { return 4 - oneIf(i == n/2) }
	for _, classes := range []int{10, 100, 1000, 10_000} {
		all = append(all, situation{fmt.Sprintf("%d classes, one slot", classes), 100_000, n, classes, oneFree, nil})
	}
	for _, classes := range []int{1000, 10_000} {
		all = append(all, situation{fmt.Sprintf("%d classes, nothing free", classes), 100_000, n, classes, full, nil})
	}
	return append(all,
		situation{"10000 classes, nothing free", 100_000, 100, 10_000, full, nil},
		situation{"one free machine, 10x slower", 100_000, n, 1, func(i int) int { return 4 * oneIf(i != n/2) }, func(i int, m *scheduler.Machine) {
			if i == n/2 {
				m.Speed /= 10
			}
		}})
}

// input makes a round's.
func (s *situation) input() scheduler.Input {
	machines := make([]scheduler.Machine, s.machines)
	for i := range machines {
		m := scheduler.Machine{Name: fmt.Sprintf("m%04d", i), Systems: []string{roundSystem}, Slots: 4, Speed: 1 + float64(i%8)/4, Bandwidth: 1e8, FreeDisk: -1}
		for j := range s.busy(i) {
			b := &scheduler.Build{ID: fmt.Sprint("running-", i, "-", j), System: roundSystem, Share: fmt.Sprint("share", j%3)}
			m.Busy = append(m.Busy, scheduler.Running{Build: b, Remaining: time.Duration(1+(i*7+j*13)%600) * time.Second})
		}
		if s.change != nil {
			s.change(i, &m)
		}
		machines[i] = m
	}
	queue := scheduler.NewQueue()
	for i := range s.builds {
		b := scheduler.Build{
			ID: fmt.Sprintf("b%06d", i), System: roundSystem, Seq: uint64(i), Rank: time.Duration(i*7919%100_000) * time.Second,
			Expected: time.Duration(1+i*31%300) * time.Second, Output: int64(i*37%1000) * 1e5, Share: fmt.Sprint("share", i%3),
		}
		if s.classes > 1 {
			b.Skip = []string{fmt.Sprintf("m%04d", i%s.classes%1000)}
		}
		if s.classes > 1000 {
			b.Skip = append(b.Skip, fmt.Sprintf("m%04d", i%s.classes/1000+1))
		}
		queue.Push(b)
	}
	sizes := make([]int64, 30) // of the inputs that a machine may lack
	for i := range sizes {
		sizes[i] = int64(i) * 1e5
	}
	missing := func(b *scheduler.Build, machine string) (l scheduler.Lack) {
		for i, size := range sizes {
			if (b.Seq+uint64(machine[len(machine)-1])+uint64(i))%3 == 0 {
				l.Bytes += size
			}
		}
		return l
	}
	return scheduler.Input{
		Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Machines: machines, Queue: queue, Missing: missing, Shares: scheduler.NewShares(0, nil),
	}
}

// rounds measures how long one round takes.
func rounds(ctx context.Context, _ *bench) error {
	t := table{title: "One round, least of 5", head: []string{"case", "builds", "machines", "assigned", "deferred", "again", "ms", "MB"}}
	for _, s := range situations() {
		in := s.input()
		least := time.Duration(1 << 62)
		var plan scheduler.Plan
		var bytes uint64
		for range 5 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := time.Now()
			plan = scheduler.Assign(in)
			least = min(least, time.Since(start))
			runtime.ReadMemStats(&after)
			bytes = after.TotalAlloc - before.TotalAlloc
		}
		t.add(s.name, fmt.Sprint(s.builds), fmt.Sprint(s.machines), fmt.Sprint(len(plan.Assignments)), fmt.Sprint(len(plan.Deferrals)),
			fmt.Sprint(len(plan.Again)), fmt.Sprintf("%.3f", least.Seconds()*1e3), fmt.Sprintf("%.2f", float64(bytes)/1e6))
	}
	t.print()
	return nil
}
