package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
)

// TestHidden tries the ways to a folder that no build may see.
func TestHidden(t *testing.T) {
	dir := t.TempDir()
	state, other, bound := filepath.Join(dir, "state"), filepath.Join(dir, "other"), filepath.Join(dir, "bound")
	for _, folder := range []string{filepath.Join(state, "deep"), other, filepath.Join(bound, "sub"), filepath.Join(dir, "states")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	key, host := filepath.Join(state, "deep", "key"), filepath.Join(other, "host-key")
	for _, file := range []string{key, host, filepath.Join(other, "file")} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(state, link); err != nil {
		t.Fatal(err)
	}
	s := openTestStore(t)
	s.opts.Hidden = []string{link, host, filepath.Join(dir, "later", "socket")}
	cases := map[string]bool{
		state: true, filepath.Join(state, "deep"): true, key: true, link: true, filepath.Join(link, "deep"): true, dir: true, "/": true,
		other: true, host: true, filepath.Join(other, "file"): false, filepath.Join(dir, "states"): false, bound: false,
		filepath.Join(other, "..", "state"): true, "/proc/self/root" + state: true,
		s.layout.root: true, filepath.Join(s.layout.root, "builds"): true, "/bin": false,
	}
	if os.Getuid() == 0 {
		for at, what := range map[string]string{bound: state, filepath.Join(bound, "sub"): "", filepath.Join(dir, "states"): filepath.Join(state, "deep")} {
			if what == "" {
				continue
			}
			if err := unix.Mount(what, at, "", unix.MS_BIND, ""); err != nil {
				t.Logf("no bind mounts here: %v", err)
				continue
			}
			t.Cleanup(func() {
				if err := unix.Unmount(at, 0); err != nil {
					t.Error(err)
				}
			})
			cases[at] = true
		}
	}
	for name, hidden := range cases {
		err := s.CheckSandboxPath(name)
		if refused := err != nil && strings.Contains(err.Error(), "the agent's own"); refused != hidden {
			t.Errorf("%s: %v, want refused %v", name, err, hidden)
		}
	}
	if err := s.CheckSandboxPath(filepath.Join(dir, "later")); err == nil {
		t.Error("what is not there can be seen")
	}
	if err := os.Mkdir(filepath.Join(dir, "later"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckSandboxPath(filepath.Join(dir, "later")); err == nil {
		t.Error("the folder of a socket that is not there yet can be seen")
	}
}

// TestSandboxPathSwapped puts a link into the place of a folder while builds that may see
// the folder start.
func TestSandboxPathSwapped(t *testing.T) {
	needBuilds(t)
	testkit.CheckLeaks(t)
	dir := t.TempDir()
	shown, link, secret := filepath.Join(dir, "shown"), filepath.Join(dir, "swap"), filepath.Join(dir, "secret")
	for name, text := range map[string]string{shown: "open", secret: "secret"} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(name, "text"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	s := openTestStore(t)
	s.opts.Hidden = []string{secret}
	over, swapped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-over:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, shown, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	built := 0
	for i := range 60 {
		r := &recipe{name: fmt.Sprintf("swapped-%d", i), script: "cat /shown/text > $out"}
		req := r.request(t, s)
		req.SandboxPaths = append(req.SandboxPaths, "/shown="+shown)
		if _, err := s.Build(t.Context(), req); err != nil {
			continue // it was noticed
		}
		built++
		if text := contents(t, s, r.out("out"), ""); text != "open" {
			t.Errorf("a build has seen %q", text)
			break
		}
	}
	close(over)
	<-swapped
	t.Logf("%d of 60 were built", built)
}
