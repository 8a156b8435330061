package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
)

// Limits on what is told at once.
const (
	maxListed   = 1000 // runs of each kind
	maxSelected = 10_000
	moveChunk   = 1000 // parked runs that are moved together
)

// The states of an api.HookRun.
const (
	stateWaiting  = "waiting"
	stateRunning  = "running"
	stateRetrying = "retrying"
	stateParked   = "parked"
)

// List returns the hooks and their runs that are not over, at most 1000 parked ones
// and 1000 others, without output.
func (e *Engine) List(ctx context.Context) (*api.HookList, error) {
	list := &api.HookList{Hooks: []api.HookStatus{}, Runs: []api.HookRun{}, Since: e.started}
	var open []api.HookRun
	last := e.ledger.LastEvent()
	for _, h := range e.all() {
		if err := h.listParked(ctx, &list.Runs); err != nil {
			return nil, err
		}
		list.Hooks = append(list.Hooks, h.status(last))
		open = append(open, h.listOpen()...)
	}
	rank := map[string]int{stateRetrying: 0, stateRunning: 1, stateWaiting: 2}
	slices.SortStableFunc(open, func(a, b api.HookRun) int {
		return cmp.Or(cmp.Compare(rank[a.State], rank[b.State]), cmp.Compare(a.EventSeq, b.EventSeq))
	})
	list.Runs = append(list.Runs, open[:min(len(open), maxListed)]...)
	return list, nil
}

func (h *hook) status(last uint64) api.HookStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return api.HookStatus{
		Name: h.name, Events: h.cfg.Events, Command: h.cfg.Command, BuiltIn: h.cfg.BuiltIn,
		Waiting: len(h.window.runs) - h.running + h.again, Running: h.running, Parked: h.parked, Done: h.done, Problem: h.cfg.Problem,
		Behind: last - min(last, h.cursor),
	}
}

