package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestCommandLine(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	for _, tt := range []struct {
		args string
		want int
		text string // in what is printed
	}{
		{"", exitOK, "commands:"},
		{"help", exitOK, "exit status:"},
		{"--help", exitOK, "exit status:"},
		{"serve --help", exitOK, "exit status:"},
		{"version", exitOK, "protocol 1"},
		{"dance", exitUsage, `unknown command "dance"`},
		{"--dance", exitUsage, "--dance"},
		{"start now", exitUsage, `unexpected argument "now"`},
		{"authorize", exitUsage, "which FILE"},
		{"authorize /does/not/exist --state " + state + " --socket " + state + "/s", exitFail, "/does/not/exist"},
		{"serve --log-level loud --state " + state, exitUsage, "loud"},
		{"serve --store nix --socket " + state + "/s --state " + state, exitUsage, "nix"},
		{"serve --store-directory gnu --socket " + state + "/s --state " + state, exitUsage, "gnu"},
		{"start --socket /" + strings.Repeat("x", 107), exitFail, "108 bytes"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var out bytes.Buffer
			got := run(t.Context(), strings.Fields(tt.args), stdio{strings.NewReader(""), &out, &out})
			if got != tt.want || !strings.Contains(out.String(), tt.text) {
				t.Errorf("got %d: %s; want %d and %q", got, out.String(), tt.want, tt.text)
			}
		})
	}
}

func TestMakePrivate(t *testing.T) {
	dir := t.TempDir()
	fresh, open, link, file := filepath.Join(dir, "fresh"), filepath.Join(dir, "open"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, want string }{
		{fresh, ""},
		{fresh, ""},
		{open, "mode 0755"},
		{link, "no folder"},
		{file, "no folder"},
		{filepath.Join(dir, "no", "parent"), "no such file"},
	} {
		err := makePrivate(tt.name)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if os.Getuid() == 0 {
		theirs := filepath.Join(dir, "theirs")
		if err := os.Mkdir(theirs, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(theirs, 1234, 1234); err != nil {
			t.Fatal(err)
		}
		if err := makePrivate(theirs); err == nil || !strings.Contains(err.Error(), "another user") {
			t.Errorf("a folder of another user: %v", err)
		}
	}
}

func TestPlace(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_DATA_HOME", "")
	a, b := defaultSocket("/a"), defaultSocket("/b")
	if a == b || a != defaultSocket("/a") || len(a) > maxSocketName {
		t.Errorf("sockets %s and %s", a, b)
	}
	for name, want := range map[string]string{"~/x": home + "/x", "/x/../y": "/y"} {
		if got, err := absolute(name, nil); err != nil || got != want {
			t.Errorf("absolute(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
	if name := nodeName(); strings.ContainsAny(name, "/. ") || name == "" {
		t.Errorf("node %q", name)
	}
}

func TestOwnKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "signing-key")
	keys := make(chan string, 8)
	for range cap(keys) {
		go func() {
			key, err := ownKey(file)
			if err != nil {
				t.Error(err)
				keys <- ""
				return
			}
			keys <- key.Public().String()
		}()
	}
	first := <-keys
	for range cap(keys) - 1 {
		if key := <-keys; key != first {
			t.Error("several keys were made")
		}
	}
}

// TestLock has many take a lock whose file each removes.
func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				unlock, err := lock(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				runtime.Gosched()
				inside.Add(-1)
				unlock()
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock's file is left: %v", err)
	}
}
