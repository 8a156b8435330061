package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// memory is a ledger in memory. It refuses changes while refusal is set.
type memory struct {
	mu       sync.Mutex
	events   []api.Event
	builds   map[string]*api.Build
	settings map[string]json.RawMessage
	changed  chan struct{}
	refusal  error
	applied  int // calls of Apply
}

func newMemory() *memory {
	return &memory{builds: make(map[string]*api.Build), settings: make(map[string]json.RawMessage), changed: make(chan struct{})}
}

func (m *memory) LastEvent() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.events))
}

func (m *memory) Events(ctx context.Context, from uint64, follow bool, fn func(api.Event) error) error {
	for {
		m.mu.Lock()
		events, changed := m.events[min(int(from)-1, len(m.events)):], m.changed
		m.mu.Unlock()
		for _, ev := range events {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(ev); err != nil {
				return err
			}
			from++
		}
		if !follow {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) Build(_ context.Context, id string) (*api.Build, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.builds[id]; b != nil {
		clone := *b
		return &clone, nil
	}
	return nil, fmt.Errorf("build %s: %w", id, api.ErrNotFound)
}

func (m *memory) Apply(ctx context.Context, changes []Setting, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied++
	if m.refusal != nil {
		return m.refusal
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, c := range changes {
		if !strings.HasPrefix(c.Name, "hooks/") {
			return fmt.Errorf("setting %s is not the hooks'", c.Name)
		}
		if c.Value == nil {
			delete(m.settings, c.Name)
			continue
		}
		text, err := json.Marshal(c.Value)
		if err != nil {
			return err
		}
		m.settings[c.Name] = text
	}
	return nil
}

func (m *memory) Setting(_ context.Context, name string, v any) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.settings[name]
	if !ok {
		return false, nil
	}
	return true, json.Unmarshal(text, v)
}

func (m *memory) Settings(_ context.Context, prefix string, fn func(string, json.RawMessage) error) error {
	m.mu.Lock()
	settings := maps.Clone(m.settings)
	m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if strings.HasPrefix(name, prefix) {
			if err := fn(name, settings[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusal = err
}

func (m *memory) applies() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied
}

// names returns the names of the settings with a prefix.
func (m *memory) names(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.settings)) {
		if strings.HasPrefix(name, prefix) {
			names = append(names, strings.TrimPrefix(name, prefix))
		}
	}
	return names
}

// emit appends events, and numbers them.
func (m *memory) emit(events ...api.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ev := range events {
		ev.Seq, ev.Time = uint64(len(m.events)+1), time.Now()
		m.events = append(m.events, ev)
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

func path(name string) store.Path {
	return store.Path("/gnu/store/" + strings.Repeat("a", 32) + "-" + name)
}

// build makes a build known, and returns its id.
func (m *memory) build(id string, tags map[string]string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.builds[id] = &api.Build{
		Request:     api.Request{ID: id, Derivation: path(id + ".drv"), Tags: tags},
		System:      "x86_64-linux",
		OutputPaths: map[string]store.Path{"out": path(id), "doc": path(id + "-doc")},
	}
	return id
}

// of returns an event of a build for each state.
func of(id string, states ...api.State) []api.Event {
	var events []api.Event
	for _, s := range states {
		ev := api.Event{Build: id, State: s, Attempt: 1, Machine: "m1"}
		if s == api.Queued {
			ev.Kind = api.KindSubmitted
		}
		events = append(events, ev)
	}
	return events
}

// recorder is a built-in that notes what it was told, and does what do says.
type recorder struct {
	do func(ctx context.Context, e *Event) (string, error)

	mu            sync.Mutex
	calls         []call
	running, most int
}

type call struct {
	Build, Name string
	Seq         uint64
	Try         int
	at          time.Time
}

func (r *recorder) Run(ctx context.Context, e *Event) (string, error) {
	r.mu.Lock()
	r.calls = append(r.calls, call{e.Event.Build, e.Name, e.Seq, e.Try, time.Now()})
	r.running++
	r.most = max(r.most, r.running)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.running--
		r.mu.Unlock()
	}()
	if r.do == nil {
		return "", nil
	}
	return r.do(ctx, e)
}

func (r *recorder) all() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// told returns the calls as text: "b1 build-started 1".
func (r *recorder) told() []string {
	var list []string
	for _, c := range r.all() {
		list = append(list, fmt.Sprintf("%s %s %d", c.Build, c.Name, c.Try))
	}
	return list
}

// hookOn is a hook with the built-in "note".
func hookOn(name string, events ...string) Config {
	return Config{Name: name, Events: events, BuiltIn: "note"}
}

// bench is an engine with a ledger in memory, in a bubble of synctest.
type bench struct {
	t      *testing.T
	ledger *memory
	note   *recorder
	limits limits
	engine *Engine
	stop   func()
}

// inBubble runs a test with an engine that is not started yet.
func inBubble(t *testing.T, test func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, ledger: newMemory(), note: &recorder{}}
		defer b.end()
		test(b)
	})
}

func (b *bench) start(configs ...Config) {
	b.t.Helper()
	var err error
	b.engine, err = New(Options{
		Ledger: b.ledger, Hooks: configs, BuiltIns: map[string]BuiltIn{"note": b.note}, limits: b.limits,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := b.engine.Start(ctx); err != nil {
		b.t.Fatal(err)
	}
	b.stop = cancel
}

// end stops the engine and waits for it.
func (b *bench) end() {
	if b.stop != nil {
		b.stop()
		b.engine.Wait()
		b.stop = nil
	}
}

// settle lets an hour go by, in which all that can happen does.
func (b *bench) settle() {
	time.Sleep(time.Hour)
	synctest.Wait()
}

func (b *bench) list() *api.HookList {
	b.t.Helper()
	list, err := b.engine.List(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// states returns the runs that are not over: "note/3 parked 2".
func (b *bench) states() []string {
	b.t.Helper()
	var all []string
	for _, r := range b.list().Runs {
		all = append(all, fmt.Sprintf("%s %s %d", r.ID, r.State, r.Tries))
	}
	return all
}

var errNo = errors.New("no")

// prunedLedger has only some of the events.
type prunedLedger struct {
	*memory
	left []api.Event
}

func (p *prunedLedger) Events(_ context.Context, from uint64, _ bool, fn func(api.Event) error) error {
	for _, ev := range p.left {
		if ev.Seq >= from {
			if err := fn(ev); err != nil {
				return err
			}
		}
	}
	return nil
}
