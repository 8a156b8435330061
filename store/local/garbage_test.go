package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
)

// addTree adds a folder with a file to the store, which refers to other items.
func addTree(t *testing.T, s *Store, name string, references ...store.Path) store.Path {
	t.Helper()
	tree := filepath.Join(scratch(t), "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	text := name
	for _, r := range references {
		text += "\n" + string(r)
	}
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := nar.Pack(&b, tree); err != nil {
		t.Fatal(err)
	}
	var path store.Path
	err := s.addItem(t.Context(), strings.NewReader(b.String()), func(h store.Hash) (_ store.Path, err error) {
		path, err = s.layout.dir.SourcePath(name, h)
		return path, err
	}, references)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func collect(t *testing.T, s *Store, opts store.GCOptions) *store.GCResult {
	t.Helper()
	result, err := s.CollectGarbage(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func wantValid(t *testing.T, s *Store, want bool, paths ...store.Path) {
	t.Helper()
	for _, p := range paths {
		if got, err := s.items.isValid(t.Context(), p); err != nil || got != want {
			t.Errorf("%s: valid %v, %v; want %v", p, got, err, want)
		}
	}
}

// wantLeft checks what a collection left: items, each with a part of why.
func wantLeft(t *testing.T, result *store.GCResult, want map[store.Path]string) {
	t.Helper()
	for _, left := range result.Left {
		why, ok := want[left.Path]
		if !ok || !strings.Contains(left.Problem, why) {
			t.Errorf("left %q: %s", left.Path, left.Problem)
		}
		delete(want, left.Path)
	}
	for path, why := range want {
		t.Errorf("%s was not left because of %q", path, why)
	}
}

// TestGarbageLongNames deletes items with all lengths of names at which something that is
// put before or behind them could be too long, under their own names and beside another's data.
func TestGarbageLongNames(t *testing.T) {
	s := openTestStore(t)
	var all []store.Path
	for length := 195; length <= 211; length++ {
		name := strings.Repeat("n", length)
		all = append(all, addTree(t, s, name))
		path, err := s.layout.dir.SourcePath(name, store.Hash{})
		if err != nil {
			t.Fatal(err)
		}
		// What lost a race has the item's own name.
		if err := os.Mkdir(s.layout.data(path.Base()), 0o755); err != nil {
			t.Fatal(err)
		}
		it := &finished{tree: filepath.Join(scratch(t), "tree"), info: &store.Info{Path: path}}
		if err := os.Mkdir(it.tree, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := s.items.publish(t.Context(), []*finished{it}); err != nil {
			t.Fatal(err)
		}
		all = append(all, path)
	}
	wantValid(t, s, true, all...)
	for _, p := range all {
		if files, err := s.PhysicalPath(p); err != nil || !isFolder(files) {
			t.Errorf("%s is in %s: %v", p, files, err)
		}
	}
	result := collect(t, s, store.GCOptions{})
	wantLeft(t, result, nil)
	if len(result.Deleted) != len(all) {
		t.Errorf("%d of %d items were deleted", len(result.Deleted), len(all))
	}
}

func isFolder(name string) bool {
	info, err := os.Lstat(name)
	return err == nil && info.IsDir()
}

// TestGarbageEndsLikeRecord has an item whose name ends like that of an info file, and which
// stays in the trash: the next collection does not take it for a condemned record.
func TestGarbageEndsLikeRecord(t *testing.T) {
	testkit.NeedRoot(t)
	s := openTestStore(t)
	file := filepath.Join(s.layout.data(addTree(t, s, "package.json").Base()), "file")
	mountOver(t, file, file)
	for range 2 {
		collect(t, s, store.GCOptions{})
	}
	if names, err := readNames(s.layout.infos()); err != nil || len(names) > 0 {
		t.Errorf("in the folder of info files: %v, %v", names, err)
	}
}

// TestGarbageGoesOn has one item each that can't be deleted for one reason, among others that
// can: the others are deleted, what the one refers to stays, and when the reason is gone it goes.
func TestGarbageGoesOn(t *testing.T) {
	testkit.NeedRoot(t)
	for _, tt := range []struct {
		name string
		why  string
		// hinder makes that the item can't be deleted, and returns what ends that; nil
		// if it can't be done here.
		hinder func(t *testing.T, files string) (end func())
		// partly says that the item goes, and some of its files stay.
		partly bool
	}{
		{"immutable file", "operation not permitted", func(t *testing.T, files string) func() { return immutable(t, filepath.Join(files, "file")) }, true},
		{"immutable folder", "operation not permitted", immutable, false},
		{"a file in use", "device or resource busy", func(t *testing.T, files string) func() {
			file := filepath.Join(files, "file")
			return mountOver(t, file, file)
		}, true},
		{"read-only mount", "device or resource busy", func(t *testing.T, files string) func() { return mountOver(t, files, files) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openTestStore(t)
			needed := addTree(t, s, "needed")
			stuck := addTree(t, s, "stuck", needed)
			above := addTree(t, s, "above", stuck)
			other := addTree(t, s, "other")
			end := tt.hinder(t, s.layout.data(stuck.Base()))
			if end == nil {
				t.Skip("this file system has no such thing")
			}
			result := collect(t, s, store.GCOptions{})
			wantValid(t, s, false, above, other)
			wantValid(t, s, !tt.partly, stuck, needed)
			left := map[store.Path]string{stuck: tt.why}
			if tt.partly {
				left[""] = tt.why // the trash is tried again at the end
			}
			wantLeft(t, result, left)
			end()
			result = collect(t, s, store.GCOptions{})
			wantLeft(t, result, nil)
			wantValid(t, s, false, stuck, needed)
			if names, err := readNames(s.layout.trash()); err != nil || len(names) > 0 {
				t.Errorf("in the trash: %v, %v", names, err)
			}
		})
	}
}

// immutable sets the attribute of chattr +i.
func immutable(t *testing.T, file string) func() {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		f.Close()
		return nil
	}
	const fsImmutable = 0x10 // FS_IMMUTABLE_FL
	set := func(flags int) error { return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags) }
	if err := set(flags | fsImmutable); err != nil {
		f.Close()
		return nil
	}
	done := false
	end := func() {
		if !done {
			done = true
			if err := set(flags); err != nil {
				t.Error(err)
			}
			f.Close()
		}
	}
	t.Cleanup(end)
	return end
}

// mountOver binds something over a name, which then can't be renamed or deleted.
func mountOver(t *testing.T, from, over string) func() {
	t.Helper()
	if err := unix.Mount(from, over, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	where, done := over, false
	end := func() {
		if done {
			return
		}
		done = true
		if unix.Unmount(where, unix.MNT_DETACH) == nil {
			return
		}
		// It was moved with the item.
		_ = filepath.WalkDir(filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(over))), "trash"), func(name string, _ os.DirEntry, _ error) error {
			_ = unix.Unmount(name, unix.MNT_DETACH)
			return nil
		})
	}
	t.Cleanup(end)
	return end
}

// TestGarbageOverlay has a store in the lower layer of an overlay, whose folders can't be renamed.
func TestGarbageOverlay(t *testing.T) {
	testkit.NeedRoot(t)
	base := scratch(t)
	for _, name := range []string{"lower", "upper", "work", "store"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	below := openAt(t, filepath.Join(base, "lower"))
	a := addTree(t, below, "a")
	b := addTree(t, below, "b", a)
	data := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,redirect_dir=off", base)
	target := filepath.Join(base, "store")
	if err := unix.Mount("overlay", target, "overlay", 0, data); err != nil {
		t.Skipf("overlay: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := openAt(t, target)
	result := collect(t, s, store.GCOptions{})
	wantLeft(t, result, nil)
	if diff := cmp.Diff([]store.Path{b, a}, result.Deleted); diff != "" {
		t.Errorf("deleted (-want +got)\n%s", diff)
	}
	if names, err := readNames(s.layout.data("")); err != nil || len(names) > 0 {
		t.Errorf("in the store: %v, %v", names, err)
	}
}

// TestGarbageDamagedRecord has an info file that makes no sense: it and its data stay, others go.
func TestGarbageDamagedRecord(t *testing.T) {
	s := openTestStore(t)
	bad, good := addTree(t, s, "bad"), addTree(t, s, "good")
	if err := os.WriteFile(s.layout.info(bad.Base()), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	result := collect(t, s, store.GCOptions{})
	wantLeft(t, result, map[store.Path]string{bad: s.layout.info(bad.Base())})
	wantValid(t, s, false, good)
	if !isFolder(s.layout.data(bad.Base())) {
		t.Error("the item's files are gone")
	}
}

// TestGarbageMaxFreedPastStuck has more to free than a limit says, and what comes first is stuck.
func TestGarbageMaxFreedPastStuck(t *testing.T) {
	testkit.NeedRoot(t)
	s := openTestStore(t)
	all := []store.Path{addTree(t, s, "a"), addTree(t, s, "b"), addTree(t, s, "c")}
	first := collect(t, s, store.GCOptions{DryRun: true, MaxFreed: 1}).Deleted
	if len(first) != 1 {
		t.Fatalf("would delete %v", first)
	}
	mountOver(t, s.layout.data(first[0].Base()), s.layout.data(first[0].Base()))
	if result := collect(t, s, store.GCOptions{MaxFreed: 1}); len(result.Deleted) != 1 || result.Deleted[0] == first[0] {
		t.Errorf("deleted %v of %v", result.Deleted, all)
	}
}

// TestGarbageKeep keeps what is asked for, with what it refers to; what is asked for only when
// it is about to be deleted, too.
func TestGarbageKeep(t *testing.T) {
	s := openTestStore(t)
	source := addTree(t, s, "source")
	kept := addTree(t, s, "kept", source)
	late := addTree(t, s, "late")
	gone := addTree(t, s, "gone")
	asked := 0
	opts := store.GCOptions{Keep: func(_ context.Context, garbage []store.Path) (keep []store.Path, err error) {
		if asked++; asked > 1 && slices.Contains(garbage, late) {
			keep = append(keep, late)
		}
		if slices.Contains(garbage, kept) {
			keep = append(keep, kept)
		}
		return keep, nil
	}}
	if result := collect(t, s, opts); !slices.Equal(result.Deleted, []store.Path{gone}) {
		t.Errorf("deleted %v", result.Deleted)
	}
	wantValid(t, s, true, source, kept, late)
	opts.Keep = func(context.Context, []store.Path) ([]store.Path, error) { return nil, context.DeadlineExceeded }
	if result, err := s.CollectGarbage(t.Context(), opts); err == nil || len(result.Deleted) > 0 {
		t.Errorf("deleted %v, %v", result.Deleted, err)
	}
	wantValid(t, s, true, source, kept, late)
}

// TestOrphansOfLongNames leaves alone what a lease has the hash of, and what is in use.
func TestOrphansOfLongNames(t *testing.T) {
	s := openTestStore(t)
	path, err := s.layout.dir.SourcePath(strings.Repeat("n", 211), store.Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	name := otherName(path.Base())
	if len(name) > maxFileName || !isOtherName(name, path.Base()) {
		t.Fatalf("%q is no name for the data of %s", name, path)
	}
	if err := os.Mkdir(s.layout.data(name), 0o755); err != nil {
		t.Fatal(err)
	}
	lease, err := s.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Add(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	tidyIn := func(later time.Duration) {
		t.Helper()
		c := &collector{layout: s.layout, claims: s.claims, trash: s.trash, items: s.items, records: make(map[string]*record), damaged: make(map[string]bool), result: new(store.GCResult)}
		now, err := s.claims.clock()
		if err != nil {
			t.Fatal(err)
		}
		c.census = s.layout.newCensus(now.Add(later))
		if err := c.removeOrphans(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tidyIn(2 * orphanAge)
	if !isFolder(s.layout.data(name)) {
		t.Fatal("what is leased was deleted")
	}
	if err := lease.Release(); err != nil {
		t.Fatal(err)
	}
	tidyIn(0)
	if !isFolder(s.layout.data(name)) {
		t.Fatal("what is young was deleted")
	}
	tidyIn(2 * orphanAge)
	if isFolder(s.layout.data(name)) {
		t.Error("what nobody needs was not deleted")
	}
}
