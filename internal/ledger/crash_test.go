package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"lighter/internal/api"
	"lighter/scheduler/estimate"
)

// load writes builds and changes of theirs from several goroutines until stop, and
// remembers what was acknowledged as durable.
type load struct {
	mu    sync.Mutex
	acked map[string]api.State // the last durable state of each build
	stop  atomic.Bool
	pause sync.RWMutex // held for writing while nothing shall be written
	group sync.WaitGroup
	errs  []error
}

// smallTable makes Pebble flush and compact every few hundred changes.
const smallTable = 64 << 10

var order = []api.State{api.Queued, api.Placed, api.Building, api.Succeeded}

func startLoad(l *Ledger, writers int) *load {
	a := &load{acked: make(map[string]api.State)}
	for w := range writers {
		a.group.Go(func() { a.write(l, w) })
	}
	return a
}

func (a *load) write(l *Ledger, writer int) {
	rng := rand.New(rand.NewPCG(uint64(writer), 1))
	for i := 0; !a.stop.Load(); i++ {
		// A build and the one that it needs, made together.
		ids := []string{fmt.Sprintf("%d-%d", writer, i), fmt.Sprintf("%d-%d-input", writer, i)}
		for _, state := range order {
			durable := rng.IntN(2) == 0
			changes := []Change{
				{Build: build(ids[0], state), Create: state == api.Queued},
				{Build: build(ids[1], state), Create: state == api.Queued},
				{Samples: samplesFor("hello", "x86_64-linux", estimate.Sample{Duration: time.Duration(i)})},
			}
			a.pause.RLock()
			_, err := l.Apply(context.Background(), changes, durable)
			a.pause.RUnlock()
			a.mu.Lock()
			if err != nil {
				a.errs = append(a.errs, err)
			} else if durable {
				a.acked[ids[0]], a.acked[ids[1]] = state, state
			}
			a.mu.Unlock()
			if err != nil {
				return
			}
		}
	}
}

func (a *load) snapshot() map[string]api.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	acked := make(map[string]api.State, len(a.acked))
	for id, state := range a.acked {
		acked[id] = state
	}
	return acked
}

func (a *load) wait() []error {
	a.stop.Store(true)
	a.group.Wait()
	return a.errs
}

func rank(s api.State) int {
	for i, other := range order {
		if s == other {
			return i
		}
	}
	return -1
}

// verify opens what a crash has left: all that was acknowledged is there, nothing
// contradicts anything, and builds that were changed together are in the same state.
func verify(t *testing.T, fs vfs.FS, acked map[string]api.State) {
	t.Helper()
	l, err := Open("ledger", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	check(t, l)
	states := make(map[string]api.State)
	for b, err := range l.Builds(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		states[b.ID] = b.State
	}
	for id, want := range acked {
		if got := states[id]; rank(got) < rank(want) {
			t.Errorf("build %s was acknowledged as %s, and is %q", id, want, got)
		}
	}
	for id, state := range states {
		if input := states[id+"-input"]; !strings.HasSuffix(id, "-input") && input != state {
			t.Errorf("build %s is %s, and its input %q", id, state, input)
		}
	}
	last := l.LastEvent()
	if seqs := apply(t, l, Change{Build: build("afterwards", api.Queued), Create: true}); seqs[0] != last+1 {
		t.Errorf("event %d after event %d", seqs[0], last)
	}
	check(t, l)
}

func TestCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := open(t, "ledger", Options{FS: fs, SyncDelay: time.Millisecond, memTable: smallTable})
	a := startLoad(l, 8)
	for seed := range uint64(12) {
		enough := errors.New("enough")
		from := l.LastEvent() + 300
		if err := l.Events(t.Context(), from, true, func(api.Event) error { return enough }); !errors.Is(err, enough) {
			t.Fatal(err)
		}
		acked := a.snapshot() // before the crash: what is acknowledged later is not expected
		percent := []int{0, 30, 100}[seed%3]
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 2))})
		a.pause.Lock() // the crash came while they wrote; now they wait
		verify(t, clone, acked)
		a.pause.Unlock()
	}
	if errs := a.wait(); len(errs) > 0 {
		t.Error(errors.Join(errs...))
	}
	check(t, l)
}

