package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/storetest"
)

// fakeAgent is a machine whose builder does what the derivation's variable "script"
// says, in words: "fail", "fail=MACHINE", "timeout", "machine" (the machine fails), "hold" (waits for
// release), "log=TEXT" (with its name for "@"). It verifies what it is sent, as its store does, refuses builds
// whose inputs are missing, and counts what it was made to do. Its link can be cut.
type fakeAgent struct {
	name  string
	store *storetest.Memory
	key   *signature.PrivateKey

	mu     sync.Mutex
	builds map[string]*fakeBuild
	down   bool
	hang   bool          // calls are not answered
	cut    chan struct{} // closed when the link breaks
	freed  map[string]chan struct{}
	// built counts builder runs by derivation name; started has "id attempt".
	built   map[string]int
	started map[string]int
	sent    map[store.Path]int // items received, by import
	forgot  []string
	info    func(*agentapi.Machine)       // changes what it says of itself
	archive func([]byte) []byte           // changes what it exports
	lie     func(s *agentapi.BuildStatus) // changes what it says of a build, wherever it does
	// closure, if not nil, is its answer about closures.
	closure func() []*store.Info
	// twist, if not nil, changes what a fakeServer answers to what: the pattern of a request,
	// "trailer" or "error". Where it returns nil no answer ever comes.
	twist   func(what string, text []byte) []byte
	answers map[string]int // of a fakeServer, by what they were to
	held    chan string    // gets the name of each build that holds
	// onImport and onExport, if not nil, are called at the start of each.
	onImport, onExport func(ctx context.Context)
	running            sync.WaitGroup
}

type fakeBuild struct {
	status  agentapi.BuildStatus
	request *agentapi.BuildRequest
	log     []byte
	changed chan struct{}
	cancel  context.CancelFunc
	made    map[string][]byte // of a check: NARs by output
}

func newFakeAgent(t testing.TB, name string, key *signature.PrivateKey, acl *signature.ACL) *fakeAgent {
	a := &fakeAgent{
		name: name, key: key, store: storetest.NewMemory(store.DefaultDir, key, acl),
		builds: make(map[string]*fakeBuild), cut: make(chan struct{}), freed: make(map[string]chan struct{}),
		answers: make(map[string]int), built: make(map[string]int), started: make(map[string]int), sent: make(map[store.Path]int), held: make(chan string, 1000),
	}
	t.Cleanup(func() {
		a.restart()
		a.running.Wait()
	})
	return a
}

var errCut = errors.New("connection reset")

// enter begins a call. The context ends when the link is cut.
func (a *fakeAgent) enter(ctx context.Context) (context.Context, func(), error) {
	a.mu.Lock()
	if a.hang {
		a.mu.Unlock()
		<-ctx.Done()
		a.mu.Lock()
	}
	defer a.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	if a.down {
		return nil, nil, errors.New("connection refused")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	cut := a.cut
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-cut:
			cancel(errCut)
		case <-over:
		}
	}()
	return ctx, func() { close(over); <-done; cancel(nil) }, nil
}

// cutLink breaks all streams. With down set nothing can be reached until up is called.
func (a *fakeAgent) cutLink(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
	close(a.cut)
	a.cut = make(chan struct{})
}

func (a *fakeAgent) up() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = false
}

// restart makes the agent a new process: it knows no builds, and what it started
// before does not count.
func (a *fakeAgent) restart() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, b := range a.builds {
		b.cancel()
		delete(a.builds, id)
	}
	clear(a.started)
	close(a.cut)
	a.cut = make(chan struct{})
}

// gate is closed when builds of that name may go on.
func (a *fakeAgent) gate(name string) chan struct{} {
	g := a.freed[name]
	if g == nil {
		g = make(chan struct{})
		a.freed[name] = g
	}
	return g
}

func (a *fakeAgent) release(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.gate(name):
	default:
		close(a.gate(name))
	}
}

func (a *fakeAgent) count(name string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.built[name]
}

func (a *fakeAgent) knows() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.builds)
}

func (a *fakeAgent) Close() {}

