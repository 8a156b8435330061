// Package forecast says when builds that are waiting or running will probably be done: it plays what is
// to come several times, with the code that places builds, each time with durations drawn from what is
// thought of them, and looks where the ends lie.
//
// Each drawing takes the whole of a farm to be a little slower or faster than thought as well, since what
// is not known of its machines and links is the same for all builds.
package forecast

import (
	"container/heap"
	"context"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"lighter/scheduler"
)

// Task is a build that is not done.
type Task struct {
	Build  scheduler.Build
	Inputs []int32 // tasks that must be done before, by their places in Farm.Tasks
	// Quantile says what the part q of such builds stays below at speed 1; nil if it takes
	// exactly Build.Expected.
	Quantile func(q float64) time.Duration
	// On names the machine that it runs on, and Elapsed is for how long it has; empty if it does
	// not run.
	On      string
	Elapsed time.Duration
	After   time.Duration // it can't begin before that, from now
}

// Farm is what a forecast is made from.
type Farm struct {
	Now time.Time
	// Machines are as the scheduler is told of them. What is in Busy and not in Tasks ends when it is said to.
	Machines []scheduler.Machine
	Tasks    []Task
	// Weight is that of a share; nil if shares don't count. Used is the slot time that each has used.
	Weight func(share string) float64
	Used   map[string]time.Duration
	// Overhead is what a build takes beside its duration: to send its inputs, and to be begun.
	Overhead time.Duration
}

// End is when a build will probably be done, from now: four times in five between Low and High, and as
// likely before Middle as after it. All are 0 if it can't be told.
type End struct{ Low, Middle, High time.Duration }

const (
	// commonSpread is the deviation of the logarithm of how much slower all builds together are
	// than thought.
	commonSpread = 0.03
	// never is when a build is done that nothing can take.
	never = time.Duration(math.MaxInt64)
)

// Futures are drawings of what is to come.
type Futures struct{ ends, starts [][]time.Duration } // by drawing and task

// Of plays the farm's future so many times, 1 at least. It ends early, with the error of ctx, if that does.
func Of(ctx context.Context, f *Farm, times int, seed uint64) (*Futures, error) {
	all := &Futures{}
	for n := range max(1, times) {
		starts, ends, err := play(ctx, f, rand.New(rand.NewPCG(seed, uint64(n)))) // #nosec G115 -- not negative
		if err != nil {
			return nil, err
		}
		all.starts, all.ends = append(all.starts, starts), append(all.ends, ends)
	}
	return all, nil
}

// End returns when a task is done.
func (f *Futures) End(task int32) End { return endOf(column(f.ends, task)) }

// Start returns when a task gets its slot; 0 for one that has it.
func (f *Futures) Start(task int32) End { return endOf(column(f.starts, task)) }

func column(drawings [][]time.Duration, task int32) []time.Duration {
	drawn := make([]time.Duration, len(drawings))
	for n := range drawings {
		drawn[n] = drawings[n][task]
	}
	return drawn
}

// Last returns when the last of several tasks is done of those of which it can be told, and how many of them
// it can't.
func (f *Futures) Last(tasks iter.Seq[int32]) (last End, untold int) {
	lasts := make([]time.Duration, len(f.ends))
	told := false
	for task := range tasks {
		nevers := 0
		for n := range f.ends {
			if f.ends[n][task] == never {
				nevers++
			}
		}
		if 2*nevers >= len(f.ends) {
			untold++
			continue
		}
		told = true
		for n := range f.ends {
			if d := f.ends[n][task]; d != never {
				lasts[n] = max(lasts[n], d)
			}
		}
	}
	if !told {
		return End{}, untold
	}
	return endOf(lasts), untold
}

// fewDrawings are too few to have one in ten of them on either side.
const fewDrawings = 9

// endOf summarises drawings, which it sorts.
func endOf(drawn []time.Duration) End {
	slices.Sort(drawn)
	middle := drawn[len(drawn)/2]
	if middle == never {
		return End{}
	}
	for drawn[len(drawn)-1] == never {
		drawn = drawn[:len(drawn)-1]
	}
	if n := len(drawn); n > 1 && n < fewDrawings {
		return few(drawn, middle)
	}
	at := func(q float64) time.Duration {
		x := q*float64(len(drawn)+1) - 1
		i := int(math.Floor(max(0, min(float64(len(drawn)-1), x))))
		j := min(i+1, len(drawn)-1)
		return drawn[i] + time.Duration(max(0, min(1, x-float64(i)))*float64(drawn[j]-drawn[i]))
	}
	return End{at(0.1), at(0.5), at(0.9)}
}

