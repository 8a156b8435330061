package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/peer"
	"lighter/internal/ledger"
	"lighter/internal/testkit"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/storetest"
)

// farm is a head with machines, for tests.
type farm struct {
	t      testing.TB
	dir    string
	head   *storetest.Memory
	acl    *signature.ACL
	agents map[string]*fakeAgent
	config Config
	hasher *derivation.Hasher

	fs     vfs.FS // of the ledger: memory, except in benchmarks
	ledger *ledger.Ledger
	c      *Coordinator
	stop   func()
	dead   atomic.Bool // nothing of the loop reaches the ledger any more
	full   atomic.Bool // as if its disk was full
	over   chan error

	access    *TestAccess
	face      http.Handler
	faceOf    *Coordinator
	setAccess func(*TestAccess)
}

// newFarm starts a coordinator with machines of the given names, two slots each.
func newFarm(t testing.TB, change func(*Config), names ...string) *farm {
	t.Helper()
	testkit.CheckLeaks(t)
	f := unstarted(t, names...)
	if change != nil {
		change(&f.config)
	}
	f.start()
	t.Cleanup(func() { f.shutDown() })
	return f
}

// unstarted is a farm without a ledger and a coordinator.
func unstarted(t testing.TB, names ...string) *farm {
	t.Helper()
	f := &farm{t: t, dir: t.TempDir(), acl: &signature.ACL{}, agents: make(map[string]*fakeAgent), fs: vfs.NewMem()}
	if _, ok := t.(*testing.B); ok {
		f.fs = vfs.Default
	}
	headKey := newKey(t)
	f.acl.Add(headKey.Public())
	for _, name := range names {
		key := newKey(t)
		acl := &signature.ACL{}
		acl.Add(key.Public())
		acl.Add(headKey.Public())
		f.acl.Add(key.Public())
		f.agents[name] = newFakeAgent(t, name, key, acl)
	}
	f.head = storetest.NewMemory(store.DefaultDir, headKey, f.acl)
	f.hasher = derivation.NewHasher(store.DefaultDir, nil)
	f.config = Config{
		Store: f.head, NewLink: func(machines.Machine) (peer.Link, error) { return noLink{}, nil },
		ACL: func() (*signature.ACL, error) { return f.acl, nil }, PublicKey: headKey.Public(), LogDir: filepath.Join(f.dir, "logs"),
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)), Version: "test",
		Limits: limits.Limits{
			PollInterval: time.Hour, RetryMin: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond,
			AttemptDelay: time.Millisecond, MachineLostAfter: 30 * time.Second, StartGrace: 5 * time.Second,
		},
		NewAgent: func(m machines.Machine) peer.Agent { return f.agents[m.Name] },
	}
	for _, name := range names {
		f.config.Machines = append(f.config.Machines, machines.Machine{
			Name: name, Host: name, Systems: []string{"x86_64-linux"}, ParallelBuilds: 2, Speed: 1, Features: []string{"on-" + name},
		})
	}
	return f
}

// testWriter is a log in which nothing may be called a bug.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	if w.t.Log(line); strings.Contains(line, "this is a bug in lighter") {
		w.t.Error("see the log")
	}
	return len(p), nil
}

