package hooks

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
)

// Test carries a hook out once, outside of all order, for a build as it is now or for a
// machine. Nothing of it is kept, and a failure is part of the answer. The number of
// the event is 0.
func (e *Engine) Test(ctx context.Context, name string, t *api.HookTest) (*api.HookTested, error) {
	h, err := e.hook(name)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	cfg, runner := h.cfg, h.runner
	h.mu.Unlock()
	ev, err := e.testEvent(ctx, &cfg, t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	started := time.Now()
	output, err := carryOut(ctx, runner, ev)
	tested := &api.HookTested{Event: ev.Name, OK: err == nil, Output: clip(output), Took: api.Seconds(time.Since(started).Seconds())}
	if err != nil {
		tested.Error = errorText(err)
	}
	return tested, nil
}

func badRequest(format string, args ...any) error {
	return &api.Error{Status: http.StatusBadRequest, Code: api.CodeBadRequest, Message: fmt.Sprintf(format, args...)}
}

// testEvent makes an event up.
func (e *Engine) testEvent(ctx context.Context, cfg *Config, t *api.HookTest) (*Event, error) {
	if t.Event != "" && !slices.Contains(EventNames(), t.Event) {
		return nil, badRequest("no event is called %q; there are %s", t.Event, strings.Join(EventNames(), ", "))
	}
	ev := &Event{Name: t.Event, Hook: cfg.Name, Try: 1, Time: time.Now(), Machine: t.Machine}
	if t.Event == MachineLost || t.Event == MachineBack {
		if t.Machine == "" || t.Build != "" {
			return nil, badRequest("event %s: want a machine, and no build", t.Event)
		}
		ev.Event = api.Event{Kind: api.EventKind(t.Event), Time: ev.Time, Machine: t.Machine, Reason: "a test of the hook"}
		return ev, nil
	}
	if t.Build == "" || t.Machine != "" {
		return nil, badRequest("want a build; a machine is for %s and %s", MachineLost, MachineBack)
	}
	b, err := e.ledger.Build(ctx, t.Build)
	if err != nil {
		return nil, err
	}
	ev.Name = cmp.Or(t.Event, stateNames[b.State], BuildSubmitted)
	ev.Machine, ev.Build = b.Machine, b
	ev.Event = api.Event{
		Time: ev.Time, Build: b.ID, State: b.State, Attempt: b.Attempt, Machine: b.Machine, Reason: b.Reason, Failure: b.Failure,
	}
	if ev.Name == BuildSubmitted {
		ev.Event.Kind, ev.Event.State = api.KindSubmitted, api.Queued
	}
	for state, name := range stateNames {
		if name == ev.Name {
			ev.Event.State = state
		}
	}
	for kind, name := range kindNames {
		if name == ev.Name {
			ev.Event.Kind = kind
		}
	}
	return ev, nil
}
