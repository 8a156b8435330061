package scheduler

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkRound measures one round with many ready builds and machines.
func BenchmarkRound(b *testing.B) {
	const system, other = "x86_64-linux", "aarch64-linux"
	for _, bm := range []struct {
		name             string
		builds, machines int
		classes          int                     // by machines to avoid
		busy             func(i int) int         // how many of its four slots a machine has in use
		change           func(i int, m *Machine) // if not nil
	}{
		{"nothing free", 100_000, 1000, 1, func(int) int { return 4 }, nil},
		{"one slot free", 100_000, 1000, 1, func(i int) int { return 4 - oneIf(i == 500) }, nil},
		{"all free", 100_000, 1000, 1, func(int) int { return 0 }, nil},
		{"10 classes, one slot", 100_000, 1000, 10, func(i int) int { return 4 - oneIf(i == 500) }, nil},
		{"1000 classes, one slot", 100_000, 1000, 1000, func(i int) int { return 4 - oneIf(i == 500) }, nil},
		{"1000 classes, nothing free", 100_000, 1000, 1000, func(int) int { return 4 }, nil},
		{"10000 classes, nothing free", 100_000, 1000, 10_000, func(int) int { return 4 }, nil},
		{"10000 classes, one slot", 100_000, 1000, 10_000, func(i int) int { return 4 - oneIf(i == 500) }, nil},
		{"idle machine of another system", 100_000, 1001, 1, func(i int) int { return 4 * oneIf(i < 1000) }, func(i int, m *Machine) {
			if i == 1000 {
				m.Systems = []string{other}
			}
		}},
		{"half are free but 10x slower", 100_000, 1000, 1, func(i int) int { return 4 * (i % 2) }, func(i int, m *Machine) {
			if i%2 == 0 {
				m.Speed /= 10
			}
		}},
		{"one free, 10x slower", 100_000, 1000, 1, func(i int) int { return 4 * oneIf(i != 500) }, func(i int, m *Machine) {
			if i == 500 {
				m.Speed /= 10
			}
		}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			machines := make([]Machine, bm.machines)
			for i := range machines {
				m := Machine{Name: fmt.Sprintf("m%04d", i), Systems: []string{system}, Slots: 4, Speed: 1 + float64(i%8)/4, Bandwidth: 1e8, FreeDisk: -1}
				for j := range bm.busy(i) {
					m.Busy = append(m.Busy, Running{Remaining: time.Duration(1+(i*7+j*13)%600) * time.Second, Build: &Build{ID: fmt.Sprint("r", i, j), System: system}})
				}
				if bm.change != nil {
					bm.change(i, &m)
				}
				machines[i] = m
			}
			queue := NewQueue()
			for i := range bm.builds {
				build := Build{ID: fmt.Sprintf("b%06d", i), System: system, Seq: uint64(i), Rank: time.Duration(i*7919%100_000) * time.Second, Expected: time.Duration(1+i*31%300) * time.Second}
				if bm.classes > 1 {
					build.Skip = []string{fmt.Sprintf("m%04d", i%bm.classes%1000)}
					if bm.classes > 1000 {
						build.Skip = append(build.Skip, fmt.Sprintf("m%04d", i%bm.classes/1000+1))
					}
				}
				queue.Push(build)
			}
			missing := func(b *Build, machine string) Lack { return Lack{Bytes: int64(b.Seq*31+uint64(machine[4])) % 100_000} }
			b.ReportAllocs()
			var p Plan
			for b.Loop() {
				p = Assign(Input{Now: epoch, Machines: machines, Queue: queue, Missing: missing})
			}
			b.ReportMetric(float64(len(p.Assignments)), "placed")
			b.ReportMetric(float64(len(p.Deferrals)), "deferred")
			b.ReportMetric(float64(len(p.Again)), "again")
		})
	}
}

func oneIf(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
