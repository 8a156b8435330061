// Package blocking says which builds hold up most others: unfinished ones that wait for no other build, and failures of
// the last day. It takes the graph of what is to be built from the last forecast (package outlook), so that the
// coordinator's loop is not asked for it once more, and counts in the goroutine of whoever asks: one at a time, and the
// next time 5 seconds later, or 20 times as long as it took.
package blocking

import (
	"cmp"
	"context"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/outlook"
	"lighter/internal/ledger"
	"lighter/store"
)

const (
	// minInterval and idlePart are how long after a picture the next one is made at the earliest.
	minInterval = 5 * time.Second
	idlePart    = 20
	// soon is when it is tried again where nothing could be told, and tooOld when what was told before is not
	// told in its place any more.
	soon, tooOld = time.Second, 10 * time.Minute
	// day is how long ago a build may have failed, and maxFailures how many that failed are looked at.
	day         = 24 * time.Hour
	maxFailures = 2000
)

// Blocking is described in the package comment. It is safe for concurrent use.
type Blocking struct {
	now     func() time.Time
	outlook func(context.Context) *outlook.View
	ledger  *ledger.Ledger

	turn chan *picture // has the last one, whose maker gives it back
}

// New returns a Blocking that is given forecasts.
func New(now func() time.Time, outlook func(context.Context) *outlook.View, l *ledger.Ledger) *Blocking {
	b := &Blocking{now: now, outlook: outlook, ledger: l, turn: make(chan *picture, 1)}
	b.turn <- &picture{}
	return b
}

// picture is what was found at a time, those that hold up most first. Nobody changes it any more.
type picture struct {
	at, until time.Time
	unknown   string
	open      []holder
	failed    []api.Blocker
	more      bool // failures than are looked at
}

// holder is an unfinished build, and how many need it.
type holder struct {
	id, system string
	holds      int
}

// maxEnded is how many builds may have ended since the picture was made before fewer are listed than were asked for.
const maxEnded = 100

// Ask returns, for one system or for all, the builds that hold up most, at most limit of each kind.
func (b *Blocking) Ask(ctx context.Context, system string, limit int) (*api.Blocking, error) {
	p, err := b.last(ctx)
	if err != nil {
		return nil, err
	}
	answer := &api.Blocking{At: p.at, Unknown: p.unknown, MoreFailures: p.more, Builds: []api.Blocker{}, Failures: []api.Blocker{}}
	for _, h := range p.open {
		if system != "" && h.system != system {
			continue
		}
		if answer.BuildsCount++; len(answer.Builds) == limit || answer.BuildsCount > limit+maxEnded {
			continue
		}
		record, err := b.ledger.Build(ctx, h.id)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil && !record.State.Final() { // else it holds up nothing any more
			answer.Builds = append(answer.Builds, api.Blocker{Build: *record, Holds: h.holds})
		}
	}
	for _, f := range p.failed {
		if system != "" && f.Build.System != system {
			continue
		}
		if answer.FailuresCount++; len(answer.Failures) < limit {
			answer.Failures = append(answer.Failures, f)
		}
	}
	return answer, nil
}

// last returns the last picture, or makes a new one if it is too old.
func (b *Blocking) last(ctx context.Context) (*picture, error) {
	var p *picture
	select {
	case p = <-b.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if b.now().Before(p.until) {
		b.turn <- p
		return p, nil
	}
	began := b.now()
	made, err := b.look(ctx)
	if err != nil {
		b.turn <- p
		return nil, err
	}
	now := b.now()
	made.until = now.Add(max(minInterval, idlePart*now.Sub(began)))
	if made.unknown != "" {
		if p.unknown == "" && now.Sub(p.at) < tooOld {
			old := *p
			made = &old
		}
		made.until = now.Add(soon)
	}
	b.turn <- made
	return made, nil
}

// look makes a picture.
func (b *Blocking) look(ctx context.Context) (*picture, error) {
	p := &picture{at: b.now()}
	if err := b.findFailures(ctx, p); err != nil {
		return nil, err
	}
	if view := b.outlook(ctx); !view.Told() {
		p.unknown = view.Unknown
	} else if err := b.count(ctx, p, view); err != nil {
		return nil, err
	}
	slices.SortStableFunc(p.failed, func(a, b api.Blocker) int {
		return (b.Build.Dependents + b.Holds) - (a.Build.Dependents + a.Holds)
	})
	return p, ctx.Err()
}

// findFailures finds those of the last day, the newest submissions first.
func (b *Blocking) findFailures(ctx context.Context, p *picture) error {
	since, looked := b.now().Add(-day), 0
	filter := ledger.Filter{Filter: api.Filter{States: []api.State{api.Failed, api.TimedOut}}, Limit: maxFailures}
	for build, err := range b.ledger.Builds(ctx, filter) {
		if err != nil {
			return err
		}
		if looked++; build.Stopped != nil && !build.Stopped.Before(since) {
			p.failed = append(p.failed, api.Blocker{Build: *build})
		}
	}
	p.more = looked == maxFailures
	return nil
}

// count counts by a forecast's graph which builds hold up how many.
func (b *Blocking) count(ctx context.Context, p *picture, view *outlook.View) error {
	g := view.Graph()
	p.at = g.At
	builds, first := make([]int, len(g.Inputs)), make([]string, len(g.Inputs))
	for _, build := range g.Builds {
		builds[build.Task]++
		first[build.Task] = cmp.Or(first[build.Task], build.ID)
	}
	var tasks []int32
	for i, inputs := range g.Inputs {
		if len(inputs) == 0 && builds[i] > 0 {
			tasks = append(tasks, int32(i)) // #nosec G115 -- tasks are in memory
		}
	}
	open := len(tasks)
	var again []int // failures whose derivation is to be built once more, by other builds; their tasks follow
	for i := range p.failed {
		task, is, err := b.taskOf(ctx, p.failed[i].Build.Derivation, view)
		if err != nil {
			return err
		}
		if is {
			again, tasks = append(again, i), append(tasks, task)
		}
	}
	counts, err := needers(ctx, g.Inputs, builds, tasks)
	if err != nil {
		return err
	}
	for i, n := range counts[:open] {
		if n > 0 {
			p.open = append(p.open, holder{first[tasks[i]], g.Systems[tasks[i]], n})
		}
	}
	for i, n := range counts[open:] {
		p.failed[again[i]].Holds = n
	}
	slices.SortStableFunc(p.open, func(a, b holder) int { return b.holds - a.holds })
	return nil
}

// taskOf returns the task of a derivation, if there is one.
func (b *Blocking) taskOf(ctx context.Context, drv store.Path, view *outlook.View) (task int32, is bool, err error) {
	for build, err := range b.ledger.Builds(ctx, ledger.Filter{Filter: api.Filter{Derivation: drv, States: ledger.NonFinal()}, Limit: 1}) {
		if err != nil {
			return 0, false, err
		}
		task, is = view.Task(build.ID)
	}
	return task, is, nil
}
