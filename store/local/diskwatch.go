package local

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/quantity"
	"lighter/nar"
	"lighter/store"
)

// diskInterval is how often each running build has the disk's free space looked at.
const diskInterval = 200 * time.Millisecond

// diskWatch stops builds that use up what is to be kept free of the disk: the one whose
// folder takes the most, and if that is not enough, the next one. What a build has hidden
// in deleted files is not seen; then of those that take as little, the latest goes first.
type diskWatch struct {
	mu      sync.Mutex
	running []*watched // the latest last
}

// watched is a build that runs.
type watched struct {
	build   *build
	began   space
	stop    context.CancelCauseFunc
	ended   bool // it writes no more
	stopped bool
	done    chan struct{}
	group   sync.WaitGroup
}

// watchDisk has the build stopped if it uses the disk up. The result's end must be called
// once its folder is gone.
func (b *build) watchDisk(stop context.CancelCauseFunc) *watched {
	s, w := b.store, &watched{build: b, stop: stop, done: make(chan struct{})}
	var err error
	if w.began, err = s.space(); err == nil {
		err = s.room(0)
	}
	if err != nil {
		stop(err) // before it begins
	}
	s.disk.mu.Lock()
	s.disk.running = append(s.disk.running, w)
	s.disk.mu.Unlock()
	w.group.Go(func() {
		tick := time.NewTicker(diskInterval)
		defer tick.Stop()
		for {
			select {
			case <-w.done:
				return
			case <-tick.C:
				s.lookAtDisk()
			}
		}
	})
	return w
}

// builderEnded says that the build will not write more.
func (w *watched) builderEnded() {
	w.build.store.disk.mu.Lock()
	defer w.build.store.disk.mu.Unlock()
	w.ended = true
}

func (w *watched) end() {
	close(w.done)
	w.group.Wait()
	d := &w.build.store.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = slices.DeleteFunc(d.running, func(r *watched) bool { return r == w })
}

// lookAtDisk stops a build if too little is free. It does nothing while the folder of one
// that it has stopped is still there.
func (s *Store) lookAtDisk() {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	now, err := s.space()
	if err != nil || now.free >= now.keep || slices.ContainsFunc(s.disk.running, func(w *watched) bool { return w.stopped }) {
		return
	}
	var largest *watched
	most := int64(-1)
	for _, w := range s.disk.running {
		if w.ended {
			continue
		}
		if used := nar.DiskUsage(w.build.folder.name); used >= most {
			largest, most = w, used
		}
	}
	if largest != nil {
		largest.stopped = true
		largest.stop(largest.tooLarge(now, most))
	}
}

// tooLarge returns the error of a build that is stopped. It is the derivation's if most of
// what has gone since the build began is in its folder.
func (w *watched) tooLarge(now space, used int64) error {
	text := fmt.Sprintf("stopped because the disk of %s runs full: the build has written %s; of %s that were free when it began, %s are left, and %s are to stay free",
		string(w.build.store.layout), quantity.Bytes(used), quantity.Bytes(w.began.free), quantity.Bytes(now.free), quantity.Bytes(now.keep))
	if used < (w.began.free-now.free)/2 {
		return fmt.Errorf("%s: %w", text, unix.ENOSPC)
	}
	return w.build.failure(store.FailedLimit, "%s", text)
}
