// Package outlook says when builds will probably be done. It keeps the last forecast (package
// scheduler/forecast), and has a new one made in a goroutine of its own when somebody asks and the last
// one is too old; nobody waits long for that. It is given what a forecast is made from.
//
// # What it costs
//
// A forecast plays all that is to come several times, less often the more there is. The next one is begun a
// second after the last one, or 20 times as long as that took, and only if somebody asks: so it takes a
// twentieth of one processor at most, and nothing when nobody looks.
package outlook

import (
	"context"
	"errors"
	"sync"
	"time"

	"lighter/internal/coordinator/reserve"
	"lighter/scheduler/forecast"
)

const (
	// MaxTasks is of how many tasks a forecast is made at most.
	MaxTasks = 100_000
	// most and least bound how often the future is played, and played how many tasks that may be together.
	most, least, played = 19, 3, 38_000
	// minInterval and idlePart are how long after a forecast the next one is begun at the earliest: so long, or
	// that many times as long as the last one took.
	minInterval = time.Second
	idlePart    = 20
	// maxCost is how long a forecast may take.
	maxCost = time.Minute
	// patience is how long one who asks waits for a forecast that is being made.
	patience = 300 * time.Millisecond
)

// Why nothing is told.
const (
	TooMany = "there are too many builds to tell"
	working = "it is being worked out"
)

// times is how often the future of so many tasks is played.
func times(tasks int) int { return max(least, min(most, played/max(1, tasks))) }

// Snapshot is what a forecast is made from. Nobody changes it any more.
type Snapshot struct {
	forecast.Farm
	// Needs has what each task needs of a machine, which is reserved on machines of Stock.
	Needs []reserve.Needs
	Stock reserve.Farm
	// Unmeasured has for each task whether nothing like it was built before.
	Unmeasured []bool
	Builds     []Build
	// Unknown says why of builds that don't run it can't be told now: the coordinator is paused. Without tasks
	// nothing can be told at all.
	Unknown string
}

// Build is one that is not final, and the place of its task.
type Build struct {
	ID   string
	Task int32
}

// Outlook makes forecasts and keeps the last one. It is safe for concurrent use, but for Took and
// Overhead, which belong to whoever makes snapshots.
type Outlook struct {
	now      func() time.Time
	snapshot func(context.Context) (*Snapshot, error)
	asked    chan struct{}
	overhead time.Duration

	mu     sync.Mutex
	last   *View
	due    time.Time     // when the next one may be begun
	making chan struct{} // closed when the one that was asked for is made; nil if none was
	drops  int
}

// New returns an outlook that knows nothing. Run makes its forecasts.
func New(now func() time.Time, snapshot func(context.Context) (*Snapshot, error)) *Outlook {
	return &Outlook{now: now, snapshot: snapshot, asked: make(chan struct{}, 1), last: &View{Unknown: working}}
}

// Run makes forecasts when they are asked for, one at a time, until ctx ends.
func (o *Outlook) Run(ctx context.Context) {
	for seed := uint64(1); ; seed++ {
		select {
		case <-ctx.Done():
			return
		case <-o.asked:
			o.make(ctx, seed)
		}
	}
}

func (o *Outlook) make(ctx context.Context, seed uint64) {
	o.mu.Lock()
	drops := o.drops
	o.mu.Unlock()
	began := o.now()
	v := o.look(ctx, seed)
	now := o.now()
	interval := max(minInterval, idlePart*now.Sub(began))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.due = now.Add(interval)
	v.until = o.due.Add(interval)
	if drops == o.drops {
		o.last = v
	}
	close(o.making)
	o.making = nil
}

// look makes a forecast.
func (o *Outlook) look(ctx context.Context, seed uint64) *View {
	ctx, cancel := context.WithTimeout(ctx, maxCost)
	defer cancel()
	s, err := o.snapshot(ctx)
	if err != nil {
		return &View{Unknown: working} // the coordinator stops
	}
	for i := range s.Tasks {
		s.Stock.Reserve(&s.Tasks[i].Build, s.Needs[i])
	}
	futures, err := forecast.Of(ctx, &s.Farm, times(len(s.Tasks)), seed)
	if errors.Is(err, context.DeadlineExceeded) {
		s = &Snapshot{Unknown: TooMany}
	}
	return newView(s, futures)
}

// Ask returns the last forecast. If that is too old it has a new one made, and waits a little for it.
func (o *Outlook) Ask(ctx context.Context) *View {
	now := o.now()
	o.mu.Lock()
	last := o.last
	if o.making == nil && !now.Before(o.due) {
		o.making = make(chan struct{})
		o.asked <- struct{}{} // there is room: none is being made
	}
	making := o.making
	o.mu.Unlock()
	if making == nil || last.good(now) {
		return last
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-making:
	case <-timer.C:
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.last.good(now) {
		return &View{Unknown: working}
	}
	return o.last
}

// Drop forgets the last forecast, because what has changed makes it wrong.
func (o *Outlook) Drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drops++
	o.last = &View{Unknown: working}
}

// ---- what builds take beside their durations -----------------------------------------------

const (
	defaultOverhead = time.Second
	maxOverhead     = 10 * time.Minute
	overheadPart    = 8 // a build counts for one of so many
)

// Took learns from a build that held its slot for a time, of which its builder ran for another.
func (o *Outlook) Took(held, built time.Duration) {
	d := min(max(0, held-built), maxOverhead)
	if o.overhead == 0 {
		o.overhead = d
	}
	o.overhead += (d - o.overhead) / overheadPart
}

// Overhead is what a build takes beside its duration: to send its inputs, and to be begun.
func (o *Outlook) Overhead() time.Duration {
	if o.overhead == 0 {
		return defaultOverhead
	}
	return o.overhead
}
