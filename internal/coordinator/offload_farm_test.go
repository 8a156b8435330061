package coordinator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
	"lighter/machines"
	"lighter/nar"
	"lighter/store"
)

// hookFarm is a farm whose coordinator serves build hooks on a socket.
type hookFarm struct {
	*farm
	socket string
	server *http.Server
	served chan struct{}
}

func newHookFarm(t testing.TB, change func(*Config), names ...string) *hookFarm {
	t.Helper()
	dir, err := os.MkdirTemp("", "lighter") //nolint:usetesting // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	f := &hookFarm{socket: filepath.Join(dir, "sock")}
	f.farm = newFarm(t, change, names...)
	t.Cleanup(func() {
		f.shutDown()
		os.RemoveAll(dir)
	})
	f.serve()
	return f
}

func (f *hookFarm) serve() {
	f.t.Helper()
	listener, err := net.Listen("unix", f.socket)
	if err != nil {
		f.t.Fatal(err)
	}
	f.server, f.served = &http.Server{Handler: f.handler()}, make(chan struct{})
	go func() {
		defer close(f.served)
		f.server.Serve(listener)
	}()
}

func (f *hookFarm) unserve() {
	if f.server == nil {
		return
	}
	f.server.Close()
	<-f.served
	f.server = nil
}

func (f *hookFarm) shutDown() {
	f.unserve()
	f.farm.shutDown()
}

// restart ends the coordinator, as a signal or kill -9 would, and starts it again.
func (f *hookFarm) restart(how string) {
	f.t.Helper()
	f.unserve()
	if how == "crash" {
		f.crash()
	} else {
		f.farm.shutDown()
	}
	f.start()
	f.serve()
}

// over checks that nothing is left: no task, build or hook in memory, nothing on
// machines, and no build in the ledger that is not final.
func (f *hookFarm) over() {
	f.t.Helper()
	f.idle()
	f.until("no hook is left", func() bool {
		var hooks int
		if err := f.c.do(context.Background(), func(l *loop) { hooks = len(l.deliveries) }); err != nil {
			f.t.Fatal(err)
		}
		return hooks == 0
	})
	f.allFinal()
	// What was abandoned ends by itself.
	f.until("no transfer is left", func() bool { return len(f.c.moving.List()) == 0 })
	f.until("no lease is left", func() bool { return len(f.head.Leases()) == 0 })
}

func (f *hookFarm) question(drv store.Path) *hookapi.Question {
	return &hookapi.Question{Derivation: drv, System: "x86_64-linux"}
}

// ask asks in a conversation of its own.
func (f *hookFarm) ask(q *hookapi.Question) *hookapi.Answer {
	f.t.Helper()
	conn, r, err := hookapi.Dial(f.socket)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	if err := hookapi.WriteJSON(conn, hookapi.Ask, q); err != nil {
		f.t.Fatal(err)
	}
	kind, payload, err := r.Next()
	var a hookapi.Answer
	if err != nil || kind != hookapi.Reply || hookapi.Decode(payload, &a) != nil {
		f.t.Fatalf("got a frame %q %s, %v", kind, payload, err)
	}
	return &a
}

// fakeHook is a build hook that has one build done, and keeps what it is sent.
type fakeHook struct {
	f     *hookFarm
	order hookapi.Order
	// receive says what came of an archive; nil is to check it and to take what is good.
	receive func(number int, archive []byte) hookapi.Receipt
	early   func(number int) *hookapi.Receipt // an answer to an archive before it is read

	conn net.Conn
	over chan struct{} // closed when the conversation is

	mu     sync.Mutex
	states []hookapi.Progress
	log    []byte
	got    map[store.Path]bool
	ships  []hookapi.Shipment
	final  *hookapi.Result
	err    error
}

// hook orders the output "out" of a derivation.
func (f *hookFarm) hook(drv store.Path) *fakeHook {
	f.t.Helper()
	h := f.newHook(drv)
	h.start()
	return h
}

func (f *hookFarm) newHook(drv store.Path) *fakeHook {
	f.t.Helper()
	return &fakeHook{
		f: f, got: make(map[store.Path]bool),
		order: hookapi.Order{ID: newID(), Derivation: drv, Outputs: []store.Path{f.output(drv)}},
	}
}

