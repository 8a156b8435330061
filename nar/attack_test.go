package nar

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
)

// attackRounds is how many trees an attacker gets to work on.
var attackRounds = flag.Int("attack-rounds", 40, "rounds of the tests in which a tree changes meanwhile")

// attack is a tree that an attacker changes all the time, and what is outside of it, which
// must stay as it is.
type attack struct {
	dir     string
	victims map[string]string // files and folders outside, and what they looked like
}

// newAttack makes the victims: a file, a program, a folder with a file in it, and one that
// nobody may enter.
func newAttack(t *testing.T) *attack {
	t.Helper()
	a := &attack{dir: tempDir(t), victims: make(map[string]string)}
	outside := filepath.Join(a.dir, "outside")
	for _, step := range []error{
		os.MkdirAll(filepath.Join(outside, "folder"), 0o750),
		os.WriteFile(filepath.Join(outside, "file"), []byte("secret"), 0o400),
		os.WriteFile(filepath.Join(outside, "program"), []byte("secret"), 0o700),
		os.WriteFile(filepath.Join(outside, "folder", "file"), []byte("secret"), 0o600),
		os.Mkdir(filepath.Join(outside, "closed"), 0),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	for _, name := range []string{"", "file", "program", "folder", "folder/file", "closed"} {
		file := filepath.Join(outside, name)
		a.victims[file] = look(file)
	}
	return a
}

// look tells what must not change of a file.
func look(file string) string {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return err.Error()
	}
	contents, _ := os.ReadFile(file)
	return fmt.Sprintf("mode %o owner %d:%d time %d.%d links %d contents %q", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink, contents)
}

func (a *attack) check(t *testing.T, round int) {
	t.Helper()
	for file, want := range a.victims {
		if got := look(file); got != want {
			t.Fatalf("round %d: %s was changed:\ngot  %s\nwant %s", round, file, got, want)
		}
	}
}

// tree makes a tree in which each name that is to be swapped has its counterpart beside
// it, and returns its path and the pairs of names.
func (a *attack) tree(t *testing.T, round int) (tree string, pairs [][2]string) {
	t.Helper()
	tree = filepath.Join(a.dir, fmt.Sprint("tree", round))
	outside := filepath.Join(a.dir, "outside")
	var n int
	var inside string
	pair := func(make func(name string) error, target string) {
		n++
		good, bad := filepath.Join(inside, fmt.Sprint(n)), filepath.Join(inside, fmt.Sprint(n, "-evil"))
		if err := errors.Join(make(good), os.Symlink(target, bad)); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, [2]string{good, bad})
	}
	file := func(mode fs.FileMode) func(string) error {
		return func(name string) error { return os.WriteFile(name, []byte("mine"), mode) }
	}
	dir := func(mode fs.FileMode) func(string) error {
		return func(name string) error {
			return errors.Join(os.Mkdir(name, 0o755), os.WriteFile(filepath.Join(name, "file"), []byte("mine"), 0o600), os.Chmod(name, mode))
		}
	}
	for _, half := range []string{"a", "b"} {
		inside = filepath.Join(tree, half)
		if err := os.MkdirAll(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		pair(file(0o600), filepath.Join(outside, "file"))
		pair(file(0o755), filepath.Join(outside, "program"))
		pair(file(0), filepath.Join(outside, "folder", "file"))
		pair(dir(0o755), filepath.Join(outside, "folder"))
		pair(dir(0), filepath.Join(outside, "folder"))
		pair(dir(0o500), filepath.Join(outside, "closed"))
		pair(func(name string) error { return unix.Mkfifo(name, 0o600) }, filepath.Join(outside, "file"))
	}
	return tree, pairs
}

// swap exchanges the pairs until stop.
func swap(pairs [][2]string, stop *atomic.Bool) {
	for !stop.Load() {
		for _, p := range pairs {
			_ = unix.Renameat2(unix.AT_FDCWD, p[0], unix.AT_FDCWD, p[1], unix.RENAME_EXCHANGE)
		}
	}
}

// run has work done on one tree after the other while they are changed. What becomes of
// the trees is of no interest.
func (a *attack) run(t *testing.T, work func(tree string) error) {
	t.Helper()
	for round := range *attackRounds {
		tree, pairs := a.tree(t, round)
		var stop atomic.Bool
		var attackers sync.WaitGroup
		for i := range 2 {
			attackers.Go(func() { swap(pairs[i*len(pairs)/2:(i+1)*len(pairs)/2], &stop) })
		}
		err := work(tree) // that it fails is as good
		stop.Store(true)
		attackers.Wait()
		if err := RemoveAll(tree); err != nil {
			t.Fatal(err)
		}
		if errors.Is(err, errSecret) {
			t.Fatalf("round %d: %v", round, err)
		}
		a.check(t, round)
	}
}