func (h *hook) listParked(ctx context.Context, runs *[]api.HookRun) error {
	err := h.each(ctx, parkedPrefix, func(n number, rec *record) error {
		if len(*runs) >= maxListed {
			return errEnough
		}
		*runs = append(*runs, h.describe(n, rec, stateParked))
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func (h *hook) runID(n number) string { return h.name + "/" + n.String() }

func (h *hook) describe(n number, rec *record, state string) api.HookRun {
	run := api.HookRun{
		ID: h.runID(n), Hook: h.name, Event: rec.Name, Build: rec.Event.Build, Machine: rec.Event.Machine, State: state,
		Tries: rec.Tries, Error: rec.Error, Output: rec.Output, Since: rec.Event.Time, EventSeq: rec.Event.Seq,
	}
	if !rec.Next.IsZero() {
		run.NextTry = &rec.Next
	}
	return run
}

func (h *hook) listOpen() []api.HookRun {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []api.HookRun
	for _, r := range h.window.runs {
		list = append(list, h.describeOpen(r))
	}
	return list
}

// describeOpen tells of a run in the window. The caller holds mu.
func (h *hook) describeOpen(r *run) api.HookRun {
	run := api.HookRun{
		ID: h.runID(r.number), Hook: h.name, Event: r.name, Build: r.build, Machine: r.machine, State: stateWaiting,
		Tries: r.tries, Error: r.err, Since: r.since, EventSeq: r.number.seq(),
	}
	switch {
	case r.running:
		run.State = stateRunning
	case r.tries > 0:
		run.State = stateRetrying
		next := r.next
		run.NextTry = &next
	}
	return run
}

func notFound(format string, args ...any) error {
	return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: fmt.Sprintf(format, args...)}
}

// find returns the hook and the number of a run that a person names.
func (e *Engine) find(id string) (*hook, number, error) {
	name, text, ok := strings.Cut(id, "/")
	n, err := parseNumber(text)
	if !ok || err != nil {
		return nil, 0, badRequest("run %q: want the name of a hook and a number, such as publish/1042", id)
	}
	h, err := e.hook(name)
	return h, n, err
}

func (e *Engine) hook(name string) (*hook, error) {
	for _, h := range e.all() {
		if h.name == name {
			return h, nil
		}
	}
	return nil, notFound("no hook is called %q", name)
}

// Run tells all of one run that is not over, with its output.
func (e *Engine) Run(ctx context.Context, id string) (*api.HookRun, error) {
	h, n, err := e.find(id)
	if err != nil {
		return nil, err
	}
	if err := h.settle(ctx); err != nil {
		return nil, err
	}
	for _, prefix := range []string{parkedPrefix, againPrefix, runPrefix} {
		var rec record
		found, err := e.ledger.Setting(ctx, h.setting(prefix, n, nil).Name, &rec)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		var kept detail
		if rec.Detail {
			if _, err := e.ledger.Setting(ctx, h.setting(detailPrefix, n, nil).Name, &kept); err != nil {
				return nil, err
			}
			rec.Output = cmp.Or(rec.Output, kept.Output)
		}
		run := h.describe(n, &rec, map[string]string{parkedPrefix: stateParked, againPrefix: stateWaiting}[prefix])
		if prefix == runPrefix {
			run = h.describeNow(n, run)
		}
		return &run, nil
	}
	return nil, noSuchRun(id)
}

func noSuchRun(id string) error {
	return notFound("run %s: there is none that waits or is parked; it may be done", id)
}

// describeNow puts into a description what memory knows better.
func (h *hook) describeNow(n number, run api.HookRun) api.HookRun {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.window.runs[n]; r != nil {
		output := run.Output
		run = h.describeOpen(r)
		run.Output = output
	}
	return run
}

// settle writes what is decided, so that the ledger has it.
func (h *hook) settle(ctx context.Context) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	return h.flush(ctx)
}

// Retry has runs tried again: parked ones from the beginning, and those that wait for
// their next try now.
func (e *Engine) Retry(ctx context.Context, s *api.HookSelection) (*api.Selected, error) {
	return e.each(ctx, s, (*hook).retryOne, (*hook).retryAll)
}

// Drop forgets runs: parked ones, and, by id, those that wait for their next try.
func (e *Engine) Drop(ctx context.Context, s *api.HookSelection) (*api.Selected, error) {
	return e.each(ctx, s, (*hook).dropOne, func(h *hook, ctx context.Context) ([]number, error) {
		return h.moveParked(ctx, nil, h.dropParked)
	})
}

// each does something to each selected run.
func (e *Engine) each(ctx context.Context, s *api.HookSelection,
	one func(h *hook, ctx context.Context, n number) error, all func(h *hook, ctx context.Context) ([]number, error),
) (*api.Selected, error) {
	given := 0
	for _, set := range []bool{len(s.IDs) > 0, s.Hook != "", s.All} {
		if set {
			given++
		}
	}
	if given != 1 {
		return nil, badRequest("want one of: ids of runs, the name of a hook, or all")
	}
	done := &api.Selected{IDs: []string{}}
	add := func(h *hook, numbers ...number) {
		done.Count += len(numbers)
		for _, n := range numbers {
			if len(done.IDs) < maxSelected {
				done.IDs = append(done.IDs, h.runID(n))
			}
		}
	}
	for _, id := range s.IDs {
		h, n, err := e.find(id)
		if err == nil {
			err = one(h, ctx, n)
		}
		if err != nil {
			return nil, err
		}
		add(h, n)
	}
	hooks := e.all()
	if s.Hook != "" {
		h, err := e.hook(s.Hook)
		if err != nil {
			return nil, err
		}
		hooks = []*hook{h}
	}
	if len(s.IDs) > 0 {
		return done, nil
	}
	for _, h := range hooks {
		numbers, err := all(h, ctx)
		if err != nil {
			return nil, err
		}
		add(h, numbers...)
	}
	return done, nil
}

func (h *hook) retryOne(ctx context.Context, n number) error {
	if h.hurry(n) {
		return nil
	}
	moved, err := h.moveParked(ctx, []number{n}, h.retryParked)
	if err == nil && len(moved) == 0 && !h.hurry(n) {
		err = noSuchRun(h.runID(n))
	}
	return err
}

func (h *hook) retryAll(ctx context.Context) ([]number, error) {
	h.mu.Lock()
	var numbers []number
	for n, r := range h.window.runs {
		if r.tries > 0 && !r.running {
			numbers = append(numbers, n)
		}
	}
	h.mu.Unlock()
	slices.Sort(numbers)
	numbers = slices.DeleteFunc(numbers, func(n number) bool { return !h.hurry(n) })
	moved, err := h.moveParked(ctx, nil, h.retryParked)
	return append(numbers, moved...), err
}

// hurry makes a run in the window due, and reports whether there is one.
func (h *hook) hurry(n number) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.window.runs[n]
	if r == nil {
		return false
	}
	r.called = r.running
	if !r.running {
		h.window.hurry(r, time.Now())
	}
	h.nudge()
	return true
}

