package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lighter/internal/api"
)

// killed writes builds, one durable change each, and leaves what kill -9 would: it returns the
// folder of a copy that is not open, and how many were acknowledged.
func killed(t *testing.T, builds int) (dir string, acknowledged int) {
	t.Helper()
	from := filepath.Join(t.TempDir(), "ledger")
	l := open(t, from, Options{MinFree: -1})
	for i := range builds {
		apply(t, l, Change{Build: build(fmt.Sprint("b", i), api.Queued), Create: true})
	}
	dir = filepath.Join(t.TempDir(), "ledger")
	copyLedger(t, from, dir)
	return dir, builds
}

// copyLedger copies a ledger's folder, and the count beside it.
func copyLedger(t *testing.T, from, to string) {
	t.Helper()
	copyFolder(t, from, to)
	data, err := os.ReadFile(countedFile(from))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(countedFile(to), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v, %v", pattern, names, err)
	}
	return names
}

// count opens a ledger, and returns how many builds are in it.
func count(t *testing.T, dir string, opts Options) (int, error) {
	t.Helper()
	opts.MinFree = -1
	l, err := Open(dir, opts)
	if err != nil {
		return 0, err
	}
	n := len(list(t, l, Filter{}))
	check(t, l)
	apply(t, l, Change{Build: build("new", api.Queued)})
	return n, l.Close()
}

