// Package headroom keeps room on the head's disks: it measures them, says when less is free than
// must be, and lets nothing be fetched then, nor anything that would not fit.
package headroom

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"lighter/internal/api"
	"lighter/internal/backoff"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/disk"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/store"
)

// Limits are what must be free on the head's disks for builds to be started and outputs to be
// fetched; 0 is no limit.
type Limits struct {
	MinFreeDisk      int64 // bytes, where the store is
	MinFreeInodes    int64 // where the store is
	MinFreeStateDisk int64 // bytes, where ledger and logs are
}

// Options are what a Room works with.
type Options struct {
	Limits Limits
	// StoreFolder and StateFolder are folders on the disks: that of the store, and that of
	// ledger and logs. Empty ones are not measured.
	StoreFolder, StateFolder string
	// Measure measures the disks; unknown figures are negative. nil asks the file systems.
	Measure func() (api.HeadStatus, error)
	Logger  *slog.Logger
}

// Room is the room on the head's disks. Any goroutine may call its methods.
type Room struct {
	Options
	coming atomic.Int64 // NAR bytes that are being fetched

	mu     sync.Mutex
	low    string
	opened chan struct{} // closed while nothing is low
}

// New returns a Room in which nothing is low yet.
func New(opts Options) *Room {
	r := &Room{Options: opts, opened: make(chan struct{})}
	if r.Measure == nil {
		r.Measure = r.ask
	}
	close(r.opened)
	return r
}

// ask asks the file systems.
func (r *Room) ask() (api.HeadStatus, error) {
	s := api.HeadStatus{FreeDisk: -1, FreeInodes: -1, StateFreeDisk: -1}
	if r.StoreFolder != "" {
		space, err := disk.Free(r.StoreFolder)
		if err != nil {
			return s, err
		}
		s.FreeDisk, s.FreeInodes = space.Free, space.Inodes
	}
	if r.StateFolder == "" {
		return s, nil
	}
	space, err := disk.Free(r.StateFolder)
	s.StateFreeDisk = space.Free
	return s, err
}

// interval is the time between two measurements.
const interval = 5 * time.Second

// Watch measures the disks until ctx ends, and calls measured with what it finds.
func (r *Room) Watch(ctx context.Context, measured func(api.HeadStatus)) {
	failed := false
	for {
		space, err := r.Measure()
		if err != nil && !failed {
			r.Logger.Warn("the head's free disk is not known", "err", err)
		}
		if failed = err != nil; !failed {
			measured(space)
		}
		if backoff.Wait(ctx, interval) != nil {
			return
		}
	}
}

// slack is by how much the free room must exceed the limits before the head goes on, as a part of
// them: without it, the head would flap.
const slack = 0.1

// Judge notes a measurement. It returns what Low says from then on, and whether that went from low
// to not low or back.
func (r *Room) Judge(s *api.HeadStatus) (low string, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.low
	if was == "" {
		r.low = r.Limits.lacks(s, 0)
	} else {
		r.low = r.Limits.lacks(s, slack)
	}
	switch {
	case r.low != "" && was == "":
		r.opened = make(chan struct{})
	case r.low == "" && was != "":
		close(r.opened)
	default:
		return r.low, false
	}
	return r.low, true
}

// Low says which limit the head is below; empty if there is room.
func (r *Room) Low() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.low
}

// Wait returns nil as soon as nothing is low, or the cause of ctx's end.
func (r *Room) Wait(ctx context.Context) error {
	r.mu.Lock()
	opened := r.opened
	r.mu.Unlock()
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lacks says which limit the head is below; empty if none. With slack there must be that much more
// than the limits, as a part of them.
func (l *Limits) lacks(s *api.HeadStatus, slack float64) string {
	for _, rule := range []struct {
		what     string
		has, min int64
		quantity func(int64) string
	}{
		{"where the store is", s.FreeDisk, l.MinFreeDisk, quantity.Bytes},
		{"where the coordinator's state is", s.StateFreeDisk, l.MinFreeStateDisk, quantity.Bytes},
		{"inodes where the store is", s.FreeInodes, l.MinFreeInodes, decimal},
	} {
		limit := float64(rule.min) * (1 + slack)
		if rule.has >= 0 && rule.min > 0 && float64(rule.has) < limit {
			return fmt.Sprintf("%s free %s, want %s", rule.quantity(rule.has), rule.what, rule.quantity(int64(limit)))
		}
	}
	return ""
}

// Spare reports whether so many bytes more may be fetched that nobody wants yet: twice as much as must
// be free stays free, by the last measurement.
func (r *Room) Spare(s *api.HeadStatus, bytes int64) bool {
	return r.Low() == "" && (s.FreeDisk < 0 || s.FreeDisk-r.coming.Load()-bytes >= 2*r.Limits.MinFreeDisk)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// Reserve keeps room on the head's disk for items that are about to be fetched, of the sizes that
// they are said to have, until release is called. It is an error if they would not leave enough
// free, before anything is fetched.
func (r *Room) Reserve(infos []*store.Info) (release func(), err error) {
	var size int64
	for _, info := range infos {
		size += info.NARSize
	}
	space, err := r.Measure()
	if err != nil {
		space.FreeDisk = -1 // Watch says why
	}
	coming := r.coming.Add(size)
	release = func() { r.coming.Add(-size) }
	if free := space.FreeDisk - r.Limits.MinFreeDisk; space.FreeDisk >= 0 && coming > free {
		release()
		return nil, &headstore.Error{Err: fmt.Errorf("%s of %s to be fetched (%s with what is on its way) do not fit on the head: where its store is %s are free, of which %s must stay free",
			quantity.Bytes(size), human.Count(len(infos), "item"), quantity.Bytes(coming), quantity.Bytes(space.FreeDisk), quantity.Bytes(r.Limits.MinFreeDisk))}
	}
	return release, nil
}