// start begins a conversation, or begins it again.
func (h *fakeHook) start() {
	h.f.t.Helper()
	conn, r, err := hookapi.Dial(h.f.socket)
	if err != nil {
		h.f.t.Fatal(err)
	}
	if err := hookapi.WriteJSON(conn, hookapi.Build, &h.order); err != nil {
		h.f.t.Fatal(err)
	}
	over := make(chan struct{})
	h.conn, h.over = conn, over
	go func() {
		defer close(over)
		defer conn.Close()
		err := h.read(conn, r)
		h.mu.Lock()
		h.err = err
		h.mu.Unlock()
	}()
	h.f.t.Cleanup(func() {
		conn.Close()
		<-over
	})
}

func (h *fakeHook) read(conn net.Conn, r *hookapi.Reader) error {
	var archive []byte
	var shipment hookapi.Shipment
	for {
		kind, payload, err := r.Next()
		if err != nil {
			return err
		}
		switch kind {
		case hookapi.Transfer:
			if err := hookapi.Decode(payload, &shipment); err != nil {
				return err
			}
			archive = nil
			h.note(func() { h.ships = append(h.ships, shipment) })
			if h.early == nil {
				continue
			}
			if receipt := h.early(shipment.Number); receipt != nil {
				receipt.Number = shipment.Number
				if err := hookapi.WriteJSON(conn, hookapi.Delivered, receipt); err != nil {
					return err
				}
			}
		case hookapi.Archive:
			archive = append(archive, payload...)
		case hookapi.End:
			receipt := h.check(shipment.Number, archive)
			receipt.Number = shipment.Number
			if err := hookapi.WriteJSON(conn, hookapi.Delivered, receipt); err != nil {
				return err
			}
		default:
			if over, err := h.hear(kind, payload); over || err != nil {
				return err
			}
		}
	}
}

// hear takes a frame that is not part of a shipment.
func (h *fakeHook) hear(kind hookapi.Kind, payload []byte) (over bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch kind {
	case hookapi.State:
		var p hookapi.Progress
		err = hookapi.Decode(payload, &p)
		if p.Attempt != h.order.LogAttempt {
			h.order.LogAttempt, h.order.LogOffset = p.Attempt, 0
		}
		h.states = append(h.states, p)
	case hookapi.Log:
		h.log = append(h.log, payload...)
		h.order.LogOffset += int64(len(payload))
	case hookapi.Final:
		h.final = new(hookapi.Result)
		return true, hookapi.Decode(payload, h.final)
	default:
		err = errors.New("a frame " + string(kind))
	}
	return false, err
}

func (h *fakeHook) note(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// onReceive has f, or check if it is nil, take the archives that come.
func (h *fakeHook) onReceive(f func(number int, archive []byte) hookapi.Receipt) {
	h.note(func() { h.receive = f })
}

// check reads an archive as a build hook does.
func (h *fakeHook) check(number int, archive []byte) hookapi.Receipt {
	var receive func(int, []byte) hookapi.Receipt
	h.note(func() { receive = h.receive })
	if receive != nil {
		return receive(number, archive)
	}
	items, err := h.f.items(archive)
	if err != nil {
		return hookapi.Receipt{Error: err.Error()}
	}
	h.note(func() {
		for _, p := range items {
			h.got[p] = true
		}
	})
	return hookapi.Receipt{}
}

func (f *hookFarm) items(archive []byte) ([]store.Path, error) {
	var paths []store.Path
	r := nar.NewArchiveReader(bytes.NewReader(archive), store.DefaultDir)
	for {
		_, err := r.Next()
		if errors.Is(err, io.EOF) {
			return paths, nil
		}
		if err != nil {
			return nil, err
		}
		item, err := r.Item()
		if err != nil {
			return nil, err
		}
		if _, err := f.acl.Check(item.Signature, item.SignedHash); err != nil {
			return nil, err
		}
		paths = append(paths, item.Path)
	}
}

// result waits for the last word.
func (h *fakeHook) result() *hookapi.Result {
	h.f.t.Helper()
	select {
	case <-h.over:
	case <-time.After(patience):
		h.f.t.Fatalf("no result; states %+v\n%s", h.seen(), h.f.history(h.order.ID))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.final == nil {
		h.f.t.Fatalf("the conversation ended without a result: %v\n%s", h.err, h.f.history(h.order.ID))
	}
	return h.final
}

// succeeds waits for the end, and checks that all went well.
func (h *fakeHook) succeeds() *api.Build {
	h.f.t.Helper()
	r := h.result()
	if r.State != api.Succeeded {
		h.f.t.Fatalf("got %+v (%+v)\n%s", r, r.Failure, h.f.history(h.order.ID))
	}
	for _, p := range h.order.Outputs {
		if !h.got[p] {
			h.f.t.Errorf("%s was not delivered", p)
		}
	}
	b := h.f.awaitState(h.order.ID, api.Succeeded)
	if !b.Offload || b.Stopped == nil || b.Failure != nil {
		h.f.t.Errorf("the ledger has %+v", b)
	}
	return b
}

// leave ends the conversation, as guix-daemon does by killing a hook.
func (h *fakeHook) leave() {
	h.conn.Close()
	<-h.over
}

func (h *fakeHook) seen() []hookapi.Progress {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]hookapi.Progress(nil), h.states...)
}