// TestAttackedTrees has every function that works on a tree work on trees in which
// an attacker swaps files and folders for symlinks to what is outside.
func TestAttackedTrees(t *testing.T) {
	for name, work := range map[string]func(tree string) error{
		"canonicalize": func(tree string) error { return Canonicalize(t.Context(), tree, CanonicalizeOptions{}) },
		"take over": func(tree string) error {
			o := &Owner{UID: os.Geteuid(), GID: os.Getegid()}
			if os.Geteuid() == 0 {
				o = &Owner{UID: 54321, GID: 54321}
			}
			return Canonicalize(t.Context(), tree, CanonicalizeOptions{Owner: o})
		},
		"canonicalize on an old kernel": oldChmod,
		"remove":                        RemoveAll,
		"pack": func(tree string) error {
			var b bytes.Buffer
			return errors.Join(Pack(&b, tree), secretIn(b.Bytes()))
		},
		"copy": func(tree string) error {
			to := tree + "-copy"
			if err := Copy(t.Context(), tree, to, CopyOptions{}); err != nil {
				return errors.Join(ifSecret(err), gone(to))
			}
			var b bytes.Buffer
			return errors.Join(Pack(&b, to), secretIn(b.Bytes()), RemoveAll(to))
		},
	} {
		t.Run(name, func(t *testing.T) { newAttack(t).run(t, work) })
	}
}

// errSecret is the error of work that has read what is outside, or left something.
var errSecret = errors.New("this must not be")

func secretIn(b []byte) error {
	if bytes.Contains(b, []byte("secret")) {
		return fmt.Errorf("what is outside was read: %w", errSecret)
	}
	return nil
}

func ifSecret(err error) error {
	if errors.Is(err, errSecret) {
		return err
	}
	return nil
}

func gone(file string) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s was left: %w", file, errSecret)
	}
	return nil
}

// oldChmod changes the modes of a tree as on a kernel that has no fchmodat2.
func oldChmod(tree string) error {
	d, _, err := openParent(filepath.Join(tree, "a", "x"))
	if err != nil {
		return err
	}
	defer d.close()
	names, err := d.names()
	for _, name := range names {
		err = errors.Join(err, d.chmodHeld(name, modeFile))
	}
	return err
}

// TestAttackedTreesOfOrdinaryUser is the same for who is not root, and so may not enter
// each folder.
func TestAttackedTreesOfOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is one")
	}
	dir := tempDir(t)
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o1777)); err != nil {
		t.Fatal(err)
	}
	// The test program is where others may not go.
	program := filepath.Join(dir, "test")
	text, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestAttackedTrees$", fmt.Sprint("-attack-rounds=", *attackRounds))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestChmodOfSymlink has both ways to change a mode meet a symlink.