func (h *hook) dropOne(ctx context.Context, n number) error {
	moved, err := h.moveParked(ctx, []number{n}, h.dropParked)
	if err != nil || len(moved) > 0 {
		return err
	}
	h.writing.Lock()
	defer h.writing.Unlock()
	h.mu.Lock()
	r := h.window.runs[n]
	if r == nil || r.running {
		h.mu.Unlock()
		if r == nil {
			return noSuchRun(h.runID(n))
		}
		return &api.Error{Status: http.StatusConflict, Code: api.CodeConflict, Message: fmt.Sprintf("run %s: it is being carried out now", h.runID(n))}
	}
	// The record is read under writing alone: nobody starts it before it is known
	// whether it has a detail.
	h.window.remove(r)
	h.mu.Unlock()
	var rec record
	_, err = h.engine.ledger.Setting(ctx, h.setting(runPrefix, n, nil).Name, &rec)
	h.mu.Lock()
	h.changes = append(h.changes, h.setting(runPrefix, n, nil))
	h.forgetDetail(n, &rec)
	h.nudge()
	h.mu.Unlock()
	return errors.Join(err, h.flush(ctx))
}

// moveParked applies move to parked runs, or to all of them if numbers is nil, a chunk
// at a time and durably. It returns those that were there.
func (h *hook) moveParked(ctx context.Context, numbers []number, move func(number, *record) []Setting) ([]number, error) {
	h.writing.Lock()
	defer h.writing.Unlock()
	if err := h.flush(ctx); err != nil {
		return nil, err
	}
	if numbers == nil {
		if err := h.each(ctx, parkedPrefix, func(n number, _ *record) error {
			numbers = append(numbers, n)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	var moved []number
	for chunk := range slices.Chunk(numbers, moveChunk) {
		var order []number
		var changes []Setting
		for _, n := range chunk {
			rec := new(record)
			ok, err := h.engine.ledger.Setting(ctx, h.setting(parkedPrefix, n, nil).Name, rec)
			if err != nil {
				return moved, err
			}
			if ok {
				order = append(order, n)
				changes = append(changes, h.setting(parkedPrefix, n, nil))
				changes = append(changes, move(n, rec)...)
			}
		}
		if len(order) == 0 {
			continue
		}
		if err := h.engine.ledger.Apply(ctx, changes, true); err != nil {
			return moved, err
		}
		h.moved(changes, len(order))
		moved = append(moved, order...)
	}
	return moved, nil
}

// moved counts what moveParked has written.
func (h *hook) moved(changes []Setting, parked int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parked -= parked
	for _, c := range changes {
		switch {
		case c.Value != nil:
			h.again++
		case strings.HasPrefix(c.Name, detailPrefix):
			h.details--
			h.engine.details.Add(-1)
		}
	}
	h.nudge()
}

func (h *hook) retryParked(n number, rec *record) []Setting {
	return []Setting{h.setting(againPrefix, n, rec)}
}

func (h *hook) dropParked(n number, rec *record) []Setting {
	if !rec.Detail {
		return nil
	}
	return []Setting{h.setting(detailPrefix, n, nil)}
}
