package nar

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"lighter/store"
)

// tempDir is like t.TempDir but can be cleaned up whatever modes are in it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		names, _ := os.ReadDir(dir)
		for _, n := range names {
			if err := RemoveAll(filepath.Join(dir, n.Name())); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
	})
	return dir
}

func packed(t testing.TB, path string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Pack(&b, path); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// checkCanonical checks modes and times of a tree.
func checkCanonical(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Mtim.Sec != 1 || st.Mtim.Nsec != 0 {
			t.Errorf("%q: time %d.%d, want 1", path, st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch mode := st.Mode & 0o7777; st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if mode != 0o555 {
				t.Errorf("%q: mode %o, want 0555", path, mode)
			}
		case unix.S_IFREG:
			if mode != 0o555 && mode != 0o444 {
				t.Errorf("%q: mode %o, want 0444 or 0555", path, mode)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnpackAndPack(t *testing.T) {
	for name, input := range map[string][]byte{
		"tree":      treeNAR(t),
		"odd names": readTestdata(t, "odd-names.nar"),
		"file":      []byte(archive(file("hello"))),
		"symlink":   []byte(archive(symlink("nowhere"))),
		"folder":    []byte(archive(folder())),
		"deep":      deepNAR(1023),
	} {
		t.Run(name, func(t *testing.T) {
			masks := []int{0o022, 0o077, 0}
			if name == "deep" {
				masks = masks[:1]
			}
			for _, mask := range masks {
				old := syscall.Umask(mask)
				defer syscall.Umask(old)
				target := filepath.Join(tempDir(t), "target")
				if err := Unpack(iotest.HalfReader(bytes.NewReader(input)), target); err != nil {
					t.Fatal(err)
				}
				syscall.Umask(old)
				if name != "deep" {
					checkCanonical(t, target)
				}
				if !bytes.Equal(packed(t, target), input) {
					t.Error("packed again, it is different")
				}
				hash, size, err := Hash(target)
				var want Hasher
				want.Write(input)
				if err != nil || hash != want.Sum() || size != int64(len(input)) {
					t.Errorf("Hash: got %v, %d, %v; want %v, %d", hash, size, err, want.Sum(), len(input))
				}
				if err := RemoveAll(target); err != nil {
					t.Fatal(err)
				}
				if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("after RemoveAll: %v", err)
				}
			}
		})
	}
}

// deepNAR is the NAR of n folders in one another and a file in the last.
func deepNAR(n int) []byte {
	node := file("deep")
	for range n {
		node = folder(entry("d", node))
	}
	return []byte(archive(node))
}

func TestUnpackRefusesWhatIsThere(t *testing.T) {
	dir := tempDir(t)
	outside := filepath.Join(dir, "outside")
	for _, tc := range []struct {
		name string
		make func(target string) error
	}{
		{"file", func(target string) error { return os.WriteFile(target, []byte("mine"), 0o644) }},
		{"folder", func(target string) error { return os.Mkdir(target, 0o755) }},
		{"symlink", func(target string) error { return os.Symlink(dir, target) }},
		{"dangling symlink", func(target string) error { return os.Symlink(outside, target) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			target := filepath.Join(dir, tc.name)
			if err := tc.make(target); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(target)
			for _, node := range []string{file("x"), folder(entry("x", file(""))), symlink("x")} {
				if err := Unpack(strings.NewReader(archive(node)), target); !errors.Is(err, fs.ErrExist) {
					t.Errorf("got %v, want fs.ErrExist", err)
				}
				after, err := os.Lstat(target)
				if err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
					t.Errorf("it was changed: %v, %v", after, err)
				}
			}
		})
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a dangling symlink was followed")
	}
	if err := Unpack(strings.NewReader(archive(file(""))), filepath.Join(dir, "missing", "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: got %v, want fs.ErrNotExist", err)
	}
	for _, bad := range []string{"", ".", "..", "/", dir + "/.."} {
		if err := Unpack(strings.NewReader(archive(file(""))), bad); err == nil {
			t.Errorf("target %q was accepted", bad)
		}
	}
}

// TestUnpackLeavesNothing cuts a NAR at every length: whatever was made is gone.
func TestUnpackLeavesNothing(t *testing.T) {
	input := archive(folder(
		entry("a", folder(entry("x", file("contents")), entry("y", symlink("/")))),
		entry("b", encode("(", "type", "regular", "executable", "", "contents", "b", ")")),
	))
	dir := tempDir(t)
	target := filepath.Join(dir, "target")
	for n := range input {
		if err := Unpack(strings.NewReader(input[:n]), target); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes: got %v, want io.ErrUnexpectedEOF", n, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Fatalf("%d bytes: left behind: %v, %v", n, names, err)
		}
	}
}

// TestUnpackStaysInside unpacks NARs that try to write through symlinks and dots.
func TestUnpackStaysInside(t *testing.T) {
	for name, node := range map[string]string{
		"through a symlink":  folder(entry("a", symlink("..")), entry("a", folder(entry("evil", file("x"))))),
		"slash":              folder(entry("../evil", file("x"))),
		"dot dot":            folder(entry("..", folder(entry("evil", file("x"))))),
		"absolute":           folder(entry("/tmp/evil", file("x"))),
		"symlink, then file": folder(entry("a", symlink("../evil")), entry("a", file("x"))),
		"NUL":                folder(entry("a", symlink("..")), entry("a\x00", file("x"))),
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			err := Unpack(strings.NewReader(archive(node)), filepath.Join(dir, "target"))
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("got %v, want store.ErrCorrupt", err)
			}
			if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
				t.Errorf("left behind: %v, %v", names, err)
			}
		})
	}
}