// students has the 0.9 quantiles of Student's t distribution, by degrees of freedom.
var students = [fewDrawings - 1]float64{1: 3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415}

// few summarises drawings of which there are too few to look where their tenths are: as if they were of a
// normal distribution, whose prediction interval is that of Student.
func few(drawn []time.Duration, middle time.Duration) End {
	n := float64(len(drawn))
	var mean, squares float64
	for _, d := range drawn {
		mean += float64(d) / n
	}
	for _, d := range drawn {
		squares += (float64(d) - mean) * (float64(d) - mean)
	}
	half := students[len(drawn)-1] * math.Sqrt(squares/(n-1)*(1+1/n))
	return End{time.Duration(max(0, min(mean-half, float64(middle)))), middle, time.Duration(min(max(mean+half, float64(middle)), float64(never)/2))}
}

// event is the end of a build on a machine.
type event struct {
	at      time.Duration
	task    int32 // noTask for a build that is none
	machine int32 // noMachine where time alone lets something begin
}

const noTask, noMachine = -1, -1

// future is one drawing.
type future struct {
	*Farm
	rng      *rand.Rand
	slower   float64
	queue    *scheduler.Queue
	shares   *scheduler.Shares
	machines []scheduler.Machine
	host     []int32  // the first machine that leads to the same host, by machine
	running  [][]held // by that
	events   events
	waiting  []int32   // inputs that are not done, by task
	needed   [][]int32 // who needs a task
	byID     map[string]int32
	byName   map[string]int32
	ends     []time.Duration // never for what is not done
	starts   []time.Duration
	now      time.Duration
}

type held struct {
	task  int32
	build *scheduler.Build
	began time.Duration // from now; negative for what runs already
	rest  time.Duration // of one that is no task, as of the beginning
}

func play(ctx context.Context, f *Farm, rng *rand.Rand) (starts, ends []time.Duration, err error) {
	p := newFuture(f, rng)
	for {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		p.round()
		if len(p.events) == 0 {
			return p.starts, p.ends, nil
		}
		p.step()
	}
}

func newFuture(f *Farm, rng *rand.Rand) *future {
	n := len(f.Tasks)
	p := &future{
		Farm: f, rng: rng, slower: math.Exp(commonSpread * rng.NormFloat64()), queue: scheduler.NewQueue(),
		machines: slices.Clone(f.Machines), running: make([][]held, len(f.Machines)), waiting: make([]int32, n), needed: make([][]int32, n),
		byID: make(map[string]int32, n), byName: make(map[string]int32), ends: make([]time.Duration, n), starts: make([]time.Duration, n),
	}
	if f.Weight != nil {
		p.shares = scheduler.NewShares(0, f.Weight)
		for share, used := range f.Used {
			p.shares.Use(share, used, f.Now)
		}
	}
	for i := range f.Tasks {
		p.ends[i], p.starts[i] = never, never
		p.byID[f.Tasks[i].Build.ID] = int32(i) // #nosec G115 -- tasks are in memory
	}
	hosts := make(map[string]int32)
	for i := range p.machines {
		m := &p.machines[i]
		p.byName[m.Name] = int32(i)       // #nosec G115 -- as above
		p.host = append(p.host, int32(i)) // #nosec G115 -- as above
		if first, known := hosts[m.Host]; known && m.Host != "" {
			p.host[i] = first
		}
		hosts[m.Host] = p.host[i]
		m.Pending, m.Fetching, m.Load, m.JustStarted, m.Refuses = 0, 0, 0, 0, ""
		for j := range m.Busy {
			b := &m.Busy[j]
			if p.host[i] != int32(i) { // #nosec G115 -- as above
				break // these are the host's
			}
			if b.Build != nil {
				if _, ours := p.byID[b.Build.ID]; ours {
					continue
				}
			}
			p.hold(int32(i), held{task: noTask, build: b.Build, rest: b.Remaining}, b.Remaining) // #nosec G115 -- as above
		}
	}
	for i := range f.Tasks {
		t, task := &f.Tasks[i], int32(i) // #nosec G115 -- as above
		for _, in := range t.Inputs {
			p.needed[in] = append(p.needed[in], task)
			p.waiting[i]++
		}
		if m, known := p.byName[t.On]; known {
			p.starts[i] = 0
			p.hold(m, held{task: task, build: &t.Build, began: -t.Elapsed}, p.draw(t, &p.machines[m])-t.Elapsed)
		}
	}
	for i := range f.Tasks {
		if p.waiting[i] == 0 {
			p.ready(int32(i)) // #nosec G115 -- as above
		}
	}
	return p
}

