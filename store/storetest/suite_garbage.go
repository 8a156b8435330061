package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/store"
)

// collector returns a store of one's own that collects garbage and has leases.
func (s *suite) collector(t *testing.T) (store.Collector, store.Leaser) {
	t.Helper()
	s.notShared(t)
	return need[store.Collector](t, s.store), need[store.Leaser](t, s.store)
}

func collect(t *testing.T, c store.Collector, opts store.GCOptions) *store.GCResult {
	t.Helper()
	result, err := c.CollectGarbage(t.Context(), opts)
	if err != nil {
		t.Fatalf("CollectGarbage: %v", err)
	}
	return result
}

func wantDeleted(t *testing.T, result *store.GCResult, items ...made) {
	t.Helper()
	if diff := cmp.Diff(sortedCopy(pathsOf(items)), sortedCopy(result.Deleted), emptyIsNil); diff != "" {
		t.Errorf("deleted (-want +got)\n%s", diff)
	}
	if (result.Freed > 0) != (len(items) > 0) {
		t.Errorf("%d bytes were freed with %d items", result.Freed, len(items))
	}
}

func testLeaseProtects(t *testing.T, s *suite) {
	collector, leaser := s.collector(t)
	items := s.chain(t, "a", "b", "c")
	lonely := s.make(t, "lonely", itself)
	s.fill(t, append(items, lonely)...)
	first, err := leaser.Lease(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	second, err := leaser.Lease(t.Context(), "second")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []store.Lease{first, second} {
		if err := l.Add(t.Context(), items[1].path); err != nil {
			t.Fatalf("Add: %v", err)
		}
	}
	wantDeleted(t, collect(t, collector, store.GCOptions{}), items[2], lonely)
	wantContents(t, s.store, items[0])
	wantContents(t, s.store, items[1])
	wantValid(t, s.store, false, items[2], lonely)

	// What two leases protect stays until the second is released.
	if err := first.Release(); err != nil {
		t.Errorf("Release: %v", err)
	}
	wantDeleted(t, collect(t, collector, store.GCOptions{}))
	if err := second.Release(); err != nil {
		t.Errorf("Release: %v", err)
	}
	wantDeleted(t, collect(t, collector, store.GCOptions{}), items[:2]...)
	wantValid(t, s.store, false, items...)

	// What was deleted can come back.
	s.fill(t, items...)
	wantContents(t, s.store, items[2])
}

// testLeaseBeforeImport protects items that are not there yet.
func testLeaseBeforeImport(t *testing.T, s *suite) {
	collector, leaser := s.collector(t)
	a, b := s.make(t, "a"), s.make(t, "b")
	l, err := leaser.Lease(t.Context(), "build")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(t.Context(), a.path, s.make(t, "never").path); err != nil {
		t.Fatalf("Add: %v", err)
	}
	wantDeleted(t, collect(t, collector, store.GCOptions{}))
	s.fill(t, a, b)
	wantDeleted(t, collect(t, collector, store.GCOptions{}), b)
	wantContents(t, s.store, a)
	if err := l.Release(); err != nil {
		t.Errorf("Release: %v", err)
	}
}

func testGarbageChain(t *testing.T, s *suite) {
	collector, leaser := s.collector(t)
	items := s.diamond(t)
	s.fill(t, items...)
	l, err := leaser.Lease(t.Context(), "top")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(t.Context(), items[3].path); err != nil {
		t.Fatalf("Add: %v", err)
	}
	wantDeleted(t, collect(t, collector, store.GCOptions{}))
	wantValid(t, s.store, true, items...)
	if err := l.Release(); err != nil {
		t.Errorf("Release: %v", err)
	}
	wantDeleted(t, collect(t, collector, store.GCOptions{}), items...)
	wantValid(t, s.store, false, items...)
}

func testGarbageOptions(t *testing.T, s *suite) {
	collector, _ := s.collector(t)
	items := []made{s.make(t, "a"), s.make(t, "b"), s.make(t, "c")}
	s.fill(t, items...)

	wantDeleted(t, collect(t, collector, store.GCOptions{DryRun: true}), items...)
	wantValid(t, s.store, true, items...)
	wantDeleted(t, collect(t, collector, store.GCOptions{OlderThan: time.Hour}))
	wantValid(t, s.store, true, items...)
	wantDeleted(t, collect(t, collector, store.GCOptions{Paths: []store.Path{items[1].path}}), items[1])
	wantValid(t, s.store, true, items[0], items[2])
	keep := func(_ context.Context, garbage []store.Path) ([]store.Path, error) { return garbage, nil }
	wantDeleted(t, collect(t, collector, store.GCOptions{Keep: keep}))
	wantValid(t, s.store, true, items[0], items[2])
	if got := collect(t, collector, store.GCOptions{MaxFreed: 1}); len(got.Deleted) != 1 {
		t.Errorf("with one byte to free, %d items were deleted: %q", len(got.Deleted), got.Deleted)
	}
	if got := collect(t, collector, store.GCOptions{}); len(got.Deleted) != 1 {
		t.Errorf("the last item was not deleted alone: %q", got.Deleted)
	}
	wantValid(t, s.store, false, items...)
}

func testVerify(t *testing.T, s *suite) {
	s.notShared(t)
	verifier := need[store.Verifier](t, s.store)
	a, b := s.make(t, "a"), s.make(t, "b", itself)
	s.fill(t, a, b)
	verify := func() (problems []store.Path) {
		if err := verifier.Verify(t.Context(), true, func(p store.VerifyProblem) {
			if p.Problem == "" {
				t.Errorf("a problem without words: %+v", p)
			}
			problems = append(problems, p.Path)
		}); err != nil {
			t.Errorf("Verify: %v", err)
		}
		return sortedCopy(problems)
	}
	if problems := verify(); len(problems) != 0 {
		t.Errorf("problems of a good store: %q", problems)
	}
	if s.Damage == nil {
		t.Skip("the fixture damages nothing")
	}
	s.Damage(t, s.store, a.path)
	if diff := cmp.Diff([]store.Path{a.path}, verify()); diff != "" {
		t.Errorf("items with problems (-want +got)\n%s", diff)
	}
}