func TestChmodOfSymlink(t *testing.T) {
	dir := tempDir(t)
	victim := filepath.Join(dir, "victim")
	if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Symlink(victim, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	d, _, err := openParent(victim)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for name, chmod := range map[string]func(string, uint32) error{"new": d.chmod, "old": d.chmodHeld} {
		if err := chmod("link", 0o444); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s kernel: got %v, want ELOOP", name, err)
		}
		if err := chmod("victim", 0o640); err != nil {
			t.Errorf("%s kernel: %v", name, err)
		}
		if info, err := os.Stat(victim); err != nil || info.Mode() != 0o640 {
			t.Errorf("%s kernel: %v, %v", name, info.Mode(), err)
		}
		if err := os.Chmod(victim, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPackOfWhatIsNoFileAnyMore has a pipe, a folder and a symlink where a file was seen.
func TestPackOfWhatIsNoFileAnyMore(t *testing.T) {
	dir := tempDir(t)
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Mkdir(filepath.Join(dir, "folder"), 0o755), os.Symlink(file, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	d, _, err := openParent(file)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	st, err := d.stat("file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fifo", "folder", "link"} {
		p := new(packer)
		p.writeTo(io.Discard, st)
		err := p.node(d, name, "", st)
		var kind *UnsupportedError
		if !errors.As(err, &kind) && !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestMountedOver has a folder of the tree hidden by what is mounted over it.
func TestMountedOver(t *testing.T) {
	testkit.NeedRoot(t)
	dir := tempDir(t)
	victim, tree := filepath.Join(dir, "victim"), filepath.Join(dir, "tree")
	point := filepath.Join(tree, "folder")
	if err := errors.Join(os.Mkdir(victim, 0o750), os.WriteFile(filepath.Join(victim, "file"), nil, 0o600), os.MkdirAll(point, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(victim, point, "", unix.MS_BIND, ""); err != nil {
		testkit.Missing(t, fmt.Errorf("mount: %w", err)) // in a container
	}
	want := look(filepath.Join(victim, "file"))
	canonicalizeErr := Canonicalize(t.Context(), tree, CanonicalizeOptions{})
	removeErr := RemoveAll(tree)
	if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(canonicalizeErr, unix.EXDEV) || removeErr == nil {
		t.Errorf("got %v and %v, want errors", canonicalizeErr, removeErr)
	}
	if got := look(filepath.Join(victim, "file")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBudget(t *testing.T) {
	dir := tempDir(t)
	tree := filepath.Join(dir, "tree")
	if err := errors.Join(os.Mkdir(tree, 0o755), os.WriteFile(filepath.Join(tree, "a"), []byte("12345"), 0o600), os.WriteFile(filepath.Join(tree, "sparse"), nil, 0o600), os.Truncate(filepath.Join(tree, "sparse"), 1<<40), os.Symlink("a", filepath.Join(tree, "z"))); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		budget *Budget
		want   string
	}{
		{&Budget{Nodes: 4, Bytes: 1<<40 + 5}, ""},
		{&Budget{Nodes: 2, Bytes: 1 << 50}, "too many files"},
		{&Budget{Nodes: 4, Bytes: 1 << 40}, "too many bytes"},
		{&Budget{Nodes: 4, Bytes: 4}, "too many bytes"},
		{nil, ""},
	} {
		again := tc.budget
		if again != nil {
			again = &Budget{Nodes: again.Nodes, Bytes: again.Bytes}
		}
		err := Canonicalize(t.Context(), tree, CanonicalizeOptions{Budget: again})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Canonicalize with %+v: got %v, want %q", tc.budget, err, tc.want)
		}
		if tc.want == "" {
			continue // a copy would take a long time
		}
		err = Copy(t.Context(), tree, filepath.Join(dir, "copy"), CopyOptions{Budget: tc.budget, Room: func(n int64) error {
			if n > 1<<30 {
				return fmt.Errorf("%d bytes: too many bytes", n)
			}
			return nil
		}})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Copy with %+v: got %v, want %q", tc.budget, err, tc.want)
		}
	}
}

// TestCopyIsCanceled copies a file that would take minutes.
func TestCopyIsCanceled(t *testing.T) {
	dir := tempDir(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	asked := 0
	if err := os.WriteFile(filepath.Join(dir, "sparse"), []byte("no hole"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "sparse"), 1<<40); err != nil {
		t.Fatal(err)
	}
	err := Copy(ctx, filepath.Join(dir, "sparse"), filepath.Join(dir, "copy"), CopyOptions{Room: func(n int64) error {
		asked++
		cancel(errFull)
		if n > askAgain {
			t.Errorf("it wants %d bytes", n)
		}
		return nil
	}})
	if !errors.Is(err, errFull) || asked != 1 {
		t.Errorf("got %v after it asked %d times", err, asked)
	}
	if err := gone(filepath.Join(dir, "copy")); err != nil {
		t.Error(err)
	}
}

// TestCopy copies a tree with all that Canonicalize would mend.
func TestCopy(t *testing.T) {
	dir := tempDir(t)
	tree := filepath.Join(dir, "tree")
	for _, step := range []error{
		os.MkdirAll(filepath.Join(tree, "closed"), 0o755),
		os.WriteFile(filepath.Join(tree, "closed", "secret"), []byte("x"), 0o000),
		os.WriteFile(filepath.Join(tree, "run"), []byte("x"), 0o100),
		os.WriteFile(filepath.Join(tree, "setuid"), []byte("x"), 0o755),
		os.Chmod(filepath.Join(tree, "setuid"), 0o755|fs.ModeSetuid),
		os.Symlink("nowhere", filepath.Join(tree, "link")),
		os.WriteFile(filepath.Join(tree, "holes"), holes(5<<20+3, 1<<20), 0o644),
		os.WriteFile(filepath.Join(tree, "hole at the end"), holes(3<<20, 1), 0o644),
		os.WriteFile(filepath.Join(tree, "all hole"), make([]byte, 2<<20+1), 0o644),
		os.Chmod(filepath.Join(tree, "closed"), 0),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	to := filepath.Join(dir, "copy")
	if err := Copy(t.Context(), tree, to, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	checkCanonical(t, to)
	if err := Canonicalize(t.Context(), tree, CanonicalizeOptions{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(packed(t, tree), packed(t, to)) {
		t.Error("the copy has other contents")
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(to, "all hole"), &st); err != nil || st.Blocks*512 >= 2<<20 {
		t.Errorf("zeros take %d bytes on the disk: %v", st.Blocks*512, err)
	}
}

// holes is contents with nothing but zeros, but for every n-th byte.
func holes(size, at int) []byte {
	b := make([]byte, size)
	for i := at - 1; i < min(size, 4*at); i += at {
		b[i] = 'x'
	}
	return b
}
