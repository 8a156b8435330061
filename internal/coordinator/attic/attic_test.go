package attic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/ledger"
)

const month = 30 * 24 * 3600 // seconds

// newPruner returns one whose builds no machine and no event hook knows.
func newPruner(t *testing.T) *Pruner {
	t.Helper()
	dir := t.TempDir()
	l, err := ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	logs, err := buildlog.OpenFolder(filepath.Join(dir, "log"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{
		Ledger: l, Logs: logs, Logger: slog.New(slog.DiscardHandler), StateFolder: dir, Now: time.Now,
		KnownToMachines: func(context.Context) (builds, away map[string]bool, err error) { return nil, nil, nil },
		LogsOf:          func(b *api.Build) []buildlog.Name { return []buildlog.Name{{ID: b.ID, Attempt: b.Attempt}} },
		HooksSeen:       l.LastEvent,
		Flush:           func(context.Context) error { return nil },
	})
}

// past puts a build into the ledger that ended so many days ago, and returns its id.
func (p *Pruner) past(t *testing.T, n, days int) string {
	t.Helper()
	stopped := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
	b := &api.Build{
		Request: api.Request{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), Derivation: "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-old.drv"},
		State:   api.Succeeded, Submitted: stopped, Stopped: &stopped, Attempt: 1,
	}
	if _, err := p.Ledger.Apply(t.Context(), []ledger.Change{{Build: b, Create: true}}, true); err != nil {
		t.Fatal(err)
	}
	return b.ID
}

func (p *Pruner) inLedger(t *testing.T) (ids []string) {
	t.Helper()
	for b, err := range p.Ledger.Builds(t.Context(), ledger.Filter{OldestFirst: true}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, b.ID)
	}
	return ids
}

func TestPruneIsRefused(t *testing.T) {
	p := newPruner(t)
	old := p.past(t, 1, 100)
	var second error
	gone := errors.New("nobody answers")
	p.KnownToMachines = func(ctx context.Context) (builds, away map[string]bool, err error) {
		_, second = p.Prune(ctx, &api.Prune{OlderThan: month, DryRun: true})
		return nil, nil, gone
	}
	if _, err := p.Prune(t.Context(), &api.Prune{OlderThan: month}); !errors.Is(err, gone) {
		t.Errorf("if it is not known what machines know: %v", err)
	}
	var answer *api.Error
	if !errors.As(second, &answer) || answer.Status != http.StatusConflict || answer.Code != api.CodeConflict {
		t.Errorf("the second: %v", second)
	}
	if _, err := p.Prune(t.Context(), &api.Prune{}); !errors.As(err, &answer) || answer.Code != api.CodeBadRequest {
		t.Errorf("without a time: %v", err)
	}
	p.StateFolder = ""
	if _, err := p.Prune(t.Context(), &api.Prune{OlderThan: month}); err == nil || !strings.Contains(err.Error(), "state folder") {
		t.Errorf("without a folder: %v", err)
	}
	if got := p.inLedger(t); !slices.Equal(got, []string{old}) {
		t.Errorf("there is %v", got)
	}
}

func TestPruneWaitsForChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{})
		var release [2]func()
		for i := range release {
			var err error
			if release[i], err = p.Hold(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		alone := false
		var group sync.WaitGroup
		group.Go(func() {
			if err := p.alone(t.Context(), func() error { alone = true; return nil }); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		release[0]()
		synctest.Wait()
		if alone {
			t.Error("it did not wait for the second")
		}
		stopping := errors.New("stopping")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stopping)
		if err := p.alone(ctx, func() error { t.Error("called"); return nil }); !errors.Is(err, stopping) {
			t.Errorf("alone: %v", err)
		}
		if _, err := p.Hold(ctx); !errors.Is(err, stopping) {
			t.Errorf("hold: %v", err)
		}
		release[1]()
		group.Wait()
		if !alone {
			t.Error("it was not called")
		}
	})
}

// TestPruneInTime: attics that a crash left are finished at the start, and old builds
// go by themselves.
func TestPruneInTime(t *testing.T) {
	p := newPruner(t)
	left := testAttic(p.StateFolder)
	fillAttic(t, left, 0, 5)
	if err := left.file.Close(); err != nil {
		t.Fatal(err)
	}
	p.Run(t.Context(), 0, false)
	if got := names(t, p.StateFolder); !slices.Equal(got, []string{filepath.Base(left.name)}) {
		t.Errorf("after the start there is %v", got)
	}
	old, recent := p.past(t, 1, 31), p.past(t, 2, 29)
	log := p.Logs.File(old, 1)
	if err := errors.Join(os.MkdirAll(filepath.Dir(log), 0o700), os.WriteFile(log, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	prunes := 0
	p.HooksSeen = func() uint64 { // the end is at the second time
		if prunes++; prunes == 2 {
			cancel()
		}
		return p.Ledger.LastEvent()
	}
	p.pruneEvery(ctx, 0, 0, &api.Prune{OlderThan: month, KeepLogs: true})
	if got := p.inLedger(t); !slices.Equal(got, []string{recent}) || prunes < 2 {
		t.Errorf("after %d prunes there is %v", prunes, got)
	}
	if got := names(t, p.StateFolder); len(got) != 2 || slices.ContainsFunc(got, func(name string) bool { return strings.HasSuffix(name, partSuffix) }) {
		t.Errorf("there is %v", got)
	}
	if p.Logs.Count(old, 1) != 1 {
		t.Error("its log went")
	}
}

// TestPruneIsCutShort: what was removed is in the attic.
func TestPruneIsCutShort(t *testing.T) {
	p := newPruner(t)
	var all []string
	for n := range 300 {
		all = append(all, p.past(t, n, 90))
	}
	broken := errors.New("broken")
	batches := 0
	p.Flush = func(context.Context) error {
		if batches++; batches == 2 {
			return broken
		}
		return nil
	}
	if _, err := p.Prune(t.Context(), &api.Prune{OlderThan: month}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	files := names(t, p.StateFolder)
	if len(files) != 1 {
		t.Fatalf("there is %v", files)
	}
	moved, left := idsOf(readAttic(t, filepath.Join(p.StateFolder, folder, files[0]))), p.inLedger(t)
	if len(left) == 300 || len(left) == 0 || !slices.Equal(all[300-len(left):], left) || !slices.Equal(moved[:300-len(left)], all[:300-len(left)]) {
		t.Errorf("%d are in the attic, %d are left of 300", len(moved), len(left))
	}
}
