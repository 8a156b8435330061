package remote

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/machines"
)

// TestPersist has calls to a machine fail, which can be reached between them or not.
func TestPersist(t *testing.T) {
	cut, away := errors.New("connection reset"), errors.New("no route to host")
	answer := &agentapi.Error{Status: 422, Code: agentapi.CodeCorrupt, Message: "no"}
	limits := Limits{MachineLostAfter: time.Hour, SendPatience: time.Minute}
	for _, test := range []struct {
		name   string
		phase  api.State
		takes  time.Duration // one call
		errs   []error       // of calls, the last one of all that follow
		look   error
		calls  int
		took   time.Duration // at least, and not much more; 0 is not looked at
		want   error         // nil is a failure of the link
		reason string        // in that
	}{
		{name: "well", phase: api.Building, errs: []error{nil}, calls: 1},
		{name: "well in the end", phase: api.Building, errs: []error{cut, cut, cut, nil}, calls: 4},
		{name: "the agent says no", phase: api.Building, errs: []error{cut, answer}, calls: 2, want: answer},
		{name: "cut again and again", phase: api.Building, errs: []error{cut}, calls: maxLinkFailures + 1, reason: "connection reset"},
		{name: "cut, but it gets on", phase: api.Building, takes: linkProgress + time.Second, errs: []error{cut}, calls: maxAllFailures + 1, reason: "connection reset"},
		{name: "away", phase: api.Building, errs: []error{cut}, look: away, calls: 1, took: limits.MachineLostAfter, reason: "not reached again for 1h0m0s after: connection reset"},
		{name: "away before it begins", phase: api.Sending, errs: []error{cut}, look: away, calls: 1, took: limits.SendPatience, reason: "not reached again for 1m0s after: connection reset"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var group sync.WaitGroup
				defer group.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				m := peer.New(&peer.Config{
					Limits: peer.Limits{Streams: 1, PollInterval: 24 * time.Hour, RetryMin: time.Second, RetryMax: time.Second},
					Logger: slog.New(slog.DiscardHandler), Group: &group, NewAgent: func(machines.Machine) peer.Agent { return nil },
				}, machines.Machine{Name: "m1"}, nil)
				m.Start(ctx, peer.Watch{
					Connecting: func() {}, Looked: func(time.Duration, error) {},
					Look: func(context.Context, bool) error { return test.look },
				})
				told := ""
				r := &Attempt{config: &Config{Limits: limits}, Job: Job{Machine: m, Phase: test.phase, Report: func(_ api.State, _ time.Time, reason string) {
					told = reason
				}}}
				calls, began := 0, time.Now()
				err := r.persist(ctx, m, func(context.Context) error {
					time.Sleep(test.takes)
					calls++
					return test.errs[min(calls, len(test.errs))-1]
				})
				if calls != test.calls {
					t.Errorf("called %d times, want %d", calls, test.calls)
				}
				if took := time.Since(began); test.took > 0 && (took < test.took || took > test.took+time.Second) {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				var f *api.Failure
				switch {
				case test.reason == "" && (!errors.Is(err, test.want) || told != ""):
					t.Errorf("got %v, want %v; told last: %q", err, test.want, told)
				case test.reason != "" && (!errors.As(err, &f) || f.Culprit != api.CulpritLink || f.Machine != "m1" || f.Phase != test.phase || !strings.Contains(f.Message, test.reason)):
					t.Errorf("got %#v, want a failure of the link with %q", err, test.reason)
				}
			})
		})
	}
}
