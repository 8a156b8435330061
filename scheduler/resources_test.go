package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// farm plays rounds: what is placed ends when it was expected to.
type farm struct {
	in      Input
	running []placed
}

type placed struct {
	build   *Build
	machine string
	end     time.Time
}

func (f *farm) host(machine string) string {
	i := slices.IndexFunc(f.in.Machines, func(m Machine) bool { return m.Name == machine })
	return f.in.Machines[i].Host
}

// round places what can be, and checks that no machine has more than it can take.
func (f *farm) round(t *testing.T) {
	for i := range f.in.Machines {
		m := &f.in.Machines[i]
		m.Busy = nil
		for _, r := range f.running {
			if r.machine == m.Name || m.Host != "" && f.host(r.machine) == m.Host {
				m.Busy = append(m.Busy, Running{Build: r.build, Remaining: r.end.Sub(f.in.Now)})
			}
		}
	}
	p := Assign(f.in)
	f.in.Queue.Apply(p)
	for _, a := range p.Assignments {
		f.running = append(f.running, placed{a.Build, a.Machine, f.in.Now.Add(a.Finish)})
		i := slices.IndexFunc(f.in.Machines, func(m Machine) bool { return m.Name == a.Machine })
		m := &f.in.Machines[i]
		var memory int64
		tokens, slots := 0, 0
		for _, r := range f.running {
			if r.machine == m.Name || m.Host != "" && f.host(r.machine) == m.Host {
				memory += r.build.Memory
				tokens += r.build.Tokens["gpu"]
				slots++
			}
		}
		if slots > m.Slots || m.Memory > 0 && a.Build.Memory > 0 && memory > m.Memory || a.Build.Tokens["gpu"] > 0 && tokens > m.Tokens["gpu"] {
			t.Errorf("%s is placed on %s: %d of %d slots, %d of %d bytes, %d of %d tokens", a.Build.ID, m.Name, slots, m.Slots, memory, m.Memory, tokens, m.Tokens["gpu"])
		}
	}
}

// TestResources builds random builds with memory and tokens on random machines to the end: no machine ever has
// more than it can take, and every build gets its turn that some machine can take when it is idle.
func TestResources(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 3))
		f := &farm{in: Input{Now: epoch, Queue: NewQueue()}}
		if rng.IntN(2) == 0 {
			f.in.Shares = NewShares(time.Hour, nil)
		}
		for i := range 1 + rng.IntN(4) {
			m := Machine{
				Name: fmt.Sprint("m", i), Systems: []string{"x86_64-linux"}, Slots: 1 + rng.IntN(5), Speed: 1 + float64(rng.IntN(3)), FreeDisk: -1,
				Memory: int64(rng.IntN(3)) * 8, Tokens: map[string]int{"gpu": rng.IntN(3)},
			}
			if rng.IntN(2) == 0 {
				m.Host = "h"
			}
			f.in.Machines = append(f.in.Machines, m)
		}
		left := 0
		for i := range 40 {
			b := Build{
				ID: fmt.Sprint(i), System: "x86_64-linux", Seq: uint64(i), Rank: time.Duration(rng.IntN(10)) * time.Minute, Share: fmt.Sprint(rng.IntN(3)),
				Expected: time.Duration(1+rng.IntN(100)) * time.Second, Memory: int64(rng.IntN(13)),
			}
			if rng.IntN(4) == 0 {
				b.Tokens = map[string]int{"gpu": 1 + rng.IntN(2)}
			}
			if Possible(&b, f.in.Machines) {
				f.in.Queue.Push(b)
				left++
			}
		}
		for rounds := 0; left > 0; rounds++ {
			f.round(t)
			if len(f.running) == 0 || rounds > 1000 {
				t.Fatalf("seed %d: %d builds wait, and nothing runs", seed, f.in.Queue.Len())
			}
			first := slices.MinFunc(f.running, func(a, b placed) int { return a.end.Compare(b.end) })
			f.in.Now = first.end
			f.running = slices.DeleteFunc(f.running, func(r placed) bool { return !r.end.After(f.in.Now) })
			left = f.in.Queue.Len()
		}
	}
}

// TestManyMachines has more machines than are all looked at: nothing is left idle that could be used.
func TestManyMachines(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 4))
		in := Input{Now: epoch, Queue: NewQueue(), Missing: func(b *Build, machine string) Lack {
			return Lack{Bytes: int64(b.Seq*7919+uint64(len(machine))*31) % 5000}
		}}
		in.Near = func(b *Build) []string { return []string{fmt.Sprintf("m%03d", b.Seq%200), "unknown"} }
		for i := range 200 {
			m := Machine{
				Name: fmt.Sprintf("m%03d", i), Systems: []string{[]string{"x86_64-linux", "aarch64-linux"}[rng.IntN(2)]}, Slots: rng.IntN(4),
				Speed: []float64{0.1, 1, 1.05, 2, 4}[rng.IntN(5)], Bandwidth: 1e6, FreeDisk: []int64{-1, 3000}[rng.IntN(2)],
			}
			for range rng.IntN(m.Slots + 1) {
				m.Busy = append(m.Busy, Running{Remaining: time.Duration(rng.IntN(100)) * time.Second})
			}
			in.Machines = append(in.Machines, m)
		}
		for i := range rng.IntN(400) {
			b := Build{ID: fmt.Sprint("b", i), System: "x86_64-linux", Seq: uint64(i), Expected: time.Duration(1+rng.IntN(100)) * time.Second}
			if rng.IntN(5) == 0 {
				b.Skip = []string{fmt.Sprintf("m%03d", rng.IntN(200))}
			}
			in.Queue.Push(b)
		}
		checkPlan(t, in, Assign(in))
	}
}
