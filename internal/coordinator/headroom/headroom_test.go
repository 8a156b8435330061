package headroom

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/store"
)

func TestLimits(t *testing.T) {
	limits := Limits{MinFreeDisk: 1 << 30, MinFreeInodes: 100, MinFreeStateDisk: 1 << 20}
	for _, tt := range []struct {
		name  string
		s     api.HeadStatus
		slack float64
		want  string
	}{
		{"room", api.HeadStatus{FreeDisk: 1 << 30, FreeInodes: 100, StateFreeDisk: 1 << 20}, 0, ""},
		{"store", api.HeadStatus{FreeDisk: 1<<30 - 1, FreeInodes: 100, StateFreeDisk: 1 << 20}, 0, "1.00 GiB free where the store is, want 1.00 GiB"},
		{"state", api.HeadStatus{FreeDisk: 1 << 30, FreeInodes: 100}, 0, "0 B free where the coordinator's state is, want 1.00 MiB"},
		{"inodes", api.HeadStatus{FreeDisk: 1 << 30, FreeInodes: 99, StateFreeDisk: 1 << 20}, 0, "99 free inodes where the store is, want 100"},
		{"slack", api.HeadStatus{FreeDisk: 2 << 30, FreeInodes: 105, StateFreeDisk: 2 << 20}, 0.1, "105 free inodes where the store is, want 110"},
		{"not known", api.HeadStatus{FreeDisk: -1, FreeInodes: -1, StateFreeDisk: -1}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := limits.lacks(&tt.s, tt.slack); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := (&Limits{}).lacks(&api.HeadStatus{}, 0); got != "" {
		t.Errorf("without limits: %q", got)
	}
}

// TestWait: who waits goes on when there is clearly more free than must be.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Limits: Limits{MinFreeDisk: 1000}})
		if err := r.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		judge := func(free int64, wantLow, wantChanged bool) {
			t.Helper()
			if low, changed := r.Judge(&api.HeadStatus{FreeDisk: free}); (low != "") != wantLow || changed != wantChanged || low != r.Low() {
				t.Errorf("%d free: got %q, %t", free, low, changed)
			}
		}
		judge(1000, false, false)
		judge(999, true, true)
		judge(1001, true, false)
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		if err := r.Wait(ctx); !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
		waited := false
		go func() { waited = r.Wait(t.Context()) == nil }()
		synctest.Wait()
		if waited {
			t.Error("it did not wait")
		}
		judge(1100, false, true)
		synctest.Wait()
		if !waited {
			t.Error("it still waits")
		}
	})
}

func TestReserve(t *testing.T) {
	free, unknown := int64(1500), error(nil)
	r := New(Options{Limits: Limits{MinFreeDisk: 1000}, Measure: func() (api.HeadStatus, error) { return api.HeadStatus{FreeDisk: free}, unknown }})
	items := func(sizes ...int64) (list []*store.Info) {
		for _, size := range sizes {
			list = append(list, &store.Info{NARSize: size})
		}
		return list
	}
	release, err := r.Reserve(items(200, 200))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reserve(items(101)); !errors.As(err, new(*headstore.Error)) || !strings.Contains(err.Error(), "101 B of 1 item to be fetched (501 B with what is on its way) do not fit on the head") {
		t.Errorf("got %v", err)
	}
	release()
	if _, err := r.Reserve(items(500)); err != nil {
		t.Error(err)
	}
	unknown = errors.New("no such disk")
	if _, err := r.Reserve(items(1000)); err != nil {
		t.Errorf("where it is not known what is free: %v", err)
	}
}

// TestWatch asks the real file system.
func TestWatch(t *testing.T) {
	for _, r := range []*Room{
		New(Options{StoreFolder: t.TempDir(), StateFolder: t.TempDir()}),
		New(Options{}),
	} {
		known := r.StoreFolder != ""
		r.Logger = slog.New(slog.DiscardHandler)
		ctx, cancel := context.WithCancel(t.Context())
		var s api.HeadStatus
		r.Watch(ctx, func(space api.HeadStatus) {
			s = space
			cancel()
		})
		if s.FreeDisk > 0 != known || s.FreeInodes >= 0 && !known || s.StateFreeDisk > 0 != known {
			t.Errorf("got %+v", s)
		}
	}
}
