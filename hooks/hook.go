package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"lighter/internal/api"
)

// hook is one configured hook at work. A goroutine, its loop, starts runs and writes
// to the ledger; each try has a goroutine of its own.
type hook struct {
	engine *Engine
	name   string
	log    *slog.Logger
	cancel context.CancelCauseFunc
	wake   chan struct{} // has room for one
	over   chan struct{} // closed when the loop has ended
	tries  sync.WaitGroup

	// writing is held while changes of runs are written, or parked ones moved, before mu.
	writing sync.Mutex

	mu      sync.Mutex // owns all below
	cfg     Config
	runner  BuiltIn
	cursor  uint64 // events up to this one have become runs
	saved   uint64 // the cursor in the ledger
	window  *window
	running int
	parked  int
	again   int   // runs that were parked and are not in the window yet
	details int64 // parked runs that have one
	done    int64 // since the start
	changes []Setting
	stalled bool // the ledger takes nothing
}

// cursor is how far a hook has come, in the ledger.
type cursor struct {
	Seq uint64 `json:"seq"`
}

// open makes a hook from what the ledger has, and starts it. The engine's context is
// its own.
func (e *Engine) open(ctx context.Context, c Config, runner BuiltIn) (*hook, error) {
	h := &hook{
		engine: e, name: c.Name, log: e.log.With("hook", c.Name),
		cfg: c.complete(runner), runner: runner, window: newWindow(),
		wake: make(chan struct{}, 1), over: make(chan struct{}),
	}
	var at cursor
	known, err := e.ledger.Setting(ctx, cursorPrefix+h.name, &at)
	if err != nil {
		return nil, err
	}
	if !known {
		at.Seq = e.ledger.LastEvent()
		if err := e.ledger.Apply(ctx, []Setting{{Name: cursorPrefix + h.name, Value: at}}, true); err != nil {
			return nil, err
		}
	}
	at.Seq = min(at.Seq, e.ledger.LastEvent()) // or it would wait for events that may never come
	h.cursor, h.saved = at.Seq, at.Seq
	if err := h.load(ctx); err != nil {
		return nil, err
	}
	e.mu.Lock()
	own, cancel := context.WithCancelCause(e.ctx)
	e.mu.Unlock()
	h.cancel = cancel
	go h.loop(own) //nolint:contextcheck // it lives as long as the engine, not as the change that adds it
	return h, nil
}

// load fills the window with the runs that an earlier engine made.
func (h *hook) load(ctx context.Context) error {
	now := time.Now()
	return h.each(ctx, runPrefix, func(n number, rec *record) error {
		r := newRun(n, rec)
		if r.next.IsZero() {
			r.next = now
		}
		h.window.add(r, subject(&rec.Event))
		return nil
	})
}

// each calls fn for the records of the hook with a prefix, in order. Those that can't be
// read are logged and left out; they go with their hook.
func (h *hook) each(ctx context.Context, prefix string, fn func(number, *record) error) error {
	prefix += h.name + "/"
	return h.engine.ledger.Settings(ctx, prefix, func(name string, value json.RawMessage) error {
		n, err := parseKey(strings.TrimPrefix(name, prefix))
		var rec record
		if err == nil {
			err = json.Unmarshal(value, &rec)
		}
		if err != nil {
			h.log.Error("a run of a hook can't be read and is left out", "setting", name, "err", err)
			return nil
		}
		rec.Event.Shorten()
		return fn(n, &rec)
	})
}

func (h *hook) setting(prefix string, n number, value any) Setting {
	return Setting{Name: prefix + h.name + "/" + n.key(), Value: value}
}

// stop ends a hook, and returns when it has ended.
func (h *hook) stop(cause error) {
	h.cancel(cause)
	<-h.over
}

func (h *hook) configure(c Config, runner BuiltIn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cfg, h.runner = c.complete(runner), runner
	h.nudge()
}