func (a *fakeAgent) Machine(ctx context.Context) (*agentapi.Machine, error) {
	_, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	info := &agentapi.Machine{
		Protocol: agentapi.Protocol, Version: "test", Kernel: runtime.GOOS, Hostname: a.name, Systems: []string{"x86_64-linux"},
		Cores: 8, FreeDisk: 1 << 40, Now: time.Now(), StoreKind: "local", StoreDir: a.store.Dir(), PublicKey: a.key.Public().String(),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.info != nil {
		a.info(info)
	}
	return info, nil
}

func (a *fakeAgent) Builds(ctx context.Context, known func(string) (*agentapi.Asked, error)) ([]agentapi.BuildStatus, error) {
	_, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []agentapi.BuildStatus
	for _, b := range a.builds {
		if known != nil {
			if asked, err := known(b.status.ID); err != nil {
				return nil, err
			} else if asked == nil {
				continue
			}
		}
		list = append(list, *a.sayLocked(&b.status))
	}
	return list, nil
}

// sayLocked returns what the agent says of a build's status.
func (a *fakeAgent) sayLocked(status *agentapi.BuildStatus) *agentapi.BuildStatus {
	said := *status
	said.Outputs = maps.Clone(said.Outputs)
	if a.lie != nil {
		a.lie(&said)
	}
	return &said
}

func (a *fakeAgent) PutBuild(ctx context.Context, asked *agentapi.Asked, req *agentapi.BuildRequest) (*agentapi.BuildStatus, error) {
	id := asked.ID
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	missing, err := store.Missing(ctx, a.store, req.Inputs)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.builds[id]
	switch {
	case b != nil && req.Attempt < b.status.Attempt:
		return nil, &agentapi.Error{Status: 409, Code: agentapi.CodeOldAttempt, Message: "old attempt"}
	case b != nil && req.Attempt > b.status.Attempt:
		b.cancel()
		b = nil
	}
	if b == nil {
		b = &fakeBuild{changed: make(chan struct{}), request: req, cancel: func() {}}
		b.status = agentapi.BuildStatus{ID: id, Attempt: req.Attempt, Derivation: req.Derivation, State: agentapi.Rooted}
		a.builds[id] = b
	}
	if b.status.State == agentapi.Rooted {
		b.status.Missing = missing
		if len(missing) == 0 {
			a.startLocked(b)
		}
	}
	return a.sayLocked(&b.status), nil
}

func (a *fakeAgent) startLocked(b *fakeBuild) {
	b.status.State, b.status.Started = agentapi.Running, time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	drv, err := derivation.Parse(a.store.Dir(), b.request.Text)
	if err != nil {
		panic(err)
	}
	name := derivation.NameOf(b.request.Derivation)
	a.started[fmt.Sprintf("%s %d", b.status.ID, b.status.Attempt)]++
	gate := a.gate(name)
	a.running.Add(1)
	go func() {
		defer a.running.Done()
		a.build(ctx, b, drv, name, gate)
	}()
}

func (a *fakeAgent) write(b *fakeBuild, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b.log = append(b.log, text...)
	b.status.LogSize = int64(len(b.log))
	close(b.changed)
	b.changed = make(chan struct{})
}

func (a *fakeAgent) build(ctx context.Context, b *fakeBuild, drv *derivation.Derivation, name string, gate chan struct{}) {
	script, _ := drv.Getenv("script")
	var failure *api.Failure
	var used *store.Measured
	for _, word := range strings.Fields(script) {
		switch {
		case word == "hold":
			a.held <- name
			select {
			case <-gate:
			case <-ctx.Done():
				return
			}
		case word == "fail" || word == "fail="+a.name:
			failure = &api.Failure{Culprit: api.CulpritDerivation, Kind: string(store.FailedExit), ExitCode: 1, Message: "exit 1"}
		case word == "difference="+a.name && b.request.Check:
			failure = &api.Failure{Culprit: api.CulpritDerivation, Kind: string(store.FailedDifference), Message: "it may not be deterministic"}
		case word == "timeout":
			failure = &api.Failure{Culprit: api.CulpritDerivation, Kind: string(store.FailedTimeout), Message: "too long"}
		case word == "machine" || word == "machine="+a.name:
			failure = &api.Failure{Culprit: api.CulpritMachine, Message: "no space left on device"}
		case word == "unable" || word == "unable="+a.name:
			failure = &api.Failure{Culprit: api.CulpritMachine, Kind: api.KindUnable, Message: "no /bin/sh here"}
		case word == "killed" || word == "killed="+a.name:
			failure = &api.Failure{Culprit: api.CulpritDerivation, Kind: string(store.FailedKilled), ExitCode: 137, Message: "killed (signal 9)"}
		case strings.HasPrefix(word, "needs="): // so many GiB of memory, of which its limit may be less
			needs, _ := strconv.ParseInt(strings.TrimPrefix(word, "needs="), 10, 64)
			used = &store.Measured{Method: store.MeasuredCgroup, PeakMemory: needs << 30, MemoryLimit: b.request.MemoryLimit}
			if limit := b.request.MemoryLimit; limit > 0 && limit < used.PeakMemory {
				used.PeakMemory, used.KilledForMemory = limit, true
				failure = &api.Failure{Culprit: api.CulpritDerivation, Kind: string(store.FailedKilled), ExitCode: 137, Message: "killed (signal 9)"}
			}
		case word == "full" || word == "full="+a.name:
			failure = &api.Failure{Culprit: api.CulpritDerivation, Kind: string(store.FailedDiskFull), ExitCode: 1, Message: "exit code 1, and the disk of /x was full"}
		case strings.HasPrefix(word, "log="):
			a.write(b, strings.ReplaceAll(strings.TrimPrefix(word, "log="), "@", a.name)+"\n")
		}
	}
	var outputs map[string]*store.Info
	if failure == nil && b.request.Check {
		outputs = a.make(b, drv, script)
		if slices.Contains(strings.Fields(script), "untold="+a.name) {
			delete(outputs, drv.Outputs[len(drv.Outputs)-1].Name)
		}
	} else if failure == nil {
		var err error
		if outputs, err = a.realise(ctx, b.request, drv); err != nil {
			failure = &api.Failure{Culprit: api.CulpritMachine, Message: err.Error()}
		}
	}
	if ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.built[name]++
	b.status.State, b.status.Stopped, b.status.Outputs, b.status.Failure = agentapi.Succeeded, time.Now(), outputs, failure
	b.status.Measured = used
	if failure != nil {
		b.status.State = agentapi.Failed
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// make does a check: the outputs are what realise makes, unless the script says
// "differs=MACHINE" of this one. With "untold=MACHINE" it says nothing of the last output.
func (a *fakeAgent) make(b *fakeBuild, drv *derivation.Derivation, script string) map[string]*store.Info {
	content := "built from " + b.request.Derivation.String()
	if slices.Contains(strings.Fields(script), "differs="+a.name) {
		content += " on " + a.name
	}
	outputs := make(map[string]*store.Info)
	a.mu.Lock()
	defer a.mu.Unlock()
	b.made = make(map[string][]byte)
	for _, o := range drv.Outputs {
		var out bytes.Buffer
		if err := writeFile(&out, content); err != nil {
			panic(err) // a buffer takes everything
		}
		b.made[o.Name] = out.Bytes()
		outputs[o.Name] = &store.Info{Path: o.Path, NARHash: sha256.Sum256(out.Bytes()), NARSize: int64(out.Len())}
	}
	return outputs
}

// writeFile writes the NAR of one file.
func writeFile(out io.Writer, content string) error {
	w := nar.NewWriter(out)
	err := w.WriteHeader(&nar.Header{Kind: nar.Regular, Size: int64(len(content))})
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	return errors.Join(err, w.Close())
}

func (a *fakeAgent) Output(ctx context.Context, id, name string) (io.ReadCloser, error) {
	_, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	a.mu.Lock()
	defer a.mu.Unlock()
	b, err := a.find(id)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b.made[name])), nil
}

// realise makes the outputs: each names its derivation and refers to all inputs that
// are outputs, which must be valid here.
func (a *fakeAgent) realise(ctx context.Context, req *agentapi.BuildRequest, drv *derivation.Derivation) (map[string]*store.Info, error) {
	if missing, err := store.Missing(ctx, a.store, req.Inputs); err != nil || len(missing) > 0 {
		return nil, fmt.Errorf("inputs %v are missing: %w", missing, err)
	}
	refs, _ := drv.Getenv("refs")
	var references []store.Path
	for _, s := range strings.Fields(refs) {
		references = append(references, store.Path(s))
	}
	for _, o := range drv.Outputs {
		if valid, err := store.IsValid(ctx, a.store, o.Path); err != nil || valid {
			continue
		}
		archive, err := makeArchive(a.key, o.Path, references, "built from "+req.Derivation.String())
		if err != nil {
			return nil, err
		}
		if _, err := a.store.Import(ctx, bytes.NewReader(archive), store.ImportOptions{}); err != nil {
			return nil, err
		}
	}
	outputs := make(map[string]*store.Info)
	for _, o := range drv.Outputs {
		info, err := a.store.Info(ctx, o.Path)
		if err != nil {
			return nil, err
		}
		outputs[o.Name] = info
	}
	return outputs, nil
}

// makeArchive makes a signed archive of one file.
func makeArchive(key *signature.PrivateKey, path store.Path, references []store.Path, content string) ([]byte, error) {
	var b bytes.Buffer
	w := nar.NewArchiveWriter(&b)
	err := w.WriteItem(&nar.Item{Path: path, References: references}, func(out io.Writer) error {
		return writeFile(out, content)
	}, key.Sign)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

func (a *fakeAgent) find(id string) (*fakeBuild, error) {
	if b := a.builds[id]; b != nil {
		return b, nil
	}
	return nil, &agentapi.Error{Status: 404, Code: agentapi.CodeUnknownBuild, Message: "unknown build " + id}
}

func (a *fakeAgent) Build(ctx context.Context, asked *agentapi.Asked) (*agentapi.BuildStatus, error) {
	_, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	a.mu.Lock()
	defer a.mu.Unlock()
	b, err := a.find(asked.ID)
	if err != nil {
		return nil, err
	}
	return a.sayLocked(&b.status), nil
}

func (a *fakeAgent) Log(ctx context.Context, asked *agentapi.Asked, offset int64, w io.Writer) (*agentapi.BuildStatus, error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for {
		a.mu.Lock()
		b, err := a.find(asked.ID)
		if err != nil {
			a.mu.Unlock()
			return nil, err
		}
		text, status, changed := bytes.Clone(b.log[offset:]), a.sayLocked(&b.status), b.changed
		a.mu.Unlock()
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
		offset += int64(len(text))
		if status.Finished() {
			return status, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (a *fakeAgent) DeleteBuild(ctx context.Context, id string) error {
	_, leave, err := a.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	a.mu.Lock()
	defer a.mu.Unlock()
	b, err := a.find(id)
	if err != nil {
		return err
	}
	b.cancel()
	b.status.State = agentapi.Canceled
	close(b.changed)
	b.changed = make(chan struct{})
	delete(a.builds, id)
	a.forgot = append(a.forgot, id)
	return nil
}

func (a *fakeAgent) Closure(ctx context.Context, paths []store.Path) ([]*store.Info, error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	a.mu.Lock()
	answer := a.closure
	a.mu.Unlock()
	if answer != nil {
		return answer(), nil
	}
	infos, err := store.Closure(ctx, a.store, paths)
	if errors.Is(err, store.ErrNotValid) {
		return nil, &agentapi.Error{Status: 404, Code: agentapi.CodeNotValid, Message: err.Error()}
	}
	return infos, err
}

func (a *fakeAgent) Import(ctx context.Context, archive io.Reader) ([]*store.Info, error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	a.call(ctx, &a.onImport)
	infos, err := a.store.Import(ctx, archive, store.ImportOptions{})
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, info := range infos {
		a.sent[info.Path]++
	}
	switch {
	case err == nil:
		return infos, nil
	case context.Cause(ctx) != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, store.ErrUnauthorized):
		return nil, &agentapi.Error{Status: 403, Code: agentapi.CodeUnauthorized, Message: err.Error()}
	}
	return nil, &agentapi.Error{Status: 422, Code: agentapi.CodeCorrupt, Message: err.Error()}
}

func (a *fakeAgent) AddText(ctx context.Context, name string, content []byte) (*store.Info, error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	path, err := a.store.AddText(ctx, name, content, nil)
	if err != nil {
		return nil, err
	}
	return a.store.Info(ctx, path)
}

func (a *fakeAgent) Export(ctx context.Context, paths []store.Path) (io.ReadCloser, error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	a.call(ctx, &a.onExport)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := a.store.Export(ctx, &b, paths); context.Cause(ctx) != nil {
		return nil, context.Cause(ctx)
	} else if err != nil {
		return nil, &agentapi.Error{Status: 404, Code: agentapi.CodeNotValid, Message: err.Error()}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	archive := b.Bytes()
	if a.archive != nil {
		archive = a.archive(archive)
	}
	return io.NopCloser(bytes.NewReader(archive)), nil
}

func (a *fakeAgent) CollectGarbage(ctx context.Context, req *agentapi.GCRequest) (*agentapi.GCResult, error) {
	_, leave, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return &agentapi.GCResult{Deleted: a.store.Paths()[:1], Freed: 42}, nil
}

func (a *fakeAgent) call(ctx context.Context, hook *func(context.Context)) {
	a.mu.Lock()
	f := *hook
	a.mu.Unlock()
	if f != nil {
		f(ctx)
	}
}

// set changes what only holds under the lock.
func (a *fakeAgent) set(change func(a *fakeAgent)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

// noLink is the link of a fakeAgent, which needs none.
type noLink struct{}

func (noLink) DialAgent(context.Context) (net.Conn, error) { return nil, errors.New("no link") }
func (noLink) Close() error                                { return nil }

// unreachable is a way to an agent that can break while others lead to it.
type unreachable struct {
	*fakeAgent
	broken func() bool
}

func (u *unreachable) Machine(ctx context.Context) (*agentapi.Machine, error) {
	if u.broken() {
		return nil, errors.New("no route to host")
	}
	return u.fakeAgent.Machine(ctx)
}

func (u *unreachable) Log(ctx context.Context, asked *agentapi.Asked, offset int64, w io.Writer) (*agentapi.BuildStatus, error) {
	if u.broken() {
		return nil, errors.New("no route to host")
	}
	return u.fakeAgent.Log(ctx, asked, offset, w)
}

func (u *unreachable) Build(ctx context.Context, asked *agentapi.Asked) (*agentapi.BuildStatus, error) {
	if u.broken() {
		return nil, errors.New("no route to host")
	}
	return u.fakeAgent.Build(ctx, asked)
}