// draw returns for how long a task holds its slot on a machine; more than it has by now.
func (p *future) draw(t *Task, m *scheduler.Machine) time.Duration {
	speed := m.Speed
	if !(speed > 0) {
		speed = 1
	}
	of := func(q float64) time.Duration {
		if t.Quantile == nil {
			return t.Build.Expected
		}
		return t.Quantile(q)
	}
	took := func(q float64) time.Duration {
		return time.Duration(min(float64(of(q))*p.slower/speed, float64(never)/4)) + p.Overhead
	}
	q := p.rng.Float64()
	if t.Elapsed <= 0 {
		return took(q)
	}
	// Of those that take longer than it has by now.
	low := 0.0
	for high := 1.0; high-low > 0.01; {
		if middle := (low + high) / 2; took(middle) > t.Elapsed {
			high = middle
		} else {
			low = middle
		}
	}
	if d := took(low + q*(1-low)); d > t.Elapsed {
		return d
	}
	return t.Elapsed + scheduler.Remaining(0, t.Elapsed) + time.Second // it is overdue
}

func (p *future) hold(machine int32, h held, rest time.Duration) {
	host := p.host[machine]
	p.running[host] = append(p.running[host], h)
	p.add(event{p.now + max(0, rest), h.task, machine})
}

func (p *future) add(e event) { heap.Push(&p.events, e) }

// ready puts a task that does not run into the queue.
func (p *future) ready(task int32) {
	t := &p.Tasks[task]
	if t.On != "" {
		return
	}
	if t.After > p.now {
		p.add(event{t.After, task, noMachine})
		return
	}
	p.queue.Push(t.Build)
}

// step goes on to the next event.
func (p *future) step() {
	p.now = p.events[0].at
	for len(p.events) > 0 && p.events[0].at <= p.now {
		e := heap.Pop(&p.events).(event)
		if e.machine == noMachine {
			if e.task != noTask {
				p.queue.Push(p.Tasks[e.task].Build)
			}
			continue
		}
		list := p.running[p.host[e.machine]]
		i := slices.IndexFunc(list, func(h held) bool { return h.task == e.task })
		if i < 0 {
			continue
		}
		h := list[i]
		p.running[p.host[e.machine]] = slices.Delete(list, i, i+1)
		if e.task == noTask {
			continue
		}
		if p.shares != nil {
			p.shares.Use(h.build.Share, p.now-max(0, h.began), p.Now.Add(p.now))
		}
		p.ends[e.task] = p.now
		for _, next := range p.needed[e.task] {
			if p.waiting[next]--; p.waiting[next] == 0 {
				p.ready(next)
			}
		}
	}
}

// round places what can begin.
func (p *future) round() {
	if p.queue.Len() == 0 {
		return
	}
	for i := range p.machines {
		m := &p.machines[i]
		busy := make([]scheduler.Running, 0, len(p.running[p.host[i]]))
		for _, h := range p.running[p.host[i]] {
			left := max(0, h.rest-p.now)
			if h.task != noTask {
				speed := max(m.Speed, 0.01)
				left = scheduler.Remaining(time.Duration(float64(h.build.Expected)/speed), p.now-h.began)
			}
			busy = append(busy, scheduler.Running{Build: h.build, Remaining: left, Once: true})
		}
		m.Busy = busy
	}
	plan := scheduler.Assign(scheduler.Input{Now: p.Now.Add(p.now), Machines: p.machines, Queue: p.queue, Shares: p.shares})
	p.queue.Apply(plan)
	for i := range plan.Assignments {
		a := &plan.Assignments[i]
		task, machine := p.byID[a.Build.ID], p.byName[a.Machine]
		t := &p.Tasks[task]
		p.starts[task] = p.now
		p.hold(machine, held{task: task, build: &t.Build, began: p.now}, p.draw(t, &p.machines[machine]))
	}
	if len(plan.Assignments) == 0 && len(p.events) == 0 {
		// What waits for a better machine takes another one once it has waited long enough.
		for i := range plan.Deferrals {
			if at := plan.Deferrals[i].Until.Sub(p.Now); at > p.now {
				p.add(event{at, noTask, noMachine})
			}
		}
	}
}

// events are in a heap, the next one first.
type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}
