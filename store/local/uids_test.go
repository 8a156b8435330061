package local

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
)

// TestUserPool has two processes' pools, one after another out of the same folder.
func TestUserPool(t *testing.T) {
	folder := t.TempDir()
	var one, two userPool
	take := func(p *userPool) uint32 {
		t.Helper()
		uid, err := p.take(folder, 4_000_000_000)
		if err != nil {
			t.Fatal(err)
		}
		return uid
	}
	a, b, c := take(&one), take(&two), take(&one)
	if a == b || b == c || a == c {
		t.Errorf("users %d, %d and %d", a, b, c)
	}
	one.giveBack(a)
	if got := take(&one); got != a {
		t.Errorf("user %d, want %d again", got, a)
	}
	if err := one.close(); err != nil {
		t.Fatal(err)
	}
	if got := take(&two); got != a {
		t.Errorf("user %d, want %d of a process that ended", got, a)
	}
	if uid, err := new(userPool).take(folder, 0); err != nil || uid == 0 {
		t.Errorf("user %d, who is root or was refused: %v", uid, err)
	}
	if err := two.close(); err != nil {
		t.Fatal(err)
	}
}

// TestUsersOfBuilds has two builds run at once where this process is root: outside they are
// different users, though both are the same inside.
func TestUsersOfBuilds(t *testing.T) {
	needBuilds(t)
	testkit.NeedRoot(t)
	testkit.CheckLeaks(t)
	s := openTestStore(t)
	folder := scratch(t)
	fifo := folder + "/fifo"
	if err := errors.Join(unix.Mkfifo(fifo, 0o666), os.Chmod(fifo, 0o666), os.Chmod(folder, 0o755)); err != nil {
		t.Fatal(err)
	}
	// Opened for reading too, it opens even if nobody is there.
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	type user struct{ inside, outside string }
	users := make(chan user, 2)
	over := make(chan error, 2)
	for _, name := range []string{"one", "two"} {
		r := &recipe{name: name, script: `me=$(id -u); result=$out; while read in outside n; do [ $in = $me ] && echo user $in $outside; done < /proc/self/uid_map; read line < /fifo/fifo; echo hi > $result`}
		req := r.request(t, s)
		req.SandboxPaths = append(req.SandboxPaths, "/fifo="+folder)
		req.Log = logFunc(func(text string) {
			var u user
			if n, _ := fmt.Sscanf(text, "user %s %s", &u.inside, &u.outside); n == 2 {
				users <- u
			}
		})
		go func() {
			_, err := s.Build(t.Context(), req)
			over <- err
		}()
	}
	var seen [2]user
	for i := range seen {
		select {
		case seen[i] = <-users:
		case err := <-over:
			t.Fatalf("a build ended: %v", err)
		}
	}
	if a, b := seen[0], seen[1]; a.inside != b.inside || a.outside == b.outside || a.outside == "0" || b.outside == "0" {
		t.Errorf("builds run as %+v", seen)
	}
	for range seen {
		if _, err := f.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
	}
	for range seen {
		if err := <-over; err != nil {
			t.Error(err)
		}
	}
	wantClean(t, s)
}