func (h *fakeHook) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.log)
}

// awaitState waits until the hook was told of a state.
func (h *fakeHook) awaitState(s api.State) hookapi.Progress {
	h.f.t.Helper()
	var found hookapi.Progress
	h.f.until("the hook hears "+string(s)+" of "+h.order.Derivation.Name(), func() bool {
		for _, p := range h.seen() {
			if p.State == s {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

func (h *fakeHook) awaitLog(text string) {
	h.f.t.Helper()
	h.f.until("the hook has the log "+text, func() bool { return strings.Contains(h.logged(), text) })
}

// holdExport makes a machine hold each export until the channel is closed.
func (f *hookFarm) holdExport(machine string) (exporting <-chan struct{}, release func()) {
	began, gate := make(chan struct{}, 100), make(chan struct{})
	f.agents[machine].set(func(a *fakeAgent) {
		a.onExport = func(ctx context.Context) {
			began <- struct{}{}
			select {
			case <-gate:
			case <-ctx.Done():
			}
		}
	})
	return began, sync.OnceFunc(func() { close(gate) })
}

func (f *hookFarm) canceled(h *fakeHook) *api.Build {
	f.t.Helper()
	return f.awaitState(h.order.ID, api.Canceled)
}

// built returns how often a derivation was built.
func (f *hookFarm) built(name string) int {
	n := 0
	for _, a := range f.agents {
		n += a.count(name)
	}
	return n
}

func (f *hookFarm) records() int {
	n := 0
	for range f.ledger.Builds(f.t.Context(), ledger.Filter{}) {
		n++
	}
	return n
}

type ctx = context.Context

// waitForEnd is an onImport or onExport that holds the call until it is canceled.
func waitForEnd(ctx context.Context) { <-ctx.Done() }

// readFunc is an archive that is read with a function.
type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
func (readFunc) Close() error                 { return nil }

// wrapExport wraps what a machine exports.
func (f *hookFarm) wrapExport(name string, wrap func(io.ReadCloser) io.ReadCloser) {
	f.t.Helper()
	f.config.NewAgent = func(m machines.Machine) peer.Agent {
		if m.Name == name {
			return &wrappingAgent{f.agents[m.Name], wrap}
		}
		return f.agents[m.Name]
	}
	f.restart("stop")
}

type wrappingAgent struct {
	*fakeAgent
	wrap func(io.ReadCloser) io.ReadCloser
}

func (a *wrappingAgent) Export(ctx context.Context, paths []store.Path) (io.ReadCloser, error) {
	r, err := a.fakeAgent.Export(ctx, paths)
	if err != nil {
		return nil, err
	}
	return a.wrap(r), nil
}

// recorded waits until all that the loop changed is in the ledger.
func (f *hookFarm) recorded() {
	f.t.Helper()
	done := make(chan struct{})
	f.c.post(func(l *loop) { l.durably(func() { close(done) }) })
	<-done
}

func cutPipe() net.Conn {
	here, there := net.Pipe()
	here.Close()
	there.Close()
	return here
}