func TestPackHere(t *testing.T) {
	dir := tempDir(t)
	for _, step := range []error{
		os.Mkdir(filepath.Join(dir, "a"), 0o755),
		os.WriteFile(filepath.Join(dir, "a", "x"), []byte("x"), 0o644),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	want := archive(folder(entry("x", file("x"))))
	t.Chdir(filepath.Join(dir, "a"))
	for _, path := range []string{".", "./", "../a", filepath.Join(dir, "a") + "/"} {
		if diff := cmp.Diff(want, string(packed(t, path))); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if diff := cmp.Diff(archive(folder(entry("a", folder(entry("x", file("x")))))), string(packed(t, ".."))); diff != "" {
		t.Errorf("..: %s", diff)
	}
}

func TestPackRefuses(t *testing.T) {
	dir := tempDir(t)
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// The name of a socket has at most 107 bytes.
	t.Chdir(dir)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "socket"}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		fifo:        "a named pipe can't be in a store",
		socket:      "a socket can't be in a store",
		"/dev/null": "a device can't be in a store",
		dir:         "a named pipe can't be in a store",
	} {
		var unsupported *UnsupportedError
		if err := Pack(io.Discard, path); !errors.As(err, &unsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("Pack %s: got %v, want %q", path, err, want)
		}
		if path == "/dev/null" {
			continue
		}
		if err := Canonicalize(t.Context(), path, CanonicalizeOptions{}); !errors.As(err, &unsupported) {
			t.Errorf("Canonicalize %s: got %v, want an UnsupportedError", path, err)
		}
	}
	if err := Pack(io.Discard, filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: got %v, want fs.ErrNotExist", err)
	}
}

// TestPackNoticesChanges lets Pack expect another size than the file has.
func TestPackNoticesChanges(t *testing.T) {
	dir := tempDir(t)
	for _, size := range []int{0, 1, 4096, packBuffer - 100, packBuffer, packBuffer + 1, 3 * packBuffer} {
		path := filepath.Join(dir, fmt.Sprint(size))
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			expected int
			want     string
		}{
			{size, ""},
			{size - 1, "grew"},
			{size / 2, "grew"},
			{size + 1, "shrank"},
			{2*size + packBuffer, "shrank"},
		} {
			if tc.expected < 0 || (tc.expected == size && tc.want != "") {
				continue
			}
			err := packExpecting(dir, path, int64(tc.expected))
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%d bytes, %d expected: got %v, want %q", size, tc.expected, err, tc.want)
			}
		}
	}
}

