package ahead

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/nar/signature"
	"lighter/scheduler/estimate"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/storetest"
)

// head is a store of derivations, which counts what it is asked, and a scout that looks at it.
type head struct {
	*storetest.Memory
	t      *testing.T
	ledger *ledger.Ledger
	hasher *derivation.Hasher
	built  map[store.Path]bool      // outputs that are there
	age    map[store.Path]time.Time // of derivations, where that matters
	asked  int                      // about how many derivations' referrers

	scout *Scout
	need  map[store.Path][]Need
	next  map[store.Path][]Successor
}

func newHead(t *testing.T) *head {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(filepath.Join(t.TempDir(), "ledger"), ledger.Options{MinFree: -1, FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h := &head{
		Memory: storetest.NewMemory(store.DefaultDir, key, &signature.ACL{}), t: t, ledger: l, hasher: derivation.NewHasher(store.DefaultDir, nil),
		built: make(map[store.Path]bool), age: make(map[store.Path]time.Time),
		need: make(map[store.Path][]Need), next: make(map[store.Path][]Successor),
	}
	h.scout = New(Options{
		Head: headstore.New(h), Ledger: l, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Wanted: func(store.Path) bool { return true },
		Needed: func(drv store.Path, n Need) { h.need[drv] = append(h.need[drv], n) },
		Next:   func(drv store.Path, next []Successor) { h.next[drv] = next },
	})
	return h
}

func (h *head) ValidPaths(_ context.Context, paths []store.Path) (valid []store.Path, err error) {
	for _, p := range paths {
		if h.built[p] {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

func (h *head) Referrers(ctx context.Context, paths []store.Path) ([][]store.Path, error) {
	h.asked += len(paths)
	return h.Memory.Referrers(ctx, paths)
}

func (h *head) Info(ctx context.Context, p store.Path) (*store.Info, error) {
	info, err := h.Memory.Info(ctx, p)
	if at, ok := h.age[p]; ok && err == nil {
		info.Registered = at
	}
	return info, err
}

// drv adds a derivation that takes some minutes.
func (h *head) drv(name string, minutes int, inputs ...store.Path) store.Path {
	h.t.Helper()
	d := &derivation.Derivation{
		System: "x86_64-linux", Builder: "builtin:test", Outputs: []derivation.Output{{Name: "out"}}, Env: []derivation.EnvVar{{Name: "out"}},
	}
	for _, in := range inputs {
		d.Inputs = append(d.Inputs, derivation.Input{Path: in, Outputs: []string{"out"}})
	}
	slices.SortFunc(d.Inputs, func(a, b derivation.Input) int { return cmp.Compare(a.Path, b.Path) })
	if err := h.hasher.Fill(name, d); err != nil {
		h.t.Fatal(err)
	}
	ctx := h.t.Context()
	drv, err := h.AddText(ctx, name+".drv", d.Marshal(), d.References())
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.hasher.Add(drv, d); err != nil {
		h.t.Fatal(err)
	}
	n := h.node(drv)
	_, err = h.ledger.Apply(ctx, []ledger.Change{{Samples: &ledger.Samples{Key: n.Key(), Samples: []estimate.Sample{
		{Version: n.Key().Version, Duration: time.Duration(minutes) * time.Minute, Speed: 1, Time: time.Now()},
	}}}}, false)
	if err != nil {
		h.t.Fatal(err)
	}
	return drv
}

func (h *head) node(drv store.Path) *headstore.Node {
	h.t.Helper()
	n, err := headstore.New(h.Memory).Node(h.t.Context(), drv)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// have has a derivation's output be there.
func (h *head) have(drvs ...store.Path) {
	for _, drv := range drvs {
		h.built[h.node(drv).OutputMap()["out"]] = true
	}
}

// run has the scout answer all questions.
func (h *head) run() { h.runFor(0) }

func (h *head) runFor(d time.Duration) {
	ctx, stop := context.WithCancel(h.t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		h.scout.Run(ctx)
	}()
	time.Sleep(d)
	synctest.Wait()
	stop()
	<-over
}

// wants asks about a derivation, and checks the last answer.
func (h *head) wants(drv store.Path, minutes, dependants int) {
	h.t.Helper()
	h.scout.Ask(drv)
	h.run()
	answers := h.need[drv]
	if len(answers) == 0 {
		h.t.Fatalf("%s: no answer", drv)
	}
	got := answers[len(answers)-1]
	if got.After.Round(time.Second) != time.Duration(minutes)*time.Minute || got.Dependants != dependants {
		h.t.Errorf("%s: after it come %s, and %d need it; want %d minutes and %d", drv, got.After, got.Dependants, minutes, dependants)
	}
}

func TestLongestPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHead(t)
		base := h.drv("base", 1)
		left := h.drv("left", 10, base)
		right := h.drv("right", 5, base)
		beyond := h.drv("beyond", 7, right)
		h.drv("top", 3, left, beyond)
		alone := h.drv("alone", 9)

		h.wants(base, 15, 2) // right, beyond, top
		h.wants(left, 3, 1)
		h.wants(beyond, 3, 1)
		if asked := h.asked; asked != 5 {
			t.Errorf("who refers to %d derivations was asked, want each of the 5 once", asked)
		}
		h.wants(alone, 0, 0)

		// What is there needs nothing, and neither does what would be needed for it alone.
		h.have(right)
		time.Sleep(2 * fresh)
		h.wants(base, 13, 1)
	})
}

// TestGenerations has derivations from an earlier version of the same packages.
func TestGenerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHead(t)
		base := h.drv("base", 1)
		old := h.drv("old", 500, base)
		h.drv("older", 500, base)
		h.age[old], h.age[h.drv("ancient", 500, old)] = time.Now().Add(-90*24*time.Hour), time.Now().Add(-90*24*time.Hour)
		h.age[h.drv("older", 500, base)] = time.Now().Add(-generation - time.Second)
		lately := h.drv("lately", 7, base)
		h.drv("new", 5, base)
		h.age[lately] = time.Now().Add(-generation + time.Second)
		h.wants(base, 7, 2)
		h.wants(old, 500, 1) // somebody wants that after all
	})
}