func isWrite(op errorfs.Op) bool {
	return op.Kind.ReadOrWrite() == errorfs.OpIsWrite &&
		op.Kind != errorfs.OpRemove // what is not removed now is removed later
}

// TestWriteErrors fails the n-th write operation, and all after it, for many n.
// The ledger then either works on or has failed for good, it says so to all callers,
// and what it acknowledged is in what is on disk.
func TestWriteErrors(t *testing.T) {
	for n := range int64(25) {
		mem := vfs.NewCrashableMem()
		var writes atomic.Int64
		var on atomic.Bool
		injector := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if !on.Load() || !isWrite(op) || writes.Add(1) <= n*n {
				return nil
			}
			return syscall.EIO
		})
		l, err := Open("ledger", Options{FS: errorfs.Wrap(mem, injector), SyncDelay: time.Millisecond, memTable: smallTable})
		if err != nil {
			t.Fatal(err)
		}
		on.Store(true)
		a := startLoad(l, 4)
		select {
		case <-l.Failed():
		case <-t.Context().Done():
		}
		for _, err := range a.wait() {
			if !errors.Is(err, ErrFailed) {
				t.Errorf("n = %d: %v", n*n, err)
			}
		}
		if _, err := l.Build(t.Context(), "0-0"); !errors.Is(err, ErrFailed) {
			t.Errorf("n = %d: a failed ledger answers: %v", n*n, err)
		}
		if err := l.Events(t.Context(), 1<<40, true, nil); !errors.Is(err, ErrFailed) {
			t.Errorf("n = %d: a failed ledger is followed: %v", n*n, err)
		}
		if err := l.Close(); !errors.Is(err, ErrFailed) {
			t.Errorf("n = %d: close: %v", n*n, err)
		}
		verify(t, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(n), 3))}), a.acked)
		if t.Failed() {
			return
		}
	}
}

// TestOpenErrors fails the n-th write operation, and all after it, while a ledger
// is opened. What was in it is still there afterwards.
func TestOpenErrors(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := open(t, "ledger", Options{FS: mem})
	apply(t, l, Change{Build: build("b", api.Queued)}, Change{Build: build("b-input", api.Queued)})
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	for n := int64(0); ; n++ {
		fs := crashed.CrashClone(vfs.CrashCloneCfg{})
		var writes atomic.Int64
		l, err := Open("ledger", Options{FS: errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if isWrite(op) && writes.Add(1) > n {
				return syscall.EIO
			}
			return nil
		}))})
		if err == nil {
			_ = l.Close()
		}
		verify(t, fs.CrashClone(vfs.CrashCloneCfg{}), map[string]api.State{"b": api.Queued})
		if t.Failed() || writes.Load() <= n {
			return
		}
		if n > 500 {
			t.Fatal("opening takes more than 500 writes")
		}
	}
}

func TestDiskFull(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "ledger", Options{FS: mem, MinFree: 1000})
	apply(t, l, Change{Build: build("a", api.Queued)})
	mem.TestingSetDiskUsage(vfs.DiskUsage{TotalBytes: 5000, AvailBytes: 999, UsedBytes: 4001})
	_, err := l.Apply(t.Context(), []Change{{Build: build("b", api.Queued)}}, true)
	if !errors.Is(err, ErrDiskFull) {
		t.Errorf("got %v", err)
	}
	if got := list(t, l, Filter{}); len(got) != 1 { // it can still be read
		t.Errorf("builds %v", got)
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{TotalBytes: 5000, AvailBytes: 1000, UsedBytes: 4000})
	apply(t, l, Change{Build: build("b", api.Queued)})
	check(t, l)
}
