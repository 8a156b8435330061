package scheduler

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// randomInput makes a small problem in which every rule has something to say.
func randomInput(rng *rand.Rand) Input {
	systems := []string{"x86_64-linux", "i686-linux", "aarch64-linux"}
	features := []string{"kvm", "big-parallel", "benchmark"}
	some := func(words []string, chance float64) []string {
		var chosen []string
		for _, w := range words {
			if rng.Float64() < chance {
				chosen = append(chosen, w)
			}
		}
		return chosen
	}
	in := Input{Now: epoch, Queue: NewQueue()}
	var names []string
	for i := range rng.IntN(6) {
		m := Machine{
			Name:              fmt.Sprintf("m%d", i),
			Systems:           append(some(systems, 0.5), systems[rng.IntN(3)]),
			Features:          some(features, 0.5),
			MandatoryFeatures: some(features, 0.1),
			Slots:             rng.IntN(5),
			Speed:             []float64{0, 0.1, 1, 1, 4}[rng.IntN(5)],
			Bandwidth:         []float64{0, 100, 1e6}[rng.IntN(3)],
			Pending:           int64(rng.IntN(3)) * 1000,
			Load:              rng.Float64(),
			OverloadThreshold: []float64{0, 0.8}[rng.IntN(2)],
			Cores:             rng.IntN(4),
			JustStarted:       rng.IntN(2),
			FreeDisk:          []int64{-1, 5000, 1e6}[rng.IntN(3)],
			MinFreeDisk:       1000,
		}
		if rng.IntN(8) == 0 {
			m.Unavailable = "down"
		}
		for range rng.IntN(m.Slots + 2) { // more than slots: the file was changed
			m.Busy = append(m.Busy, Running{Remaining: time.Duration(rng.IntN(100)) * time.Second})
		}
		names = append(names, m.Name)
		in.Machines = append(in.Machines, m)
	}
	for i := range rng.IntN(20) {
		in.Queue.Push(Build{
			ID: fmt.Sprintf("b%d", i), System: systems[rng.IntN(3)], Features: some(features, 0.2),
			Skip: some(names, 0.1), Priority: rng.IntN(3), Rank: time.Duration(rng.IntN(3)) * time.Minute,
			Seq: uint64(rng.IntN(20)), Expected: time.Duration(rng.IntN(100)) * time.Second,
		})
	}
	salt := rng.Uint64()
	in.Missing = func(b *Build, machine string) Lack {
		return Lack{Bytes: int64((salt ^ uint64(len(machine)+int(machine[1]))*7919 ^ uint64(b.ID[len(b.ID)-1])*104729) % 3000)}
	}
	return in
}

func checkPlan(t *testing.T, in Input, p Plan) {
	t.Helper()
	machines := make(map[string]*Machine)
	slots := 0
	for _, m := range in.Machines {
		machines[m.Name] = &m
		slots += m.Slots
	}
	settled := make(map[string]bool)
	lasts := make(map[string]*Build) // by what they ask for: demands are ordered by their backlogs too
	for _, a := range p.Assignments {
		if settled[a.Build.ID] {
			t.Errorf("%s is placed twice", a.Build.ID)
		}
		settled[a.Build.ID] = true
		demand := a.Build.System + fmt.Sprint(sortedSet(a.Build.Features))
		for other, last := range lasts {
			if a.Build.Priority > last.Priority || other == demand && urgent(a.Build, last) {
				t.Errorf("%s comes after %s", a.Build.ID, last.ID)
			}
		}
		lasts[demand] = a.Build
		m := machines[a.Machine]
		lacks := in.Missing(a.Build, a.Machine).Bytes
		if a.Missing != lacks {
			t.Errorf("%s lacks %d bytes for %s, not %d", a.Machine, lacks, a.Build.ID, a.Missing)
		}
		if !Possible(a.Build, in.Machines) {
			t.Errorf("%s is placed, though it is not possible", a.Build.ID)
		}
		v := Explain(a.Build, []Machine{*m}, in.Missing)[0]
		if !v.OK() {
			t.Errorf("%s is placed on %s", a.Build.ID, v.String())
		}
		m.Busy = append(m.Busy, Running{Remaining: a.Finish})
		m.JustStarted++
		m.Pending += lacks
	}
	for _, d := range p.Deferrals {
		if settled[d.Build.ID] {
			t.Errorf("%s is placed and waits", d.Build.ID)
		}
		settled[d.Build.ID] = true
		if d.Finish >= d.InsteadFinish || !d.Until.After(in.Now) {
			t.Errorf("%s waits for nothing: %+v", d.Build.ID, d)
		}
	}
	// No machine is left idle that could take a build which does not wait for a
	// better one.
	if in.Queue.Len() >= maxWaiting*slots {
		return
	}
	for b := range in.Queue.All() {
		if settled[b.ID] {
			continue
		}
		for _, m := range machines {
			if v := Explain(&b, []Machine{*m}, in.Missing)[0]; v.OK() {
				t.Errorf("%s is not placed, but %s", b.ID, v.String())
			}
		}
	}
}

