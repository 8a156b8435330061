package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lighter/machines"
	"lighter/store"
)

// testLane is a lane that notes its batches. Each takes a second of the bubble's time.
type testLane struct {
	*Lane
	group sync.WaitGroup

	mu      sync.Mutex
	batches [][]string
	there   map[store.Path]bool
	most    int // streams at the same time
	now     int
	fail    map[string]error
}

func newTestLane(ctx context.Context, streams int, maxBytes int64, maxItems int) *testLane {
	l := &testLane{there: make(map[store.Path]bool), fail: make(map[string]error)}
	l.Lane = &Lane{
		ctx: ctx, group: &l.group, streams: streams, maxBytes: maxBytes, maxItems: maxItems,
		move: l.carry, cargo: make(map[store.Path]*cargo), arrived: make(map[store.Path]time.Time),
	}
	return l
}

// moving returns how many streams there are now.
func (l *testLane) moving() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *testLane) carry(ctx context.Context, batch []*store.Info) error {
	l.mu.Lock()
	l.now++
	l.most = max(l.most, l.now)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.now--
	}()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, info := range batch {
		if err := l.fail[string(info.Path)]; err != nil {
			return err
		}
		for _, ref := range info.References {
			if !l.there[ref] {
				return fmt.Errorf("%s before %s", info.Path, ref)
			}
		}
		if l.there[info.Path] {
			return fmt.Errorf("%s twice", info.Path)
		}
		l.there[info.Path] = true
		names = append(names, string(info.Path))
	}
	l.batches = append(l.batches, names)
	return nil
}

func thing(name string, size int64, refs ...string) *store.Info {
	info := &store.Info{Path: store.Path(name), NARSize: size}
	for _, r := range refs {
		info.References = append(info.References, store.Path(r))
	}
	return info
}

func TestLaneMovesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLane(t.Context(), 2, 100, 10)
		all := []*store.Info{thing("a", 10), thing("c2", 200), thing("b", 10, "a"), thing("c", 10, "b", "c2"), thing("d", 95)}
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				if _, err := l.Want(t.Context(), all[:len(all)-i%3], time.Now()); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		l.group.Wait()
		if len(l.there) != len(all) || l.most > 2 || len(l.cargo) != 0 || l.queued != 0 {
			t.Errorf("moved %d of %d, %d streams at once, %d left, %d bytes queued", len(l.there), len(all), l.most, len(l.cargo), l.queued)
		}
		if !slices.ContainsFunc(l.batches, func(b []string) bool { return slices.Equal(b, []string{"a", "b"}) }) {
			t.Errorf("batches %v: want a and b together", l.batches)
		}
		if !slices.ContainsFunc(l.batches, func(b []string) bool { return slices.Equal(b, []string{"c2"}) }) {
			t.Errorf("batches %v: want c2, which is big, alone", l.batches)
		}
	})
}

// TestLaneArrivedMeanwhile asks for items that were missing before others had them moved.
func TestLaneArrivedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLane(t.Context(), 2, 100, 10)
		told := time.Now()
		time.Sleep(time.Second)
		want := func(since time.Time, infos ...*store.Info) int64 {
			fresh, err := l.Want(t.Context(), infos, since)
			if err != nil {
				t.Fatal(err)
			}
			l.group.Wait()
			return fresh
		}
		want(told, thing("a", 10))
		if fresh := want(told, thing("a", 10), thing("b", 5, "a")); fresh != 5 {
			t.Errorf("%d bytes were moved, want those of b alone", fresh)
		}
		delete(l.there, "a") // the machine collected garbage
		time.Sleep(time.Second)
		if fresh := want(time.Now(), thing("a", 10)); fresh != 10 || !l.there["a"] {
			t.Errorf("%d bytes were moved of what was missing after it had been there", fresh)
		}
		for i := range maxArrivals + 10 {
			want(time.Now(), thing(fmt.Sprint("n", i), 1))
		}
		if len(l.arrived) != maxArrivals || len(l.arrivals) != maxArrivals {
			t.Errorf("%d and %d items are remembered, want %d", len(l.arrived), len(l.arrivals), maxArrivals)
		}
	})
}

func TestLaneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLane(t.Context(), 1, 1, 1)
		bad := errors.New("bad")
		l.fail["a"] = bad
		if _, err := l.Want(t.Context(), []*store.Info{thing("a", 10), thing("b", 10, "a"), thing("c", 10, "b")}, time.Now()); !errors.Is(err, bad) {
			t.Errorf("got %v, want the failure of a", err)
		}
		l.group.Wait()
		if len(l.there) != 0 || len(l.cargo) != 0 || len(l.waiting) != 0 {
			t.Errorf("moved %v, left %v", l.there, l.cargo)
		}
		delete(l.fail, "a")
		if _, err := l.Want(t.Context(), []*store.Info{thing("a", 10)}, time.Now()); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

func TestLaneWaiterLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLane(t.Context(), 1, 1, 1)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 2)
		go func() {
			_, err := l.Want(ctx, []*store.Info{thing("a", 10), thing("b", 10), thing("c", 10)}, time.Now())
			over <- err
		}()
		synctest.Wait()
		second := make(chan error, 1)
		go func() {
			_, err := l.Want(t.Context(), []*store.Info{thing("a", 10), thing("c", 10)}, time.Now())
			second <- err
		}()
		synctest.Wait()
		cancel() // a and c are still wanted, b is not
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the other waiter: %v", err)
		}
		l.group.Wait()
		if !l.there["a"] || !l.there["c"] || l.there["b"] || l.queued != 0 {
			t.Errorf("moved %v, want a and c; %d bytes queued", l.there, l.queued)
		}
	})
}

func TestLaneStreamNobodyWantsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLane(t.Context(), 1, 1, 1)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() {
			_, err := l.Want(ctx, []*store.Info{thing("a", 10)}, time.Now())
			over <- err
		}()
		synctest.Wait()
		began := time.Now()
		cancel()
		<-over
		l.group.Wait()
		if len(l.there) != 0 || time.Since(began) != 0 {
			t.Errorf("moved %v in %s, want the stream to end at once", l.there, time.Since(began))
		}
		if _, err := l.Want(t.Context(), []*store.Info{thing("a", 10)}, time.Now()); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

// TestParallelTransfers shows that a machine's entry bounds its lanes, also when it changes.
func TestParallelTransfers(t *testing.T) {
	config := &Config{Logger: slog.New(slog.DiscardHandler), Limits: Limits{Streams: 4}}
	for entry, want := range map[int]int{0: 4, 1: 1, 9: 9} {
		p := New(config, machines.Machine{ParallelTransfers: entry}, nil)
		for range 2 {
			if p.Sending.streams != want || p.Fetching.streams != want {
				t.Errorf("parallel-transfers %d: %d and %d streams, want %d", entry, p.Sending.streams, p.Fetching.streams, want)
			}
			p.SetStreams(entry)
		}
	}
}

// TestLaneLater has a lane move what nobody waits for by one stream, and after what somebody wants
// now; what somebody wants now after all goes with that.
func TestLaneLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLane(t.Context(), 2, 10, 10)
		var wait sync.WaitGroup
		want := func(f func(context.Context, []*store.Info, time.Time) (int64, error), infos ...*store.Info) {
			wait.Go(func() {
				if _, err := f(t.Context(), infos, time.Time{}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		want(l.WantLater, thing("l1", 10), thing("l2", 10, "l1"), thing("l3", 10), thing("l4", 10))
		if l.Pending() != 40 || l.Ahead() != 0 || l.Coming("l1") || l.moving() != 1 {
			t.Errorf("%d bytes, %d of them ahead, on %d streams", l.Pending(), l.Ahead(), l.moving())
		}
		want(l.Want, thing("n1", 10), thing("n2", 10), thing("l3", 10))
		if l.Pending() != 60 || l.Ahead() != 30 || !l.Coming("l3") || l.moving() != 2 {
			t.Errorf("%d bytes, %d of them ahead, on %d streams", l.Pending(), l.Ahead(), l.moving())
		}
		wait.Wait()
		l.group.Wait()
		order := make(map[string]int)
		for i, batch := range l.batches {
			order[batch[0]] = i
		}
		for _, soon := range []string{"n1", "n2", "l3"} {
			for _, late := range []string{"l2", "l4"} {
				if order[soon] > order[late] {
					t.Errorf("%s went before %s", late, soon)
				}
			}
		}
		if len(l.batches) != 6 || l.Pending() != 0 || l.Ahead() != 0 || l.idle {
			t.Errorf("%v; %d bytes are left, %d ahead", l.batches, l.Pending(), l.Ahead())
		}
		// Nobody wants it any more: nothing is left of it.
		ctx, cancel := context.WithCancel(t.Context())
		wait.Go(func() {
			if _, err := l.WantLater(ctx, []*store.Info{thing("l5", 10)}, time.Now()); err == nil {
				t.Error("it arrived")
			}
		})
		synctest.Wait()
		cancel()
		wait.Wait()
		l.group.Wait()
		if l.Pending() != 0 || l.later != 0 || l.idle {
			t.Errorf("%d bytes are left", l.Pending())
		}
	})
}
