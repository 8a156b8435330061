package head

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lighter/internal/disk"
	"lighter/internal/testkit"
)

// listening listens on a socket and answers each connection with a letter.
func listening(t *testing.T, name string, log *bytes.Buffer) *Socket {
	t.Helper()
	s, err := Listen(name, -1, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("x"))
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-over
	})
	return s
}

// answers says what came of asking the process that listens on a socket.
func answers(name string) error {
	conn, err := disk.DialSocket(context.Background(), name)
	if err != nil {
		return err
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("no answer: %w", err)
	}
	return nil
}

func TestSocketComesBack(t *testing.T) {
	testkit.CheckLeaks(t)
	folder := filepath.Join(t.TempDir(), "run")
	name := filepath.Join(folder, "s")
	var log bytes.Buffer
	s := listening(t, name, &log)
	for _, attack := range []struct {
		name string
		do   func() error
	}{
		{"removed", func() error { return os.Remove(name) }},
		{"removed with its folder", func() error { return os.RemoveAll(folder) }},
		{"renamed", func() error { return os.Rename(name, name+"2") }},
		{"replaced by one that nothing listens on", func() error {
			if err := os.Remove(name); err != nil {
				return err
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		}},
	} {
		if err := attack.do(); err != nil {
			t.Fatal(err)
		}
		if err := answers(name); err == nil {
			t.Errorf("%s: it answers before it was looked at", attack.name)
		}
		s.restore()
		if err := answers(name); err != nil {
			t.Errorf("%s: %v", attack.name, err)
		}
		if info, err := os.Lstat(name); err != nil || info.Mode() != fs.ModeSocket|socketMode {
			t.Errorf("%s: %v, %v", attack.name, info.Mode(), err)
		}
	}
	if got := strings.Count(log.String(), "is back"); got != 4 {
		t.Errorf("%d lines say that it is back: %s", got, log.String())
	}
	if left, err := filepath.Glob(filepath.Join(folder, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestSocketOfAnotherStays puts another's socket, and other files, in the place of one.
func TestSocketOfAnotherStays(t *testing.T) {
	testkit.CheckLeaks(t)
	name := filepath.Join(t.TempDir(), "s")
	var log, other bytes.Buffer
	s := listening(t, name, &log)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	listening(t, name, &other)
	before, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.restore()
	}
	if after, err := os.Lstat(name); err != nil || !os.SameFile(before, after) {
		t.Errorf("another's socket was replaced: %v", err)
	}
	if want := fmt.Sprintf("process %d listens on it already", os.Getpid()); strings.Count(log.String(), want) != 1 {
		t.Errorf("want once %q, got %s", want, log.String())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := answers(name); err != nil {
		t.Errorf("the end of one took another's socket away: %v", err)
	}

	file := filepath.Join(t.TempDir(), "s")
	s = listening(t, file, &log)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.restore()
	if text, err := os.ReadFile(file); err != nil || string(text) != "x" {
		t.Errorf("a file was replaced: %q, %v", text, err)
	}
}

func TestSecondListenerIsRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	var log bytes.Buffer
	listening(t, name, &log)
	if _, err := Listen(name, -1, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d listens on it already", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	if err := answers(name); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

// The folders of projects on clusters have long names.
func TestSocketWithLongName(t *testing.T) {
	name := filepath.Join(t.TempDir(), strings.Repeat("x", 120), "s")
	var log bytes.Buffer
	listening(t, name, &log)
	if err := answers(name); err != nil {
		t.Error(err)
	}
	if _, err := Listen(name, -1, nil); err == nil || !strings.Contains(err.Error(), "listens on it already") {
		t.Errorf("a second one: %v", err)
	}
}

func TestSocketGroup(t *testing.T) {
	testkit.NeedRoot(t)
	name := filepath.Join(t.TempDir(), "s")
	s, err := Listen(name, 4321, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	group := func() uint32 {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Gid
	}
	if got := group(); got != 4321 {
		t.Errorf("the group is %d", got)
	}
	if err := s.regroup(4322); err != nil || group() != 4322 {
		t.Errorf("after a change: %d, %v", group(), err)
	}
	if err := s.regroup(-1); err != nil || group() != uint32(os.Getegid()) {
		t.Errorf("back at its own: %d, %v", group(), err)
	}
}

func TestLockNamesItsOwner(t *testing.T) {
	folder := t.TempDir()
	lock, err := LockFolder(folder, "coordinator")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	_, err = LockFolder(folder, "coordinator")
	if want := fmt.Sprintf("another coordinator runs with the state folder %s (process %d)", folder, os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}