func newKey(t testing.TB) *signature.PrivateKey {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (f *farm) start() {
	f.t.Helper()
	var err error
	if f.ledger, err = ledger.Open(filepath.Join(f.dir, "ledger"), ledger.Options{MinFree: -1, FS: f.fs}); err != nil {
		f.t.Fatal(err)
	}
	f.config.Ledger, f.config.Apply = f.ledger, f.record
	if f.c, err = New(f.config); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.over = make(chan error, 1)
	f.dead.Store(false)
	c := f.c
	go func() { f.over <- c.Run(ctx) }()
	f.stop = cancel
}

// shutDown ends the coordinator as a signal would.
func (f *farm) shutDown() {
	f.t.Helper()
	if f.stop == nil {
		return
	}
	f.stop()
	if err := <-f.over; err != nil {
		f.t.Errorf("Run: %v", err)
	}
	f.stop = nil
	if err := f.ledger.Check(context.Background()); err != nil {
		f.t.Errorf("ledger: %v", err)
	}
	if err := f.ledger.Close(); err != nil {
		f.t.Error(err)
	}
}

// crash ends the coordinator so that nothing more reaches the ledger.
func (f *farm) crash() {
	f.dead.Store(true)
	f.shutDown()
}

// record is what the coordinator's recorder sees of the ledger.
func (f *farm) record(ctx context.Context, changes []ledger.Change) (done int, refused []ledger.Refusal, err error) {
	switch {
	case f.dead.Load():
		<-f.c.mail.Closed()
		return 0, nil, errStopping
	case f.full.Load():
		return 0, nil, ledger.ErrDiskFull
	}
	return f.config.Ledger.ApplyEach(ctx, changes, true)
}

// drv adds a derivation to the head's store. Its output refers to those of inputs.
func (f *farm) drv(name, script string, inputs ...store.Path) store.Path {
	f.t.Helper()
	return f.derive(&derivation.Derivation{System: "x86_64-linux"}, name, script, inputs...)
}

func (f *farm) derive(d *derivation.Derivation, name, script string, inputs ...store.Path) store.Path {
	f.t.Helper()
	ctx := context.Background()
	d.Builder = "builtin:fake"
	if d.Outputs == nil {
		d.Outputs = []derivation.Output{{Name: "out"}}
	}
	var refs []string
	for _, in := range inputs {
		d.Inputs = append(d.Inputs, derivation.Input{Path: in, Outputs: []string{"out"}})
		refs = append(refs, string(f.output(in)))
	}
	slices.SortFunc(d.Inputs, func(a, b derivation.Input) int { return strings.Compare(string(a.Path), string(b.Path)) })
	source, err := f.head.AddText(ctx, "source-of-"+name, []byte("source of "+name), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	d.Sources = []store.Path{source}
	d.Env = append(d.Env, derivation.EnvVar{Name: "script", Value: script}, derivation.EnvVar{Name: "refs", Value: strings.Join(refs, " ")})
	for _, o := range d.Outputs {
		d.Env = append(d.Env, derivation.EnvVar{Name: o.Name, Value: ""})
	}
	if err := f.hasher.Fill(name, d); err != nil {
		f.t.Fatal(err)
	}
	path, err := f.head.AddText(ctx, name+".drv", d.Marshal(), d.References())
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.hasher.Add(path, d); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// output returns the path of a derivation's output "out".
func (f *farm) output(drv store.Path) store.Path {
	f.t.Helper()
	n, err := headstore.New(f.head).Node(context.Background(), drv)
	if err != nil {
		f.t.Fatal(err)
	}
	return n.OutputMap()["out"]
}

// submit submits derivations and returns the builds' ids.
func (f *farm) submit(drvs ...store.Path) []string {
	f.t.Helper()
	var requests []api.Request
	for _, drv := range drvs {
		requests = append(requests, api.Request{Derivation: drv})
	}
	return f.request(requests...)
}

func (f *farm) request(requests ...api.Request) []string {
	f.t.Helper()
	answers, err := f.c.Submit(context.Background(), requests, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	var ids []string
	for _, a := range answers {
		if a.Build == nil {
			f.t.Fatalf("submit: %s", a.Error)
		}
		ids = append(ids, a.Build.ID)
	}
	return ids
}

// patience bounds what a test waits for.
const patience = 20 * time.Second

// await returns a build as it is after the first event that ok accepts.
func (f *farm) await(id string, ok func(b *api.Build) bool) *api.Build {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var found *api.Build
	enough := errors.New("enough")
	look := func() error {
		b, err := f.ledger.Build(ctx, id)
		if err != nil {
			return err
		}
		found = b
		if ok(b) {
			return enough
		}
		return nil
	}
	next := f.ledger.LastEvent() + 1
	err := look()
	if err == nil {
		err = f.ledger.Events(ctx, next, true, func(ev api.Event) error {
			if ev.Build == id {
				return look()
			}
			return nil
		})
	}
	if !errors.Is(err, enough) {
		f.t.Fatalf("waiting for build %s: %v; it is %+v\n%s", id, err, found, f.history(id))
	}
	return found
}

func (f *farm) awaitState(id string, s api.State) *api.Build {
	f.t.Helper()
	b := f.await(id, func(b *api.Build) bool { return b.State == s || b.State.Final() })
	if b.State != s {
		f.t.Fatalf("build %s of %s is %s (%s, %v), want %s\n%s", id, b.Derivation.Name(), b.State, b.Reason, b.Failure, s, f.history(id))
	}
	return b
}

func (f *farm) awaitFinal(id string) *api.Build {
	f.t.Helper()
	return f.await(id, func(b *api.Build) bool { return b.State.Final() })
}

func (f *farm) history(id string) string {
	events, err := f.ledger.BuildEvents(context.Background(), id)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, ev := range events {
		b.WriteString(string(ev.State) + " " + ev.Machine + " " + ev.Reason + "\n")
	}
	return b.String()
}

// states returns the states that a build went through.
func (f *farm) states(id string) []api.State {
	f.t.Helper()
	events, err := f.ledger.BuildEvents(context.Background(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	var states []api.State
	for _, ev := range events {
		if len(states) == 0 || states[len(states)-1] != ev.State {
			states = append(states, ev.State)
		}
	}
	return states
}

// until waits for something that must happen.
func (f *farm) until(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// idle waits until no agent knows a build and the loop has no task: nothing is left
// behind.
func (f *farm) idle() {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		var tasks, builds, kept int
		if err := f.c.do(context.Background(), func(l *loop) { tasks, builds = len(l.tasks), len(l.builds) }); err != nil {
			f.t.Fatal(err)
		}
		for _, a := range f.agents {
			kept += a.knows()
		}
		if tasks == 0 && builds == 0 && kept == 0 {
			// The ledger may be a little behind the loop.
			if _, err := f.c.durablyIn(context.Background(), func(l *loop) []string { return nil }); err != nil {
				f.t.Fatal(err)
			}
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%d tasks and %d builds in memory, %d builds on agents are left\n%s", tasks, builds, kept, f.left())
		}
		time.Sleep(time.Millisecond)
	}
}

// left tells the stories of the builds that agents know.
func (f *farm) left() string {
	var b strings.Builder
	for name, a := range f.agents {
		a.mu.Lock()
		for id, build := range a.builds {
			fmt.Fprintf(&b, "%s has %s of %s, attempt %d, %s:\n%s", name, id, build.status.Derivation.Name(), build.status.Attempt, build.status.State, f.history(id))
		}
		a.mu.Unlock()
	}
	return b.String()
}

// valid reports whether an item is valid at home.
func (f *farm) valid(p store.Path) bool {
	f.t.Helper()
	ok, err := store.IsValid(context.Background(), f.head, p)
	if err != nil {
		f.t.Fatal(err)
	}
	return ok
}

type (
	machineEntry = machines.Machine
)

// machine returns what the coordinator has of a machine.
func (f *farm) machine(name string) (m *machine) {
	f.t.Helper()
	if err := f.c.do(f.t.Context(), func(l *loop) { m = l.byName[name] }); err != nil {
		f.t.Fatal(err)
	}
	return m
}