// TestNewcomers has a client come whose derivations need one that was asked about.
func TestNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHead(t)
		base := h.drv("base", 1)
		h.wants(base, 0, 0)
		h.drv("top", 30, base)
		h.wants(base, 0, 0)
		time.Sleep(fresh)
		h.wants(base, 30, 1)
		if h.runFor(idle + time.Second); len(h.scout.nodes) > 0 {
			t.Errorf("%d derivations are remembered after a long time without a question", len(h.scout.nodes))
		}
	})
}

// TestManyAtOnce has more derivations than are looked at for one question.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHead(t)
		base := h.drv("base", 1)
		last := base
		const steps = 2*maxAtOnce/3 + 10 // three derivations each
		for i := range steps {
			before := last
			last = h.drv(fmt.Sprintf("step-%d", i), 1, before)
			h.drv(fmt.Sprintf("aside-%d", i), 1, before)
			h.drv(fmt.Sprintf("beside-%d", i), 1, before)
		}
		other := h.drv("other", 1)
		h.scout.Ask(base)
		h.scout.Ask(other)
		h.wants(base, steps, 3)
		if n := len(h.need[base]); n < 2 || h.need[base][0].After >= h.need[base][n-1].After {
			t.Errorf("there were %d answers, want some before the last: %v", n, h.need[base])
		}
	})
}

func TestNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHead(t)
		base, other, third := h.drv("base", 1), h.drv("other", 1), h.drv("third", 1)
		chain := h.drv("chain", 20, base)
		h.drv("end", 40, chain)
		both := h.drv("both", 30, base, other)
		small := h.drv("small", 1, base, third)
		h.have(third)
		h.scout.AskNext(base)
		h.scout.AskNext(small)
		h.run()
		next := h.next[base]
		if len(next) != 3 || next[0].Node.Path != chain || next[1].Node.Path != both || next[2].Node.Path != small {
			t.Fatalf("next are %v", next)
		}
		if n := next[0].Need; n.After.Round(time.Second) != 40*time.Minute || n.Dependants != 1 {
			t.Errorf("after the first come %+v", n)
		}
		if d := next[0].Estimate.Duration.Middle(); d.Round(time.Second) != 20*time.Minute {
			t.Errorf("it takes %s", d)
		}
		waits := []store.Path{base, other}
		slices.Sort(waits)
		if !slices.Equal(next[0].Waits, []store.Path{base}) || !slices.Equal(next[1].Waits, waits) || !slices.Equal(next[2].Waits, []store.Path{base}) {
			t.Errorf("they wait for %v", next)
		}
		if h.next[small] != nil {
			t.Errorf("nothing comes after the last, but %v", h.next[small])
		}
	})
}

// TestUnreadable has a derivation that can't be read, and a store that can't be asked.
func TestUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHead(t)
		base := h.drv("base", 1)
		h.drv("top", 5, base)
		if _, err := h.AddText(t.Context(), "bad.drv", []byte("Derive(nonsense"), []store.Path{base}); err != nil {
			t.Fatal(err)
		}
		h.wants(base, 5, 1)
		h.scout.referrer = failing{}
		h.scout.Ask(h.drv("later", 1))
		h.run()
	})
}

type failing struct{}

func (failing) Referrers(context.Context, []store.Path) ([][]store.Path, error) {
	return nil, context.DeadlineExceeded
}
