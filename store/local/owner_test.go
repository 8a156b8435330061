package local

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/nar"
	"lighter/store"
)

// TestTakenForDead has a process that was so slow that others have removed its claims.
func TestTakenForDead(t *testing.T) {
	s := openTestStore(t)
	item, err := s.AddText(t.Context(), "claimed", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := s.Lease(t.Context(), "test")
	if err == nil {
		err = lease.Add(t.Context(), item)
	}
	if err != nil {
		t.Fatal(err)
	}
	heartbeat, long := s.layout.lease(s.claims.owner.String()), time.Now().Add(-time.Hour)
	if err := errors.Join(os.Chtimes(heartbeat, long, long), s.claims.renew()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(heartbeat); err != nil || info.ModTime().Equal(long) {
		t.Errorf("the heartbeat was not renewed: %v, %v", info, err)
	}

	claims, err := readNames(s.layout.leases())
	if err != nil || len(claims) != 2 {
		t.Fatalf("claims %q, %v", claims, err)
	}
	for _, name := range claims {
		if err := os.Remove(filepath.Join(s.layout.leases(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(nar.RemoveAll(s.layout.tmpOf(s.claims.owner)), s.claims.renew()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.layout.tmpOf(s.claims.owner)); err != nil {
		t.Error(err)
	}
	other := openAt(t, s.Root())
	if gone, err := other.CollectGarbage(t.Context(), store.GCOptions{}); err != nil || len(gone.Deleted) > 0 {
		t.Errorf("another process has removed %v, %v", gone, err)
	}
	if err := lease.Release(); err != nil {
		t.Error(err)
	}
	if gone, err := other.CollectGarbage(t.Context(), store.GCOptions{}); err != nil || len(gone.Deleted) != 1 {
		t.Errorf("another process has removed %v, %v, want %s", gone, err, item)
	}
}

// TestSync has a caller wait for a run that has not begun: it is shared.
func TestSync(t *testing.T) {
	folder, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	y := &syncer{folder: folder}
	if err := y.sync(); err != nil {
		t.Error(err)
	}
	run := &syncRun{done: make(chan struct{}), err: errors.New("of another")}
	close(run.done)
	y.next = run
	if err := y.sync(); !errors.Is(err, run.err) {
		t.Errorf("got %v, want the error of the other's run", err)
	}
	y.next = nil
	folder.Close()
	if err := y.sync(); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v", err)
	}
}