func FuzzAssign(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		in := randomInput(rng)
		before := slices.Collect(in.Queue.All())
		p := Assign(in)
		checkPlan(t, in, p)
		if diff := gocmp.Diff(before, slices.Collect(in.Queue.All())); diff != "" {
			t.Errorf("the queue has changed:\n%s", diff)
		}
		shuffled := in
		shuffled.Machines = slices.Clone(in.Machines)
		rng.Shuffle(len(shuffled.Machines), func(i, j int) {
			shuffled.Machines[i], shuffled.Machines[j] = shuffled.Machines[j], shuffled.Machines[i]
		})
		shuffled.Queue = NewQueue()
		rng.Shuffle(len(before), func(i, j int) { before[i], before[j] = before[j], before[i] })
		for _, b := range before {
			shuffled.Queue.Push(b)
		}
		again := Assign(shuffled)
		again.Blocked, p.Blocked = nil, nil // their reasons list the machines in the given order
		if diff := gocmp.Diff(p, again); diff != "" {
			t.Errorf("in another order of machines and builds, another plan:\n%s", diff)
		}
		// Once all that is deferred has waited long enough, nothing is deferred.
		in.Queue.Apply(p)
		if len(p.Assignments) == 0 && len(p.Deferrals) > 0 {
			in.Now = epoch.Add(1000 * time.Hour)
			if later := Assign(in); len(later.Assignments) == 0 {
				t.Errorf("%d builds wait forever: %+v", len(p.Deferrals), later)
			}
		}
	})
}

// simulate runs a graph of builds to its end and returns how long that took. plan
// gets the ready builds' queue and places some.
func simulate(t *testing.T, machines []Machine, builds []Build, dependents [][]int, plan func(Input) Plan) time.Duration {
	t.Helper()
	type running struct {
		build int
		m     *Machine
		end   time.Time
	}
	machines = slices.Clone(machines)
	waiting := make([]int, len(builds))
	for _, list := range dependents {
		for _, i := range list {
			waiting[i]++
		}
	}
	number := make(map[string]int)
	queue := NewQueue()
	for i, b := range builds {
		number[b.ID] = i
		if waiting[i] == 0 {
			queue.Push(b)
		}
	}
	var run []running
	now := epoch
	for done := 0; done < len(builds); {
		for i := range machines {
			machines[i].Busy = nil
			for _, r := range run {
				if r.m == &machines[i] {
					machines[i].Busy = append(machines[i].Busy, Running{Remaining: r.end.Sub(now)})
				}
			}
		}
		p := plan(Input{Now: now, Machines: machines, Queue: queue})
		queue.Apply(p)
		for _, a := range p.Assignments {
			i := slices.IndexFunc(machines, func(m Machine) bool { return m.Name == a.Machine })
			m := &machines[i]
			took := time.Duration(float64(a.Build.Expected) / m.Speed)
			run = append(run, running{number[a.Build.ID], m, now.Add(took)})
		}
		if len(run) == 0 {
			t.Fatal("the simulation hangs")
		}
		slices.SortFunc(run, func(a, b running) int {
			return cmp.Or(a.end.Compare(b.end), cmp.Compare(a.build, b.build))
		})
		now = run[0].end
		for len(run) > 0 && !run[0].end.After(now) {
			done++
			for _, i := range dependents[run[0].build] {
				if waiting[i]--; waiting[i] == 0 {
					queue.Push(builds[i])
				}
			}
			run = run[1:]
		}
	}
	return now.Sub(epoch)
}

// greedy places the builds in order of submission on any free machine that fits.
func greedy(rng *rand.Rand) func(Input) Plan {
	return func(in Input) Plan {
		var p Plan
		machines := slices.Clone(in.Machines)
		builds := slices.SortedFunc(in.Queue.All(), func(a, b Build) int { return cmp.Compare(a.Seq, b.Seq) })
		for _, b := range builds {
			for _, i := range rng.Perm(len(machines)) {
				m := &machines[i]
				if v := Explain(&b, []Machine{*m}, nil)[0]; v.OK() {
					p.Assignments = append(p.Assignments, Assignment{Build: &b, Machine: m.Name})
					m.Busy = append(slices.Clone(m.Busy), Running{})
					break
				}
			}
		}
		return p
	}
}

