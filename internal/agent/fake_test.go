package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"lighter/internal/agentapi"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/storetest"
)

// fakeStore is a Memory whose builder does what the last of a derivation's arguments
// says, in words: "hold" waits for release or the end, "stuck" for release alone, "log=TEXT" writes a line, "use" says what it used, and "use=all" that it was killed for
// memory, "exit" fails as the derivation's fault, "broken" as the machine's, "panic" panics, "nothing" succeeds without
// making anything. Then it makes the outputs, which refer to the inputs that it was given. A check
// makes other ones, unless it has the word "half", with which it fails after the first byte.
type fakeStore struct {
	*storetest.Memory
	key *signature.PrivateKey

	held     chan string   // gets the name of each build that holds or is stuck
	canceled chan string   // gets the name of each stuck build that is canceled
	free     chan struct{} // closed: builds that hold or are stuck go on

	mu       sync.Mutex
	built    map[string]int // by name
	requests []*store.BuildRequest
	importer func(ctx context.Context, r io.Reader) ([]*store.Info, error) // if not nil, in place of Memory's
	exporter func(ctx context.Context, w io.Writer, paths []store.Path) error
	missing  error // returned by ValidPaths if set
}

func newFakeStore(t testing.TB) *fakeStore {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	acl := new(signature.ACL)
	acl.Add(key.Public())
	return &fakeStore{
		Memory: storetest.NewMemory(store.DefaultDir, key, acl), key: key,
		held: make(chan string, 1000), canceled: make(chan string, 1000), free: make(chan struct{}), built: make(map[string]int),
	}
}

func (s *fakeStore) OwnLoad() float64 { return 0.25 }

var errBroken = errors.New("the sandbox cannot be made")