// wantMissing has a ledger refused because acknowledged changes are missing, and opened with
// what is left once that is accepted.
func wantMissing(t *testing.T, dir string, most int) {
	t.Helper()
	var missing *MissingError
	if n, err := count(t, dir, Options{}); !errors.As(err, &missing) || !strings.Contains(err.Error(), "lighter doctor --accept-loss") {
		t.Fatalf("got %d builds, %v", n, err)
	}
	problems, err := Inspect(t.Context(), dir, Options{})
	if err != nil || len(problems) != 1 || !errors.As(problems[0], &missing) {
		t.Errorf("inspect: %v, %v", problems, err)
	}
	if n, err := count(t, dir, Options{AcceptLoss: true}); err != nil || n > most {
		t.Fatalf("accepted: %d builds, %v", n, err)
	}
	l, err := Open(dir, Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !missing.Other && l.LastEvent() < missing.Counted.Event {
		t.Errorf("event %d is given out again; %d was acknowledged", l.LastEvent(), missing.Counted.Event)
	}
	check(t, l)
}

func TestNothingIsMissing(t *testing.T) {
	dir, n := killed(t, 20)
	for range 3 {
		if got, err := count(t, dir, Options{}); err != nil || got < n {
			t.Fatalf("%d builds of %d, %v", got, n, err)
		}
		if problems, err := Inspect(t.Context(), dir, Options{}); err != nil || len(problems) > 0 {
			t.Fatalf("%v, %v", problems, err)
		}
	}
}

func TestRemovedLogIsNoticed(t *testing.T) {
	dir, n := killed(t, 30)
	for _, name := range glob(t, dir, "*.log") {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	wantMissing(t, dir, n-1)
}

// TestCutLogIsNoticed cuts the log at many places. Wherever a change is lost, that is noticed;
// where the ledger opens, all are there.
func TestCutLogIsNoticed(t *testing.T) {
	dir, n := killed(t, 30)
	logs := glob(t, dir, "*.log")
	log := logs[len(logs)-1]
	whole, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	whole = []byte(strings.TrimRight(string(whole), "\x00"))
	again := filepath.Join(t.TempDir(), "ledger")
	noticed := 0
	for part := range 20 {
		copyLedger(t, dir, again)
		size := int64(len(whole)) * int64(part) / 20
		if err := os.Truncate(filepath.Join(again, filepath.Base(log)), size); err != nil {
			t.Fatal(err)
		}
		got, err := count(t, again, Options{})
		var missing *MissingError
		switch {
		case errors.As(err, &missing):
			noticed++
		case err != nil:
			t.Logf("cut at %d of %d: %v", size, len(whole), err) // Pebble noticed
		case got < n:
			t.Errorf("cut at %d of %d: %d builds of %d, and nobody noticed", size, len(whole), got, n)
		}
	}
	if noticed < 10 {
		t.Errorf("%d of 20 were noticed by the count", noticed)
	}
}

func TestOldCopyIsNoticed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	old := filepath.Join(t.TempDir(), "old")
	if _, err := count(t, dir, Options{}); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, dir, old)
	for i := range 3 {
		l := open(t, dir, Options{MinFree: -1})
		apply(t, l, Change{Build: build(fmt.Sprint("later", i), api.Queued)})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	copyFolder(t, old, dir)
	wantMissing(t, dir, 1)
}

func TestEmptyFolderIsNoticed(t *testing.T) {
	dir, _ := killed(t, 5)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	wantMissingOther(t, dir)
	other, _ := killed(t, 7)
	copyFolder(t, other, dir) // a ledger of its own
	wantMissingOther(t, dir)
}

func wantMissingOther(t *testing.T, dir string) {
	t.Helper()
	var missing *MissingError
	for range 2 { // being refused changes nothing
		if _, err := count(t, dir, Options{}); !errors.As(err, &missing) || !missing.Other {
			t.Fatalf("got %v", err)
		}
	}
	count1 := func(opts Options) {
		if _, err := count(t, dir, opts); err != nil {
			t.Fatal(err)
		}
	}
	saved, err := os.ReadFile(countedFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	count1(Options{AcceptLoss: true})
	count1(Options{})
	if err := os.WriteFile(countedFile(dir), saved, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A count that is missing, or no count, says nothing; it is made again, and counts.
func TestBrokenCount(t *testing.T) {
	for name, damage := range map[string]func(file string) error{
		"missing":  os.Remove,
		"empty":    func(file string) error { return os.Truncate(file, 0) },
		"short":    func(file string) error { return os.Truncate(file, 20) },
		"garbage":  func(file string) error { return os.WriteFile(file, []byte(strings.Repeat("garbage", 5000)), 0o600) },
		"zeros":    func(file string) error { return os.WriteFile(file, make([]byte, 2*slotEvery), 0o600) },
		"a folder": func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, n := killed(t, 10)
			if err := damage(countedFile(dir)); err != nil {
				t.Fatal(err)
			}
			if got, err := count(t, dir, Options{}); err != nil || got != n {
				t.Fatalf("%d builds of %d, %v", got, n, err)
			}
			if name == "a folder" {
				return // nothing is counted, and nothing else is wrong
			}
			old := filepath.Join(t.TempDir(), "old")
			copyFolder(t, dir, old)
			if _, err := count(t, dir, Options{}); err != nil {
				t.Fatal(err)
			}
			l := open(t, dir, Options{MinFree: -1})
			apply(t, l, Change{Build: build("later", api.Queued)})
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			copyFolder(t, old, dir)
			wantMissing(t, dir, n+1)
		})
	}
	t.Run("one slot", func(t *testing.T) { // a write that was cut off
		for slot := range int64(2) {
			dir, n := killed(t, 10)
			f, err := os.OpenFile(countedFile(dir), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte("torn"), slot*slotEvery+30)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			if got, err := count(t, dir, Options{}); err != nil || got != n {
				t.Fatalf("%d builds of %d, %v", got, n, err)
			}
		}
	})
}

// The disk may be full just for the count: the ledger goes on.
func TestCountOnFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	l, err := Open("ledger", Options{FS: fullFor{mem, "ledger.acknowledged"}})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, l, Change{Build: build("a", api.Queued)})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open("ledger", Options{FS: mem}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	check(t, l)
}

// fullFor is a file system that has no room for one file.
type fullFor struct {
	vfs.FS
	name string
}

func (f fullFor) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if name == f.name {
		return nil, errors.New("no space left on device")
	}
	return f.FS.OpenReadWrite(name, category, opts...)
}

// TestFlippedByteInTable flips bytes of tables: an inspection of the ledger finds each that is
// in a block which says anything.
func TestFlippedByteInTable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	l := open(t, dir, Options{MinFree: -1, memTable: smallTable})
	for i := range 300 {
		apply(t, l, Change{Build: build(fmt.Sprint("b", i), api.Queued), Create: true})
	}
	if err := l.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "ledger")
	found, tried := 0, 0
	for _, table := range glob(t, dir, "*.sst") {
		whole, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for part := range 4 {
			copyLedger(t, dir, again)
			damaged := append([]byte(nil), whole...)
			damaged[len(damaged)*part/5] ^= 0x10
			if err := os.WriteFile(filepath.Join(again, filepath.Base(table)), damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			tried++
			if problems, err := Inspect(context.Background(), again, Options{}); err != nil || len(problems) > 0 {
				found++
			}
		}
	}
	if found < tried*3/4 {
		t.Errorf("%d of %d damages were found", found, tried)
	}
}