// nudge has the loop look around.
func (h *hook) nudge() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// needs returns the number of the event up to which the hook needs nothing any more.
func (h *hook) needs() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n, ok := h.window.first(); ok {
		return min(h.cursor, n.seq()-1)
	}
	return h.cursor
}

// lastWrite bounds the time that a hook which stops gives the ledger.
const lastWrite = 5 * time.Second

func (h *hook) loop(ctx context.Context) {
	defer close(h.over)
	defer h.cancel(nil)
	if err := h.countParked(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("the runs of a hook can't be read; it does not run", "err", err)
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var nextTurn time.Time
	for ctx.Err() == nil {
		next, any := h.dispatch(ctx)
		if h.hasWork() {
			if wait := time.Until(nextTurn); wait <= 0 {
				nextTurn = time.Now().Add(h.turn(ctx))
				continue
			} else if !any || wait < next {
				next, any = wait, true
			}
		}
		if !any {
			next = time.Hour
		}
		timer.Reset(next)
		select {
		case <-h.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	h.tries.Wait()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
	defer cancel()
	h.writing.Lock()
	defer h.writing.Unlock()
	h.mu.Lock()
	if h.saved != h.cursor {
		h.changes = append(h.changes, Setting{Name: cursorPrefix + h.name, Value: cursor{h.cursor}})
		h.saved = h.cursor
	}
	h.mu.Unlock()
	if err := h.flush(bounded); err != nil {
		h.log.Debug("the end of runs is not in the ledger; they are repeated", "err", err)
	}
}

// countParked counts what is kept of earlier times.
func (h *hook) countParked(ctx context.Context) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	var parked, again int
	var details int64
	count := func(prefix string, n *int) error {
		return h.each(ctx, prefix, func(_ number, rec *record) error {
			*n++
			if rec.Detail {
				details++
			}
			return ctx.Err()
		})
	}
	var loaded int
	if err := errors.Join(count(parkedPrefix, &parked), count(againPrefix, &again), count(runPrefix, &loaded)); err != nil {
		return err
	}
	h.engine.details.Add(details)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parked, h.again, h.details = parked, again, details
	return nil
}

// dispatch starts tries of what is due while there may be more. It returns when the
// next run is due, if one will be.
func (h *hook) dispatch(ctx context.Context) (next time.Duration, any bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cfg.Problem != "" {
		return 0, false
	}
	// While the ledger takes nothing, ends of runs would pile up.
	for h.running < h.cfg.Parallel && !h.stalled {
		r, wait := h.window.start(time.Now())
		if r == nil {
			return wait, wait > 0
		}
		h.running++
		r.called = false
		cfg, runner := h.cfg, h.runner
		h.tries.Go(func() { h.try(ctx, r, &cfg, runner) })
	}
	return 0, false
}

// hasWork says whether something is to be done at the ledger.
func (h *hook) hasWork() bool {
	last := h.engine.ledger.LastEvent()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stalled || len(h.changes) > 0 || h.room() > 0 && (h.again > 0 || h.cursor < last)
}

// room is for how many runs there is room; none as long as the window is not half
// empty, so that the ledger is read in large pieces, nor for a hook that can't be carried
// out, whose backlog are the events. The caller holds mu.
func (h *hook) room() int {
	free := h.engine.limits.window - len(h.window.runs)
	if h.cfg.Problem != "" || free < (h.engine.limits.window+1)/2 {
		return 0
	}
	return free
}

// turn does what is to be done at the ledger, and returns how long to wait before the
// next turn.
func (h *hook) turn(ctx context.Context) time.Duration {
	h.writing.Lock()
	err := h.flush(ctx)
	if err == nil {
		err = h.takeAgain(ctx)
	}
	h.writing.Unlock()
	more := false
	if err == nil {
		more, err = h.take(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return 0
	case err != nil:
		if !h.stalled {
			h.log.Error("the ledger takes nothing from a hook; it waits", "err", err)
		}
		h.stalled = true
		return h.engine.limits.stall
	case h.stalled:
		h.stalled = false
		h.log.Info("the ledger takes changes of a hook again")
	}
	if more {
		return 0
	}
	return h.engine.limits.pace
}

// flush writes what tries have left behind. The caller holds writing.
func (h *hook) flush(ctx context.Context) error {
	h.mu.Lock()
	changes := h.changes
	h.changes = nil
	h.mu.Unlock()
	if len(changes) == 0 {
		return nil
	}
	err := h.engine.ledger.Apply(ctx, changes, false)
	if err != nil {
		h.mu.Lock()
		h.changes = append(changes, h.changes...)
		h.mu.Unlock()
	}
	return err
}

// takeAgain makes runs of what was parked and is to be tried again. The caller holds
// writing.
func (h *hook) takeAgain(ctx context.Context) error {
	h.mu.Lock()
	room := h.room()
	if h.again == 0 {
		room = 0
	}
	h.mu.Unlock()
	if room == 0 {
		return nil
	}
	var changes []Setting
	var runs []*run
	var subjects []string
	now := time.Now()
	err := h.each(ctx, againPrefix, func(n number, rec *record) error {
		rec.Tries, rec.Error, rec.Next = 0, "", time.Time{}
		r := newRun(n, rec)
		r.next = now
		runs, subjects = append(runs, r), append(subjects, subject(&rec.Event))
		changes = append(changes, h.setting(againPrefix, n, nil), h.setting(runPrefix, n, rec))
		if len(runs) == room {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if err := h.engine.ledger.Apply(ctx, changes, false); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.again -= len(runs)
	for i, r := range runs {
		h.window.add(r, subjects[i])
	}
	return nil
}

// take makes runs of events. It reports whether it came to its end before the events
// did.
func (h *hook) take(ctx context.Context) (more bool, err error) {
	last := h.engine.ledger.LastEvent()
	h.mu.Lock()
	cfg, from, saved, room := h.cfg, h.cursor+1, h.saved, h.room()
	h.mu.Unlock()
	if room == 0 || from > last {
		return false, nil
	}
	limits := &h.engine.limits
	var changes []Setting
	var runs []*run
	var subjects []string
	now := time.Now()
	at, looked := from-1, 0
	err = h.engine.recent.read(ctx, from, last, func(ev api.Event) error {
		for part, name := range namesOf(&ev) {
			wanted, err := h.wanted(ctx, &cfg, name, &ev)
			if err != nil {
				return err
			}
			if !wanted {
				continue
			}
			n := numberOf(ev.Seq, part)
			rec := &record{Name: name, Event: ev}
			r := newRun(n, rec)
			r.next = now
			runs, subjects = append(runs, r), append(subjects, subject(&ev))
			changes = append(changes, h.setting(runPrefix, n, rec))
		}
		at = ev.Seq
		looked++
		if len(runs) >= room || looked >= limits.scan {
			return errEnough
		}
		return nil
	})
	switch {
	case err == nil:
		at = max(at, last) // some may have been pruned
	case errors.Is(err, errEnough):
		more = true
	default:
		return false, err
	}
	if len(runs) > 0 || at-saved > limits.unsaved {
		changes = append(changes, Setting{Name: cursorPrefix + h.name, Value: cursor{at}})
		if err := h.engine.ledger.Apply(ctx, changes, false); err != nil {
			return false, err
		}
		saved = at
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cursor, h.saved = at, saved
	for i, r := range runs {
		h.window.add(r, subjects[i])
	}
	return more, nil
}

// wanted says whether an event becomes a run.
func (h *hook) wanted(ctx context.Context, cfg *Config, name string, ev *api.Event) (bool, error) {
	if !cfg.wants(name) {
		return false, nil
	}
	if len(cfg.Tags) == 0 {
		return true, nil
	}
	if ev.Build == "" {
		return false, nil
	}
	b, err := h.engine.ledger.Build(ctx, ev.Build)
	if errors.Is(err, api.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	filter := api.Filter{Tags: cfg.Tags}
	return filter.Matches(b), nil
}
