package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/stage"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/storetest"
)

// What BenchmarkLoad simulates.
const (
	loadClients  = 64
	loadMachines = 200
	loadSlots    = 4 // of each
	loadBuild    = 200 * time.Millisecond
	loadInputs   = 40   // items that a build needs
	loadItems    = 1000 // that there are
)

// BenchmarkLoad has 64 clients submit builds of 200 ms, one by one, while 200 machines
// of four slots take them; "go test -bench Load -benchtime 10000x" has 10,000 builds. Each
// submission is durable before it is acknowledged, and each output is fetched, its
// signature checked. Machines answer at once and cost as little as can be: their
// archives are made before. Reported are placements a second, and the time from a
// build's acknowledgement to its placement.
//
//	flood   clients submit as fast as they get answers
//	1000ps  all clients together submit a thousand a second
func BenchmarkLoad(b *testing.B) {
	b.Run("flood", func(b *testing.B) { benchmarkLoad(b, 0) })
	b.Run("1000ps", func(b *testing.B) { benchmarkLoad(b, 1000) })
}

func benchmarkLoad(b *testing.B, rate float64) {
	farm := newLoadFarm(b, b.N)
	acknowledged := make([]time.Time, b.N)
	ids := make([]string, b.N)
	before := processorTime(b)
	b.ResetTimer()
	start := time.Now()
	var clients sync.WaitGroup
	for client := range loadClients {
		clients.Go(func() {
			for i := client; i < b.N; i += loadClients {
				if rate > 0 {
					time.Sleep(time.Until(start.Add(time.Duration(float64(i) / rate * float64(time.Second)))))
				}
				answers, err := farm.c.Submit(b.Context(), []api.Request{{Derivation: farm.drvs[i]}}, nil)
				if err != nil || answers[0].Build == nil {
					b.Errorf("submit: %v %v", answers, err)
					return
				}
				acknowledged[i], ids[i] = time.Now(), answers[0].Build.ID
			}
		})
	}
	clients.Wait()
	for farm.ledger.Counts()[api.Succeeded] < b.N && !b.Failed() {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	used := processorTime(b) - before
	if b.Failed() {
		return
	}
	placed := farm.placements(b)
	var latencies []time.Duration
	var last time.Time
	for i, id := range ids {
		at, ok := placed[id]
		if !ok {
			b.Fatalf("build %s was not placed", id)
		}
		// It may be placed before its client hears that it was taken.
		latencies = append(latencies, max(0, at.Sub(acknowledged[i])))
		if at.After(last) {
			last = at
		}
	}
	slices.Sort(latencies)
	milliseconds := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(float64(b.N)/last.Sub(start).Seconds(), "placements/s")
	b.ReportMetric(milliseconds(latencies[len(latencies)/2]), "p50-ms")
	b.ReportMetric(milliseconds(latencies[len(latencies)*99/100]), "p99-ms")
	b.ReportMetric(float64(used)/float64(time.Microsecond)/float64(b.N), "cpu-µs/build")
	b.ReportMetric(0, "ns/op") // means nothing where clients sleep
}

// BenchmarkQueued submits a graph of b.N derivations, a thousand at a time, that nobody
// builds: each needs 40 others, half of them among the first hundred. Reported is what a build that waits takes in memory.
func BenchmarkQueued(b *testing.B) {
	f := &loadFarm{farm: unstarted(b)}
	random := rand.New(rand.NewPCG(1, 2))
	requests := make([]api.Request, b.N)
	for i := range requests {
		d := &derivation.Derivation{System: "x86_64-linux"}
		inputs := make(map[store.Path]bool)
		for n := range min(i, loadInputs) {
			among := i
			if n%2 == 0 {
				among = min(i, 100)
			}
			inputs[requests[random.IntN(among)].Derivation] = true
		}
		for _, in := range slices.Sorted(maps.Keys(inputs)) {
			d.Inputs = append(d.Inputs, derivation.Input{Path: in, Outputs: []string{"out"}})
		}
		requests[i].Derivation = f.deriveOnly(d, fmt.Sprintf("package%d-1.%d", i%500, i))
		requests[i].Tags = map[string]string{"branch": "master", "commit": "3f2a91c"}
		if err := f.hasher.Add(requests[i].Derivation, d); err != nil {
			b.Fatal(err)
		}
	}
	f.config.Logger = slog.New(slog.DiscardHandler)
	f.start()
	b.Cleanup(f.shutDown)
	before := liveHeap()
	b.ResetTimer()
	for part := range slices.Chunk(requests, 1000) {
		if _, err := f.c.Submit(b.Context(), part, nil); err != nil {
			b.Fatal(err)
		}
	}
	for expanding := 1; expanding > 0; time.Sleep(time.Millisecond) {
		if err := f.c.do(b.Context(), func(l *loop) {
			expanding = b.N - len(l.tasks)
			for _, t := range l.tasks {
				if t.stage == stage.Looking {
					expanding++
				}
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	for last := uint64(0); f.ledger.LastEvent() != last; time.Sleep(time.Second) { // until all is written
		last = f.ledger.LastEvent()
	}
	b.ReportMetric(float64(liveHeap()-before)/float64(b.N), "live-B/build")
}

// liveHeap returns the bytes of all objects that are in use.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) // #nosec G115 -- far from 2^63
}

// processorTime returns what the process used, which says more than the clock where the
// machine has other work.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loadFarm is a farm whose machines are simMachines.
type loadFarm struct {
	*farm
	drvs []store.Path
	// results has what machines make, by derivation. It is not changed once they run.
	results map[store.Path]*simResult
	outputs map[store.Path]*simResult // the same by output
}

// simResult is what building a derivation makes.
type simResult struct {
	info    *store.Info
	archive []byte // of that item alone
}

func newLoadFarm(b *testing.B, builds int) *loadFarm {
	f := &loadFarm{farm: unstarted(b), results: make(map[store.Path]*simResult), outputs: make(map[store.Path]*simResult)}
	key := newKey(b)
	f.acl.Add(key.Public())
	sources := f.sources(b)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range builds {
		d := &derivation.Derivation{System: "x86_64-linux"}
		for range loadInputs {
			d.Sources = append(d.Sources, sources[random.IntN(len(sources))])
		}
		slices.Sort(d.Sources)
		d.Sources = slices.Compact(d.Sources)
		// So many packages, of which some have been built before.
		f.drvs = append(f.drvs, f.deriveOnly(d, fmt.Sprintf("package%d-1.%d", i%500, i)))
	}
	f.makeResults(b, key)
	f.config.Logger = slog.New(slog.DiscardHandler)
	f.config.NewAgent = func(m machines.Machine) peer.Agent { return newSimMachine(f, m.Name, key.Public().String()) }
	for i := range loadMachines {
		f.config.Machines = append(f.config.Machines, machines.Machine{
			Name: fmt.Sprintf("machine-%03d", i), Host: fmt.Sprintf("machine-%03d", i), Systems: []string{"x86_64-linux"}, ParallelBuilds: loadSlots, Speed: 1,
		})
	}
	f.start()
	b.Cleanup(f.shutDown)
	f.awaitMachines(b)
	return f
}

// sources are items of the head that builds need.
func (f *loadFarm) sources(b *testing.B) []store.Path {
	var all []store.Path
	for i := range loadItems {
		p, err := f.head.AddText(b.Context(), fmt.Sprintf("item-%d", i), fmt.Appendf(nil, "item %d", i), nil)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// deriveOnly adds a derivation to the head's store.
func (f *loadFarm) deriveOnly(d *derivation.Derivation, name string) store.Path {
	d.Builder, d.Outputs = "builtin:fake", []derivation.Output{{Name: "out"}}
	d.Env = []derivation.EnvVar{{Name: "out"}}
	if err := f.hasher.Fill(name, d); err != nil {
		f.t.Fatal(err)
	}
	path, err := f.head.AddText(f.t.Context(), name+".drv", d.Marshal(), d.References())
	if err != nil {
		f.t.Fatal(err)
	}
	return path
}

// makeResults makes the archives of all outputs, on all processors.
func (f *loadFarm) makeResults(b *testing.B, key *signature.PrivateKey) {
	acl := &signature.ACL{}
	acl.Add(key.Public())
	scratch := storetest.NewMemory(store.DefaultDir, key, acl)
	var mu sync.Mutex
	var group sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() {
			for i := w; i < len(f.drvs); i += workers {
				result, err := makeSimResult(scratch, key, f.farm.output(f.drvs[i]))
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				f.results[f.drvs[i]], f.outputs[result.info.Path] = result, result
				mu.Unlock()
			}
		})
	}
	group.Wait()
}

func makeSimResult(scratch *storetest.Memory, key *signature.PrivateKey, output store.Path) (*simResult, error) {
	archive, err := makeArchive(key, output, nil, "built: "+string(output))
	if err != nil {
		return nil, err
	}
	infos, err := scratch.Import(context.Background(), bytes.NewReader(archive), store.ImportOptions{})
	if err != nil {
		return nil, err
	}
	return &simResult{infos[0], archive}, nil
}

// awaitMachines waits until all machines are up.
func (f *loadFarm) awaitMachines(b *testing.B) {
	for up := 0; up < loadMachines; {
		up = 0
		if err := f.c.do(b.Context(), func(l *loop) {
			for _, m := range l.machines {
				if m.unavailable() == "" {
					up++
				}
			}
		}); err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// placements returns when each build was first placed.
func (f *loadFarm) placements(b *testing.B) map[string]time.Time {
	placed := make(map[string]time.Time)
	err := f.ledger.Events(b.Context(), 1, false, func(ev api.Event) error {
		if ev.State == api.Placed && placed[ev.Build].IsZero() {
			placed[ev.Build] = ev.Time
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return placed
}

// simMachine is a machine that has every input, and whose builds take their time and no
// processor. Its outputs are ready made.
type simMachine struct {
	farm *loadFarm
	info agentapi.Machine

	mu     sync.Mutex
	builds map[string]*agentapi.BuildStatus
}

func newSimMachine(f *loadFarm, name, publicKey string) *simMachine {
	return &simMachine{farm: f, builds: make(map[string]*agentapi.BuildStatus), info: agentapi.Machine{
		Protocol: agentapi.Protocol, Version: "test", Kernel: runtime.GOOS, Hostname: name, Systems: []string{"x86_64-linux"},
		Cores: loadSlots, FreeDisk: 1 << 40, StoreKind: "local", StoreDir: store.DefaultDir, PublicKey: publicKey,
	}}
}

func (m *simMachine) Machine(context.Context) (*agentapi.Machine, error) {
	info := m.info
	info.Now = time.Now()
	return &info, nil
}

func (m *simMachine) Builds(context.Context, func(string) (*agentapi.Asked, error)) ([]agentapi.BuildStatus, error) {
	return nil, nil
}

func (m *simMachine) PutBuild(_ context.Context, asked *agentapi.Asked, r *agentapi.BuildRequest) (*agentapi.BuildStatus, error) {
	id := asked.ID
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &agentapi.BuildStatus{ID: id, Attempt: r.Attempt, Derivation: r.Derivation, State: agentapi.Running, Started: time.Now()}
	m.builds[id] = s
	status := *s
	return &status, nil
}

var errSimUnknown = &agentapi.Error{Status: 404, Code: agentapi.CodeUnknownBuild, Message: "unknown build"}

func (m *simMachine) Build(_ context.Context, asked *agentapi.Asked) (*agentapi.BuildStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.builds[asked.ID]
	if s == nil {
		return nil, errSimUnknown
	}
	status := *s
	return &status, nil
}

// Log is the build: it ends with it.
func (m *simMachine) Log(ctx context.Context, asked *agentapi.Asked, _ int64, _ io.Writer) (*agentapi.BuildStatus, error) {
	status, err := m.Build(ctx, asked)
	if err != nil {
		return nil, err
	}
	// Builds that all take the same time would end in step.
	took := time.Duration((0.5 + rand.Float64()) * float64(loadBuild))
	select {
	case <-time.After(time.Until(status.Started.Add(took))):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	status.State, status.Stopped = agentapi.Succeeded, time.Now()
	info := m.farm.results[status.Derivation].info
	status.Outputs = map[string]*store.Info{"out": info}
	return status, nil
}

func (m *simMachine) DeleteBuild(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.builds[id] == nil {
		return errSimUnknown
	}
	delete(m.builds, id)
	return nil
}

func (m *simMachine) Closure(_ context.Context, paths []store.Path) ([]*store.Info, error) {
	return nil, fmt.Errorf("closure of %v: the outputs refer to nothing", paths)
}

func (m *simMachine) Import(context.Context, io.Reader) ([]*store.Info, error) {
	return nil, errors.New("nothing is missing here")
}

func (m *simMachine) AddText(context.Context, string, []byte) (*store.Info, error) {
	return nil, errors.New("nothing is tested here")
}

// Export strings the archives of the items together.
func (m *simMachine) Export(_ context.Context, paths []store.Path) (io.ReadCloser, error) {
	end := make([]byte, 8) // of an archive
	var all []byte
	for _, p := range paths {
		all = append(all, bytes.TrimSuffix(m.farm.outputs[p].archive, end)...)
	}
	return io.NopCloser(bytes.NewReader(append(all, end...))), nil
}

func (m *simMachine) Output(context.Context, string, string) (io.ReadCloser, error) {
	return nil, errors.New("nothing is checked here")
}

func (m *simMachine) CollectGarbage(context.Context, *agentapi.GCRequest) (*agentapi.GCResult, error) {
	return &agentapi.GCResult{}, nil
}

func (m *simMachine) Close() {}

var _ peer.Agent = (*simMachine)(nil)