func packExpecting(dir, path string, size int64) error {
	d, base, err := openParent(path)
	if err != nil {
		return err
	}
	defer d.close()
	fd, _, err := d.file(base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	p := new(packer)
	p.writeTo(io.Discard, &unix.Stat_t{Mode: unix.S_IFDIR})
	if err := p.contents(d, base, fd, &Header{Kind: Regular, Size: size}); err != nil {
		return err
	}
	return p.nar.Close()
}

func TestPackFailsWithItsSink(t *testing.T) {
	dir := tempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Pack(&limitedWriter{left: 300_000}, dir); !errors.Is(err, errFull) {
		t.Errorf("got %v, want %v", err, errFull)
	}
}

var errFull = errors.New("full")

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return w.left, errFull
	}
	w.left -= len(p)
	return len(p), nil
}

func TestCanonicalize(t *testing.T) {
	dir := tempDir(t)
	root := filepath.Join(dir, "root")
	outside := filepath.Join(dir, "outside")
	for _, step := range []error{
		os.WriteFile(outside, []byte("x"), 0o640),
		os.MkdirAll(filepath.Join(root, "a", "closed"), 0o755),
		os.WriteFile(filepath.Join(root, "a", "plain"), []byte("x"), 0o666),
		os.WriteFile(filepath.Join(root, "a", "secret"), []byte("x"), 0o000),
		os.WriteFile(filepath.Join(root, "a", "owner"), []byte("x"), 0o700),
		os.WriteFile(filepath.Join(root, "a", "others"), []byte("x"), 0o611),
		os.WriteFile(filepath.Join(root, "a", "setuid"), []byte("x"), 0o755),
		os.Chmod(filepath.Join(root, "a", "setuid"), 0o755|fs.ModeSetuid|fs.ModeSetgid),
		os.Symlink(outside, filepath.Join(root, "link")),
		os.WriteFile(filepath.Join(root, "a", "closed", "x"), nil, 0o600),
		os.Chmod(filepath.Join(root, "a", "closed"), 0),
		os.Chmod(root, 0o777|fs.ModeSticky),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if err := Canonicalize(t.Context(), root, CanonicalizeOptions{}); err != nil {
		t.Fatal(err)
	}
	checkCanonical(t, root)
	for name, want := range map[string]fs.FileMode{"plain": 0o444, "secret": 0o444, "owner": 0o555, "others": 0o444, "setuid": 0o555} {
		info, err := os.Lstat(filepath.Join(root, "a", name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	info, err := os.Stat(outside)
	if err != nil || info.Mode() != 0o640 || info.ModTime().Unix() == 1 {
		t.Errorf("what a symlink points to was changed: %v, %v", info.Mode(), err)
	}
	before := packed(t, root)
	if err := Canonicalize(t.Context(), root, CanonicalizeOptions{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, packed(t, root)) {
		t.Error("a second time changed it")
	}
}

func TestRemoveAll(t *testing.T) {
	dir := tempDir(t)
	keep := filepath.Join(dir, "keep")
	if err := os.MkdirAll(filepath.Join(keep, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	for _, step := range []error{
		os.MkdirAll(filepath.Join(root, "a", "b"), 0o755),
		os.Symlink(keep, filepath.Join(root, "a", "link")),
		os.WriteFile(filepath.Join(root, "a", "b", "file"), nil, 0o000),
		os.WriteFile(filepath.Join(root, ".removing-1"), nil, 0o000),
		os.Mkdir(filepath.Join(root, ".removing-2"), 0o755),
		os.WriteFile(filepath.Join(root, ".removing-2", "x"), nil, 0o600),
		os.Chmod(filepath.Join(root, "a", "b"), 0),
		os.Chmod(filepath.Join(root, "a"), 0o555),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	deepen(t, root, 700)
	if err := os.Chmod(root, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(keep, "sub")); err != nil {
		t.Errorf("a symlink was followed: %v", err)
	}
	for _, missing := range []string{root, filepath.Join(root, "x"), filepath.Join(root, "x", "y")} {
		if err := RemoveAll(missing); err != nil {
			t.Errorf("missing: %v", err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(keep, link); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(link); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("a symlink was followed: %v", err)
	}
}

// deepen makes a chain of n folders with long names, beyond what a path can say.
func deepen(t *testing.T, dir string, n int) {
	t.Helper()
	fd, err := open(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := openFolder{fd: fd, name: dir}
	name := strings.Repeat("long", 10)
	for i := range n {
		err := d.mkdir(name)
		if err != nil {
			t.Fatal(err)
		}
		next, err := d.folder(name)
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if err := d.chmodSelf(0o555); err != nil {
				t.Fatal(err)
			}
		}
		d.close()
		d = next
	}
	d.close()
}

// TestAsOrdinaryUser runs the tests of trees as a user who is not root, for whom
// read-only folders are a hindrance.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the other tests have done so")
	}
	const nobody = 65534
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	dir, err := os.MkdirTemp("", "nar-nobody-") //nolint:usetesting // what t.TempDir is in is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	testdata := filepath.Join(dir, "testdata")
	if err := os.CopyFS(testdata, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	// The folder of the test's binary is closed to others, its descriptor is not.
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3", "-test.run", "UnpackAndPack|LeavesNothing|Canonicalize|RemoveAll", "-test.count=1")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Dir = dir
	cmd.Env = []string{"TMPDIR=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestHasher(t *testing.T) {
	data := make([]byte, 5*hasherBuffer+17)
	_, _ = rand.Read(data)
	for _, step := range []int{1000, hasherBuffer - 1, hasherBuffer, hasherBuffer + 1, len(data)} {
		var h Hasher
		for rest := data; len(rest) > 0; {
			n := min(step, len(rest))
			part := bytes.Clone(rest[:n])
			_, _ = h.Write(part)
			clear(part) // the Hasher must not need it any more
			rest = rest[n:]
			if len(rest)%3 == 0 {
				done := data[:len(data)-len(rest)]
				if diff := cmp.Diff(sum(done), h.Sum()); diff != "" {
					t.Fatalf("step %d, after %d bytes: %s", step, len(done), diff)
				}
			}
		}
		if h.Sum() != sum(data) || h.Size() != int64(len(data)) {
			t.Errorf("step %d: got %v of %d bytes, want %v", step, h.Sum(), h.Size(), sum(data))
		}
	}
	var empty Hasher
	if empty.Sum() != sum(nil) {
		t.Errorf("nothing: got %v, want %v", empty.Sum(), sum(nil))
	}
}

// TestBatchWriter checks that everything is written, by whomever, and that the
// first error comes back.
func TestBatchWriter(t *testing.T) {
	for _, failAt := range []int32{0, 1, 50, 100} {
		var written atomic.Int32
		broken := errors.New("broken")
		w := &batchWriter{write: func(b *batch) error {
			for _, f := range b.files {
				if f.size != len(b.data) {
					t.Errorf("%d bytes, want %d", len(b.data), f.size)
				}
				if written.Add(1) == failAt {
					return broken
				}
			}
			return nil
		}}
		b := &batch{}
		for i := range 100 {
			clear(b.extend(i))
			b.add(collectedFile{size: i})
			b, _ = w.next(b)
		}
		err := w.finish(b)
		if failAt == 0 && (err != nil || written.Load() != 100) {
			t.Errorf("%d of 100 batches were written: %v", written.Load(), err)
		}
		if failAt > 0 && !errors.Is(err, broken) {
			t.Errorf("batch %d fails: got %v, want %v", failAt, err, broken)
		}
	}
}
