package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/quantity"
	"lighter/nar"
	"lighter/store"
)

// diskInterval is how often each running build looks at the disk's free space.
const diskInterval = 200 * time.Millisecond

// diskWatch looks at the disk and stops builds that use up what must stay free: first the one
// whose folder takes the most, and if that is not enough, the next one. What a build hides
// in deleted files is not seen. Of builds that take the same, the latest is stopped first.
type diskWatch struct {
	layout   layout
	keepFree int64 // Options.KeepFree

	mu      sync.Mutex
	running []*watched // the latest last
}

// watched is a build that runs.
type watched struct {
	disk    *diskWatch
	build   *build
	began   space
	stop    context.CancelCauseFunc
	ended   bool // it writes nothing more
	stopped bool
	done    chan struct{}
	group   sync.WaitGroup
}

// watch stops a build if it uses up the disk. The caller calls the result's end once the
// build's folder is gone.
func (d *diskWatch) watch(b *build, stop context.CancelCauseFunc) *watched {
	w := &watched{disk: d, build: b, stop: stop, done: make(chan struct{})}
	var err error
	if w.began, err = d.space(); err == nil {
		err = d.room(0)
	}
	if err != nil {
		stop(err) // before it begins
	}
	d.mu.Lock()
	d.running = append(d.running, w)
	d.mu.Unlock()
	w.group.Go(func() {
		tick := time.NewTicker(diskInterval)
		defer tick.Stop()
		for {
			select {
			case <-w.done:
				return
			case <-tick.C:
				d.look()
			}
		}
	})
	return w
}

// builderEnded says that the build writes nothing more.
func (w *watched) builderEnded() {
	w.disk.mu.Lock()
	defer w.disk.mu.Unlock()
	w.ended = true
}

func (w *watched) end() {
	close(w.done)
	w.group.Wait()
	d := w.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = slices.DeleteFunc(d.running, func(r *watched) bool { return r == w })
}

// look stops a build if too little is free. It does nothing while the folder of a build
// that was stopped is still there.
func (d *diskWatch) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, err := d.space()
	if err != nil || now.free >= now.keep || slices.ContainsFunc(d.running, func(w *watched) bool { return w.stopped }) {
		return
	}
	var largest *watched
	most := int64(-1)
	for _, w := range d.running {
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

// tooLarge returns the error of a build that is stopped. It blames the derivation if most of
// the space that has gone since the build began is in its folder.
func (w *watched) tooLarge(now space, used int64) error {
	text := fmt.Sprintf("stopped because the disk of %s is nearly full: the build has written %s; of the %s that were free when it began, %s are left, and %s must stay free",
		w.disk.layout.root, quantity.Bytes(used), quantity.Bytes(w.began.free), quantity.Bytes(now.free), quantity.Bytes(now.keep))
	if used < (w.began.free-now.free)/2 {
		return fmt.Errorf("%s: %w", text, unix.ENOSPC)
	}
	return w.build.failure(store.FailedDiskFull, "%s", text)
}

// minFree is so little that a builder which fails may have failed for want of it, in bytes; as with
// guix offload.
const minFree = 10 << 20

// judge returns the error of a builder that has just ended. One that failed by itself is told from one
// that failed while the disk was full, as it looks before the build's folder is removed: that is blamed as
// in tooLarge.
func (w *watched) judge(err error) error {
	var failed *store.BuildError
	if !errors.As(err, &failed) || failed.Failure != store.FailedExit && failed.Failure != store.FailedKilled {
		return err
	}
	now, spaceErr := w.disk.space()
	if spaceErr != nil {
		return err
	}
	left := quantity.Bytes(now.free) + " free"
	switch {
	case now.free >= minFree:
		full := w.build.folder.tryFile()
		if !errors.Is(full, unix.ENOSPC) && !errors.Is(full, unix.EDQUOT) {
			return err
		}
		left += ", but no room for another file"
	case nar.DiskUsage(w.build.folder.name) < (w.began.free-now.free)/2:
		return fmt.Errorf("%w (%s); %s", unix.ENOSPC, left, failed.Message)
	}
	how, last, more := strings.Cut(failed.Message, lastLines)
	failed.Failure = store.FailedDiskFull
	failed.Message = fmt.Sprintf("%s, and the disk of %s was full: %s", how, w.disk.layout.root, left)
	if more {
		failed.Message += lastLines + last
	}
	return failed
}
