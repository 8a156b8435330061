package hooks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"
	"unicode"

	"lighter/internal/api"
	"lighter/internal/backoff"
)

// try carries out a run once, and decides what becomes of it.
func (h *hook) try(ctx context.Context, r *run, cfg *Config, runner BuiltIn) {
	rec, ev, err := h.event(ctx, r)
	if err != nil {
		if ctx.Err() == nil {
			h.log.Warn("a run of a hook can't be read; it waits", "run", r.number, "err", err)
		}
		h.giveBack(r, h.engine.limits.stall)
		return
	}
	bounded, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	started := time.Now()
	output, err := carryOut(bounded, runner, ev)
	switch {
	case err == nil:
		h.finish(r, rec)
		h.log.Debug("a hook has run", "run", r.number, "event", ev.Name, "build", r.build, "took", time.Since(started))
		return
	case ctx.Err() != nil:
		h.giveBack(r, 0) // it was stopped, not wrong
		return
	case bounded.Err() != nil:
		err = fmt.Errorf("took longer than %s: %w", cfg.Timeout, err)
	}
	rec.Tries, rec.Error, rec.Output = rec.Tries+1, errorText(err), clip(output)
	if rec.Tries < cfg.Tries && !IsPermanent(err) {
		h.retryLater(r, rec)
		return
	}
	h.log.Warn("a run of a hook is parked; see lighter hooks list", "run", r.number, "event", ev.Name, "build", r.build,
		"tries", rec.Tries, "err", rec.Error)
	h.park(r, rec, ev.Build)
}

// event reads what a run is about.
func (h *hook) event(ctx context.Context, r *run) (*record, *Event, error) {
	rec := new(record)
	found, err := h.engine.ledger.Setting(ctx, h.setting(runPrefix, r.number, nil).Name, rec)
	if err == nil && !found {
		err = errors.New("it is not in the ledger")
	}
	if err != nil {
		return nil, nil, err
	}
	// What is in memory is newer than what is not flushed yet.
	rec.Tries = r.tries
	ev := &Event{
		Name: rec.Name, Hook: h.name, Try: rec.Tries + 1, Seq: rec.Event.Seq, Time: rec.Event.Time,
		Machine: rec.Event.Machine, Event: rec.Event,
	}
	if ev.Event.Build == "" {
		return rec, ev, nil
	}
	ev.Build, err = h.engine.ledger.Build(ctx, ev.Event.Build)
	if errors.Is(err, api.ErrNotFound) {
		ev.Build, err = h.keptBuild(ctx, r, rec)
	}
	return rec, ev, err
}

// keptBuild returns the copy of a build that the ledger has forgotten, or what little
// its event says.
func (h *hook) keptBuild(ctx context.Context, r *run, rec *record) (*api.Build, error) {
	var kept detail
	if rec.Detail {
		if _, err := h.engine.ledger.Setting(ctx, h.setting(detailPrefix, r.number, nil).Name, &kept); err != nil {
			return nil, err
		}
	}
	if kept.Build == nil {
		ev := &rec.Event
		kept.Build = &api.Build{
			Request: api.Request{ID: ev.Build}, State: ev.State, Attempt: ev.Attempt, Machine: ev.Machine,
			Reason: ev.Reason, Failure: ev.Failure,
		}
	}
	return kept.Build, nil
}

// carryOut runs a hook. A built-in that panics has failed for good: were it to end the
// coordinator, the next one would run it again.
func carryOut(ctx context.Context, runner BuiltIn, ev *Event) (output string, err error) {
	defer func() {
		if p := recover(); p != nil {
			output, err = string(debug.Stack()), Permanent(fmt.Errorf("panic: %v", p))
		}
	}()
	return runner.Run(ctx, ev)
}

// maxErrorText bounds the text of an error that is kept, in bytes.
const maxErrorText = 1 << 10

// errorText is what is kept and logged of an error, in which may be what an endpoint or a
// build said.
func errorText(err error) string {
	text := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(err.Error(), "\uFFFD"))
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return text
}

// giveBack puts a run back as it was.
func (h *hook) giveBack(r *run, after time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running--
	h.window.again(r, time.Now().Add(after))
	h.nudge()
}

// finish forgets a run that is done.
func (h *hook) finish(r *run, rec *record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running--
	h.done++
	h.forget(r, rec)
	h.nudge()
}

// forget takes a run out of window and ledger. The caller holds mu.
func (h *hook) forget(r *run, rec *record) {
	h.window.remove(r)
	h.changes = append(h.changes, h.setting(runPrefix, r.number, nil))
	h.forgetDetail(r.number, rec)
}

// forgetDetail forgets what is kept of a run that was parked. The caller holds mu.
func (h *hook) forgetDetail(n number, rec *record) {
	if rec.Detail {
		h.changes = append(h.changes, h.setting(detailPrefix, n, nil))
		h.engine.details.Add(-1)
		h.details--
	}
}

func (h *hook) retryLater(r *run, rec *record) {
	limits := &h.engine.limits
	rec.Next = time.Now().Add(backoff.After(rec.Tries, limits.retryMin, limits.retryMax, rand.Float64()))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running--
	r.tries, r.err = rec.Tries, rec.Error
	if r.called {
		rec.Next = time.Now()
	}
	h.window.again(r, rec.Next)
	h.changes = append(h.changes, h.setting(runPrefix, r.number, rec))
	h.nudge()
}

// park puts a run aside until a person says what to do with it.
func (h *hook) park(r *run, rec *record, b *api.Build) {
	h.mu.Lock()
	defer h.mu.Unlock()
	output := rec.Output
	rec.Output, rec.Next = "", time.Time{}
	h.window.remove(r)
	h.running--
	h.parked++
	h.changes = append(h.changes, h.setting(runPrefix, r.number, nil))
	if !rec.Detail {
		if rec.Detail = h.engine.details.Add(1) <= h.engine.limits.details; rec.Detail {
			h.details++
		} else {
			h.engine.details.Add(-1)
		}
	}
	if rec.Detail {
		h.changes = append(h.changes, h.setting(detailPrefix, r.number, detail{output, b}))
	}
	h.changes = append(h.changes, h.setting(parkedPrefix, r.number, rec))
	h.nudge()
}