func (s *fakeStore) Build(ctx context.Context, req *store.BuildRequest) (*store.BuildResult, error) {
	name := derivation.NameOf(req.Derivation)
	s.mu.Lock()
	s.built[name]++
	s.requests = append(s.requests, req)
	s.mu.Unlock()
	drv, err := derivation.Parse(s.Dir(), req.Text)
	if err != nil {
		return nil, err
	}
	for _, word := range drv.Args {
		key, text, _ := strings.Cut(word, "=")
		switch key {
		case "use":
			*req.Measured = store.Measured{CPU: 1.5, PeakMemory: 1 << 30, MemoryLimit: req.MemoryLimit, Method: store.MeasuredCgroup, KilledForMemory: text == "all"}
		case "log":
			fmt.Fprintln(req.Log, text)
		case "hold":
			s.held <- name
			select {
			case <-s.free:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		case "stuck":
			defer context.AfterFunc(ctx, func() { s.canceled <- name })()
			s.held <- name
			<-s.free
		case "exit":
			return nil, &store.BuildError{Derivation: req.Derivation, Failure: store.FailedExit, ExitCode: 3, Message: "builder failed with exit status 3", KeptIn: "/kept"}
		case "broken":
			return nil, errBroken
		case "nothing":
			return new(store.BuildResult), nil
		case "panic":
			panic("at the disco")
		}
	}
	outputs := make(map[string]*store.Info)
	if req.Check {
		for _, o := range drv.Outputs {
			if outputs[o.Name], err = s.check(req, o, "checked "+name, slices.Contains(drv.Args, "half")); err != nil {
				return nil, err
			}
		}
		return &store.BuildResult{Outputs: outputs}, nil
	}
	for _, o := range drv.Outputs {
		if err := s.add(ctx, o.Path, "made by "+name, req.Inputs); err != nil {
			return nil, err
		}
		if outputs[o.Name], err = s.Info(ctx, o.Path); err != nil {
			return nil, err
		}
	}
	return &store.BuildResult{Outputs: outputs}, nil
}

// check makes an output for who asked for the check alone.
func (s *fakeStore) check(req *store.BuildRequest, o derivation.Output, content string, half bool) (*store.Info, error) {
	w, err := req.Made(o.Name)
	if err != nil {
		return nil, err
	}
	if half {
		_, err := w.Write([]byte{'x'})
		return nil, errors.Join(&store.BuildError{Derivation: req.Derivation, Failure: store.FailedOutput, Message: "half"}, err, w.Close())
	}
	var h nar.Hasher
	n := nar.NewWriter(io.MultiWriter(&h, w))
	if err := n.WriteHeader(&nar.Header{Kind: nar.Regular, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	_, err = io.WriteString(n, content)
	if err = errors.Join(err, n.Close(), w.Close()); err != nil {
		return nil, err
	}
	return &store.Info{Path: o.Path, NARHash: h.Sum(), NARSize: h.Size(), Deriver: req.Derivation}, nil
}

func (s *fakeStore) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.built[name]
}

func (s *fakeStore) Import(ctx context.Context, r io.Reader, opts store.ImportOptions) ([]*store.Info, error) {
	if s.importer != nil {
		return s.importer(ctx, r)
	}
	return s.Memory.Import(ctx, r, opts)
}

func (s *fakeStore) Export(ctx context.Context, w io.Writer, paths []store.Path) error {
	if s.exporter != nil {
		return s.exporter(ctx, w, paths)
	}
	return s.Memory.Export(ctx, w, paths)
}

func (s *fakeStore) ValidPaths(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	if s.missing != nil {
		return nil, s.missing
	}
	return s.Memory.ValidPaths(ctx, paths)
}

// add makes an item valid.
func (s *fakeStore) add(ctx context.Context, path store.Path, content string, refs []store.Path) error {
	archive, err := s.archive(path, content, refs)
	if err != nil {
		return err
	}
	_, err = s.Memory.Import(ctx, bytes.NewReader(archive), store.ImportOptions{})
	return err
}

// archive returns a signed archive of one item.
func (s *fakeStore) archive(path store.Path, content string, refs []store.Path) ([]byte, error) {
	refs = slices.Clone(refs)
	slices.Sort(refs)
	var b bytes.Buffer
	w := nar.NewArchiveWriter(&b)
	err := w.WriteItem(&nar.Item{Path: path, References: refs}, func(w io.Writer) error {
		n := nar.NewWriter(w)
		if err := n.WriteHeader(&nar.Header{Kind: nar.Regular, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := io.WriteString(n, content); err != nil {
			return err
		}
		return n.Close()
	}, s.key.Sign)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

// source returns the path of an item that is not in the store.
func source(t testing.TB, name string) store.Path {
	t.Helper()
	p, err := store.DefaultDir.TextPath(name, []byte(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// request returns a request to build a derivation that says what happens.
func request(t testing.TB, attempt int, name, script string, inputs ...store.Path) *agentapi.BuildRequest {
	t.Helper()
	return requestOf(t, attempt, name, &derivation.Derivation{
		Outputs: []derivation.Output{{Name: "out"}}, Env: []derivation.EnvVar{{Name: "out"}},
		Builder: "builtin:fake", Args: strings.Fields(script), System: "x86_64-linux",
	}, inputs...)
}

func requestOf(t testing.TB, attempt int, name string, d *derivation.Derivation, inputs ...store.Path) *agentapi.BuildRequest {
	t.Helper()
	d.Sources = slices.Clone(inputs)
	slices.Sort(d.Sources)
	if err := d.Fill(store.DefaultDir, name, nil); err != nil {
		t.Fatal(err)
	}
	path, err := d.Path(store.DefaultDir, name)
	if err != nil {
		t.Fatal(err)
	}
	req := &agentapi.BuildRequest{Attempt: attempt, Derivation: path, Text: d.Marshal(), Inputs: inputs}
	for _, o := range d.Outputs {
		req.Outputs = append(req.Outputs, o.Path)
	}
	return req
}

// rig is an agent and a client of it, which reach each other through pipes.
type rig struct {
	*Agent
	t      testing.TB
	store  *fakeStore
	client *agentapi.Client

	mu    sync.Mutex
	conns []net.Conn // to the agent
}

// start starts an agent. It is stopped before the test ends.
func start(t testing.TB, s *fakeStore, change ...func(*Options)) *rig {
	t.Helper()
	opts := Options{
		Store: s, StateDir: t.TempDir(), PublicKey: s.key.Public().String(), Version: "test",
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	for _, f := range change {
		f(&opts)
	}
	a, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Agent: a, t: t, store: s}
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	r.client = agentapi.NewClient(func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		r.mu.Lock()
		r.conns = append(r.conns, here)
		r.mu.Unlock()
		serving.Go(func() {
			if err := a.ServeConn(ctx, there, nil); err != nil {
				t.Error(err)
			}
		})
		return here, nil
	})
	t.Cleanup(func() {
		r.stop()
		r.cut()
		r.client.Close()
		cancel()
		serving.Wait()
	})
	return r
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// stop ends the agent.
func (r *rig) stop() {
	r.t.Helper()
	if err := r.Shutdown(context.Background()); err != nil {
		r.t.Error(err)
	}
}

// cut breaks all connections.
func (r *rig) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

func (r *rig) put(id string, req *agentapi.BuildRequest) *agentapi.BuildStatus {
	r.t.Helper()
	status, err := r.client.PutBuild(r.t.Context(), &agentapi.Asked{ID: id}, req)
	if err != nil {
		r.t.Fatalf("put %s: %v", id, err)
	}
	return status
}

// follow reads a log to its end.
func (r *rig) follow(id string, offset int64) (string, *agentapi.BuildStatus) {
	r.t.Helper()
	var b bytes.Buffer
	status, err := r.client.Log(r.t.Context(), &agentapi.Asked{ID: id}, offset, &b)
	if err != nil {
		r.t.Fatalf("log %s: %v", id, err)
	}
	return b.String(), status
}

// wantCode fails the test unless the agent answered with the status and the code.
func wantCode(t testing.TB, err error, status int, code string) {
	t.Helper()
	var e *agentapi.Error
	if !errors.As(err, &e) || e.Status != status || e.Code != code {
		t.Errorf("got error %v (%#v), want status %d, code %q", err, e, status, code)
	}
}