func TestEarliestFinishBeatsGreedy(t *testing.T) {
	machines := []Machine{
		{Name: "fast", Systems: []string{"x86_64-linux"}, Slots: 2, Speed: 4, FreeDisk: -1},
		{Name: "middle", Systems: []string{"x86_64-linux"}, Slots: 4, Speed: 1.5, FreeDisk: -1},
		{Name: "slow", Systems: []string{"x86_64-linux"}, Slots: 2, Speed: 0.2, FreeDisk: -1},
	}
	var ours, theirs time.Duration
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		builds := make([]Build, 120)
		expected := make([]time.Duration, len(builds))
		dependents := make([][]int, len(builds))
		for i := range builds {
			expected[i] = time.Duration((1 + rng.ExpFloat64()*60) * float64(time.Second))
			for range rng.IntN(3) {
				if i > 0 {
					from := rng.IntN(i)
					dependents[from] = append(dependents[from], i)
				}
			}
		}
		ranks := make([]time.Duration, len(builds))
		for i := range slices.Backward(builds) {
			for _, d := range dependents[i] {
				ranks[i] = max(ranks[i], ranks[d])
			}
			ranks[i] += expected[i]
		}
		for i := range builds {
			builds[i] = Build{
				ID: fmt.Sprintf("b%03d", i), System: "x86_64-linux", Seq: uint64(i),
				Expected: expected[i], Rank: ranks[i],
			}
		}
		ours += simulate(t, machines, builds, dependents, Assign)
		theirs += simulate(t, machines, builds, dependents, greedy(rng))
	}
	t.Logf("20 graphs: earliest finish %s, greedy %s", ours, theirs)
	if float64(ours) > 0.7*float64(theirs) {
		t.Errorf("earliest finish took %s, greedy %s", ours, theirs)
	}
}

// manyBuilds returns 100,000 builds of 20 classes and 100 machines of 4 slots.
func manyBuilds() (*Queue, []Machine) {
	rng := rand.New(rand.NewPCG(1, 3))
	queue := NewQueue()
	for i := range 100_000 {
		b := Build{
			ID: fmt.Sprintf("b%06d", i), System: "x86_64-linux", Seq: uint64(i),
			Rank: time.Duration(rng.IntN(1e9)), Expected: time.Duration(1 + rng.Int64N(600e9)),
		}
		if i%4 == 0 {
			b.Features = []string{"kvm"}
		}
		if i%10 < 5 {
			b.Skip = []string{fmt.Sprintf("m%02d", i%10)}
		}
		queue.Push(b)
	}
	machines := make([]Machine, 100)
	for i := range machines {
		machines[i] = Machine{
			Name: fmt.Sprintf("m%02d", i), Systems: []string{"x86_64-linux"}, Features: []string{"big-parallel", "kvm"},
			Slots: 4, Speed: 1 + float64(i%4), FreeDisk: -1,
		}
	}
	return queue, machines
}

func BenchmarkAssign(b *testing.B) {
	queue, machines := manyBuilds()
	busy := func(m *Machine, n int) {
		for i := range n {
			m.Busy = append(m.Busy, Running{Remaining: time.Duration(i+1) * 10 * time.Second})
		}
	}
	one := slices.Clone(machines)
	slow := slices.Clone(machines)
	for i := range machines {
		busy(&one[i], 4)
		busy(&slow[i], 4)
	}
	one[3].Busy = one[3].Busy[:3]
	slow[0].Busy, slow[0].Speed = nil, 0.001
	for _, bm := range []struct {
		name     string
		machines []Machine
	}{
		{"all 400 slots free", machines},
		{"one slot free", one},
		{"only a very slow machine free", slow},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Assign(Input{Now: epoch, Machines: bm.machines, Queue: queue, Missing: func(*Build, string) Lack { return Lack{Bytes: 1000} }})
			}
		})
	}
}

// BenchmarkAssignFew is a round of a farm that keeps up: 200 machines, half of whose
// slots are taken, and a build or two that just got ready.
func BenchmarkAssignFew(b *testing.B) {
	machines := make([]Machine, 200)
	for i := range machines {
		machines[i] = Machine{
			Name: fmt.Sprintf("m%03d", i*77%200), Systems: []string{"i686-linux", "x86_64-linux"}, Slots: 4, Speed: 1 + float64(i%40)/100,
			Cores: 4, OverloadThreshold: 2, FreeDisk: 1 << 40, MinFreeDisk: 1 << 30, Busy: make([]Running, i%5),
		}
	}
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("builds=%d", n), func(b *testing.B) {
			queue := NewQueue()
			for i := range n {
				queue.Push(Build{ID: fmt.Sprintf("b%d", i), System: "x86_64-linux", Seq: uint64(i)})
			}
			b.ReportAllocs()
			for b.Loop() {
				if p := Assign(Input{Now: epoch, Machines: machines, Queue: queue}); len(p.Assignments) != n {
					b.Fatalf("%d assignments", len(p.Assignments))
				}
			}
		})
	}
}

func BenchmarkPossible(b *testing.B) {
	_, machines := manyBuilds()
	build := Build{System: "x86_64-linux", Features: []string{"kvm"}}
	b.Run("Possible", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !Possible(&build, machines) {
				b.Fatal("no machine")
			}
		}
	})
	b.Run("Explain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Explain(&build, machines, nil)
		}
	})
}

func BenchmarkQueue(b *testing.B) {
	queue, _ := manyBuilds()
	i := 0
	for b.Loop() {
		id := fmt.Sprintf("b%06d", i%100_000)
		build, _ := queue.Get(id)
		queue.Remove(id)
		queue.Push(build)
		i++
	}
}
