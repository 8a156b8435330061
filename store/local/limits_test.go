package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
)

// TestOutputLimits has builds make more than the machine takes, in one output and in sum.
func TestOutputLimits(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	s := openWith(t, Options{Root: filepath.Join(scratch(t), "store"), MaxOutput: 1 << 20, MaxOutputFiles: 100})
	zeros := "sha256 " + strings.Repeat("0", 64)
	for name, tt := range map[string]struct {
		recipe recipe
		want   string // in the error; empty if there is to be none
	}{
		"large":              {recipe{script: "head -c 1048577 /dev/zero > $out"}, "too many bytes"},
		"sparse":             {recipe{script: "truncate -s 1T $out"}, "1099511627776 bytes"},
		"sparse and fixed":   {recipe{script: "truncate -s 8E $out || truncate -s 8T $out", hash: zeros}, "too many bytes"},
		"hard links":         {recipe{script: "mkdir $out; cd $out; head -c 300000 /dev/zero > 0; for i in 1 2 3; do ln 0 $i; done"}, "too many bytes"},
		"many files":         {recipe{script: "mkdir $out; cd $out; for i in $(seq 100); do : > $i; done"}, "too many files"},
		"many files, fixed":  {recipe{script: "mkdir $out; cd $out; for i in $(seq 100); do : > $i; done", hash: "r:" + zeros}, "too many files"},
		"two outputs":        {recipe{script: "for o in $out $lib; do head -c 600000 /dev/zero > $o; done", outputs: []string{"out", "lib"}}, "too many bytes"},
		"two of many files":  {recipe{script: "for o in $out $lib; do mkdir $o; cd $o; for i in $(seq 60); do : > $i; done; done", outputs: []string{"out", "lib"}}, "too many files"},
		"just within limits": {recipe{script: "mkdir $out; cd $out; head -c 1048576 /dev/zero > a; for i in $(seq 98); do : > $i; done"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := tt.recipe
			r.name = "limited"
			_, err := s.Build(t.Context(), r.request(t, s))
			var failure *store.BuildError
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.As(err, &failure) || failure.Failure != store.FailedLimit || !strings.Contains(failure.Message, tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
			wantClean(t, s)
		})
	}
}

// smallDisk mounts a disk of its own for a store.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	testkit.NeedRoot(t)
	disk := filepath.Join(scratch(t), "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", bytes)); err != nil {
		testkit.Missing(t, fmt.Errorf("mount a tmpfs: %w", err)) // in a container
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return disk
}

// TestDiskRunsFull has builders write until they are stopped, in all places that they can
// write to.
func TestDiskRunsFull(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	s := openWith(t, Options{Root: smallDisk(t, 160<<20), KeepFree: 128 << 20})
	// It writes in pieces, so that there is time to stop it before the disk is full.
	write := func(file string) string {
		return "for i in $(seq 200); do head -c 1048576 /dev/zero >> " + file + "; sleep 0.02; done; sleep 1000"
	}
	for name, script := range map[string]string{
		"output":      write("$out"),
		"other file":  write("/gnu/store/x"),
		"tmp":         write("/tmp/x"),
		"closed":      "mkdir -p $out/a; cd $out/a; exec 5>x; chmod 0 $out; " + write("x"),
		"in its top":  write("x"),
		"nothing yet": "fallocate -l 60M x; sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			r := &recipe{name: "greedy", script: script}
			req := r.request(t, s)
			req.KeepFailed = true
			_, err := s.Build(t.Context(), req)
			var failure *store.BuildError
			if !errors.As(err, &failure) || failure.Failure != store.FailedDiskFull || !strings.Contains(failure.Message, "is nearly full") {
				t.Errorf("got %v", err)
			}
			if failure != nil && failure.KeptIn != "" {
				t.Errorf("what filled the disk was kept in %s", failure.KeptIn)
			}
			wantClean(t, s)
		})
	}
	t.Run("hidden", func(t *testing.T) {
		r := &recipe{name: "hidden", script: "exec 5>x; rm x; for i in $(seq 200); do head -c 1048576 /dev/zero >&5; sleep 0.02; done; sleep 1000"}
		if _, err := s.Build(t.Context(), r.request(t, s)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("got %v, want ENOSPC", err)
		}
	})
	t.Run("the largest goes", func(t *testing.T) {
		small := &recipe{name: "small", script: "head -c 1048576 /dev/zero > $out; while [ ! -e /stop/now ]; do sleep 0.05; done"}
		stop := scratch(t)
		if err := os.Chmod(stop, 0o755); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		req := small.request(t, s)
		req.SandboxPaths = append(req.SandboxPaths, "/stop="+stop)
		req.Timeout = time.Minute
		go func() {
			_, err := s.Build(t.Context(), req)
			ended <- err
		}()
		large := &recipe{name: "large", script: write("$out")}
		var failure *store.BuildError
		if _, err := s.Build(t.Context(), large.request(t, s)); !errors.As(err, &failure) || failure.Failure != store.FailedDiskFull {
			t.Errorf("the large one: got %v", err)
		}
		if err := os.WriteFile(filepath.Join(stop, "now"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("the small one: %v", err)
		}
	})
}

