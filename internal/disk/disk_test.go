package disk

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSpaceOf(t *testing.T) {
	tests := []struct {
		name string
		st   unix.Statfs_t
		want Space
	}{
		{"plain", unix.Statfs_t{Bavail: 10, Blocks: 20, Bsize: 4096, Files: 100, Ffree: 7}, Space{40960, 81920, 7}},
		{"fragments", unix.Statfs_t{Bavail: 10, Blocks: 20, Bsize: 1 << 20, Frsize: 512}, Space{5120, 10240, -1}},
		{"without inodes", unix.Statfs_t{Bavail: 1, Blocks: 1, Bsize: 1}, Space{1, 1, -1}},
		{"full", unix.Statfs_t{Bsize: 4096, Blocks: 1, Files: 100}, Space{0, 4096, 0}},
		{"negative", unix.Statfs_t{Bavail: 1, Blocks: 1, Bsize: -1}, Space{0, 0, -1}},
		{"huge", unix.Statfs_t{Bavail: math.MaxUint64, Blocks: 1 << 63, Bsize: 4096, Files: 1, Ffree: math.MaxUint64}, Space{math.MaxInt64, math.MaxInt64, math.MaxInt64}},
	}
	for _, tt := range tests {
		if got := spaceOf(&tt.st); got != tt.want {
			t.Errorf("%s: got %+v; want %+v", tt.name, got, tt.want)
		}
	}
}

func TestFree(t *testing.T) {
	if s, err := Free(t.TempDir()); err != nil || s.Free <= 0 || s.Total < s.Free {
		t.Errorf("got %+v, %v", s, err)
	}
	if s, err := Free("/nonexistent/folder"); err == nil || !strings.Contains(err.Error(), "/nonexistent/folder") || s.Free >= 0 {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestReplace(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	write := func(text string, err error) error {
		return Replace(name, 0o640, func(f *os.File) error {
			_, writeErr := f.WriteString(text)
			return errors.Join(writeErr, err)
		})
	}
	if err := errors.Join(write("old", nil), write("new", nil)); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := write("half", broken); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	text, err := os.ReadFile(name)
	if err != nil || string(text) != "new" {
		t.Errorf("got %q, %v", text, err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode() != 0o640 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	if names, err := os.ReadDir(filepath.Dir(name)); err != nil || len(names) != 1 {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(name); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), name) {
		t.Errorf("a second one: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(name)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := Lock(filepath.Dir(name)); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("a folder: %v", err)
	}
	// The file that is locked has no name any more.
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := lock(again); !errors.Is(err, ErrLocked) {
		t.Errorf("a file that was removed: %v", err)
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
