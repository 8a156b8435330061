package local

import (
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// syncer syncs all that was written to the store's file system. Callers that come
// meanwhile share the next run.
type syncer struct {
	folder *os.File

	running sync.Mutex // held by the caller that syncs
	mu      sync.Mutex
	next    *syncRun // the one that has not begun; nil if no caller waits
}

type syncRun struct {
	done chan struct{}
	err  error
}

// sync returns when all that was written before the call is on the disk.
func (y *syncer) sync() error {
	y.mu.Lock()
	if run := y.next; run != nil {
		y.mu.Unlock()
		<-run.done
		return run.err
	}
	run := &syncRun{done: make(chan struct{})}
	y.next = run
	y.mu.Unlock()

	y.running.Lock()
	y.mu.Lock()
	y.next = nil
	y.mu.Unlock()
	if err := unix.Syncfs(int(y.folder.Fd())); err != nil {
		run.err = &fs.PathError{Op: "syncfs", Path: y.folder.Name(), Err: err}
	}
	y.running.Unlock()
	close(run.done)
	return run.err
}