// TestFailedOnFullDisk has builders fail while nothing is left of the disk, or of its inodes: faster than
// it is looked at, or in a store that keeps nothing free.
func TestFailedOnFullDisk(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	root := smallDisk(t, 64<<20)
	s := openWith(t, Options{Root: root, KeepFree: -1})
	fill := "dd if=/dev/zero of=x bs=1M count=128"
	for name, tt := range map[string]struct {
		script string
		kind   store.BuildFailure
		code   int
		want   string // in the message
	}{
		"bytes":            {fill, store.FailedDiskFull, 1, "exit code 1, and the disk of " + root + " was full: 0 B free; its last lines were:\n"},
		"in its output":    {"mkdir $out; cd $out; " + fill, store.FailedDiskFull, 1, "was full: 0 B free"},
		"another code":     {fill + " || exit 7", store.FailedDiskFull, 7, "exit code 7, and"},
		"killed":           {fill + " || kill -9 $$", store.FailedDiskFull, 137, "was killed by signal 9 (killed), and the disk of"},
		"files":            {"i=0; while : > $i; do i=$((i+1)); done", store.FailedDiskFull, 2, "but no room for another file"},
		"tidies up":        {fill + " || rm x; exit 3", store.FailedExit, 3, "exit code 3; its last lines"},
		"nothing to blame": {"exit 1", store.FailedExit, 1, "exit code 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "files" {
				if err := unix.Mount("", root, "", unix.MS_REMOUNT, "nr_inodes=500"); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = unix.Mount("", root, "", unix.MS_REMOUNT, "nr_inodes=100000") }()
			}
			req := (&recipe{name: "greedy", script: tt.script}).request(t, s)
			req.KeepFailed = tt.kind == store.FailedDiskFull
			_, err := s.Build(t.Context(), req)
			var failed *store.BuildError
			if !errors.As(err, &failed) || failed.Failure != tt.kind || failed.ExitCode != tt.code || !strings.Contains(failed.Message, tt.want) {
				t.Fatalf("got %v", err)
			}
			if failed.KeptIn != "" {
				t.Errorf("what filled the disk was kept in %s", failed.KeptIn)
			}
			wantClean(t, s)
		})
	}
	t.Run("by others", func(t *testing.T) {
		stop := scratch(t)
		if err := os.Chmod(stop, 0o755); err != nil {
			t.Fatal(err)
		}
		fillAndStop := func() {
			err := os.WriteFile(filepath.Join(root, "others"), make([]byte, 128<<20), 0o600)
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("fill the disk: %v", err)
			}
			if err := os.WriteFile(filepath.Join(stop, "now"), nil, 0o600); err != nil {
				t.Error(err)
			}
		}
		req := (&recipe{name: "victim", script: "echo begun; while [ ! -e /stop/now ]; do sleep 0.05; done; exit 1"}).request(t, s)
		req.SandboxPaths = append(req.SandboxPaths, "/stop="+stop)
		req.Log = onWrite(fillAndStop)
		_, err := s.Build(t.Context(), req)
		var failed *store.BuildError
		if !errors.Is(err, unix.ENOSPC) || errors.As(err, &failed) || !strings.Contains(err.Error(), "the disk of "+root+" is full: no space left on device (0 B free); the builder failed with exit code 1; its last lines were:\nbegun") {
			t.Errorf("got %v", err)
		}
	})
}

// onWrite is called when something is written.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// TestNoRoomToBegin has a disk with less free than is to be kept.
func TestNoRoomToBegin(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "any", script: "echo > $out"}
	req := r.request(t, s)
	s.disk.keepFree = 1 << 60
	if _, err := s.Build(t.Context(), req); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "are kept free") {
		t.Errorf("got %v", err)
	}
	wantClean(t, s)
}

// TestImportKeepsRoom imports what there is no room for: one file whose size tells, and
// many small ones.
func TestImportKeepsRoom(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	from := openTestStore(t)
	data := bytes.Repeat([]byte("data"), 1<<18)
	large := func(w *nar.Writer) {
		_ = w.WriteHeader(&nar.Header{Kind: nar.Regular, Size: 3 << 30})
		_, _ = w.Write(data) // the rest never comes
	}
	small := func(w *nar.Writer) {
		_ = w.WriteHeader(&nar.Header{Kind: nar.Directory})
		for i := range 1 << 10 {
			_ = w.WriteHeader(&nar.Header{Path: fmt.Sprintf("%08d", i), Kind: nar.Regular, Size: 1 << 14})
			_, _ = w.Write(data[:1<<14])
		}
	}
	to := openWith(t, Options{Root: smallDisk(t, 16<<20), ACL: testACL, KeepFree: 8 << 20})
	for name, write := range map[string]func(*nar.Writer){"large": large, "small": small} {
		var archive bytes.Buffer
		w := nar.NewWriter(&archive)
		write(w)
		_ = w.Close()
		before, err := to.disk.space()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.AddNAR(t.Context(), name, bytes.NewReader(archive.Bytes())); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no room for") {
			t.Errorf("%s: AddNAR: got %v", name, err)
		}
		if name == "small" { // an item that is exported has to be whole
			item, err := from.AddNAR(t.Context(), name, bytes.NewReader(archive.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			r, w := io.Pipe()
			go func() { w.CloseWithError(from.Export(t.Context(), w, []store.Path{item})) }()
			if _, err := to.Import(t.Context(), r, store.ImportOptions{}); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("Import: got %v", err)
			}
			r.Close()
		}
		if after, err := to.disk.space(); err != nil || after.free < before.free-1<<20 {
			t.Errorf("%s: %d bytes are free instead of %d: %v", name, after.free, before.free, err)
		}
		wantClean(t, to)
	}
}
