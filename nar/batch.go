package nar

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Small files cost more in system calls than in copying, and several processors
// can make them at the same time: Unpack collects them in batches, which a few
// goroutines write while it reads on.
const (
	smallFile  = 64 << 10  // bytes of the largest file that is collected
	batchBytes = 128 << 10 // how much contents a batch is meant to have
	batchFiles = 64        // how many files it has at most
	// A folder stays open until its files are there: this bounds the descriptors.
	batchFolders = 16
	maxWriters   = 4
)

// batch is a number of files with their contents, one after the other.
type batch struct {
	files   []collectedFile
	folders int // how often the folder changed from one file to the next
	data    []byte
}

type collectedFile struct {
	in   *unpackedFolder // held until the file is there
	name string
	mode uint32
	size int
}

func (b *batch) isFull() bool {
	return len(b.data) >= batchBytes || len(b.files) >= batchFiles || b.folders >= batchFolders
}

// add adds a file whose contents are the latest bytes of data.
func (b *batch) add(f collectedFile) {
	if len(b.files) == 0 || b.files[len(b.files)-1].in != f.in {
		b.folders++
	}
	b.files = append(b.files, f)
}

func (b *batch) reset() { b.files, b.folders, b.data = b.files[:0], 0, b.data[:0] }

// extend adds n bytes to the batch's data and returns them to be filled.
func (b *batch) extend(n int) []byte {
	if need := len(b.data) + n; need > cap(b.data) {
		grown := make([]byte, len(b.data), min(max(2*need, 4<<10), batchBytes+smallFile))
		copy(grown, b.data)
		b.data = grown
	}
	b.data = b.data[:len(b.data)+n]
	return b.data[len(b.data)-n:]
}

// batchWriter writes batches with write, in the background if there is more than
// one. Its methods are for one goroutine, fail and failed excepted. finish must be
// called; it waits for the goroutines.
type batchWriter struct {
	write func(*batch) error
	spare int         // goroutines that may be started yet
	full  chan *batch // to them; nil before the first
	free  chan *batch // from them
	made  int         // batches
	err   atomic.Pointer[error]
	wg    sync.WaitGroup
}

// next hands a full batch over and returns an empty one. An error may be that of
// an earlier batch.
func (w *batchWriter) next(b *batch) (*batch, error) {
	if w.full == nil {
		w.spare = min(runtime.GOMAXPROCS(0), maxWriters)
		w.full, w.free = make(chan *batch), make(chan *batch, 2*w.spare+1)
		w.made = 1
	}
	select {
	case w.full <- b:
	default: // nobody is waiting for work
		if w.spare > 0 {
			w.spare--
			w.wg.Go(w.run)
		}
		w.full <- b
	}
	return w.empty(), w.failed()
}

// empty returns an unused batch, and waits for one if there are enough.
func (w *batchWriter) empty() *batch {
	if w.made == cap(w.free) {
		return <-w.free
	}
	select {
	case b := <-w.free:
		return b
	default:
		w.made++
		return &batch{}
	}
}

func (w *batchWriter) run() {
	for b := range w.full {
		if err := w.write(b); err != nil {
			w.fail(err)
		}
		b.reset()
		w.free <- b
	}
}

// fail keeps the first error, also one from elsewhere that makes writing pointless.
func (w *batchWriter) fail(err error) { w.err.CompareAndSwap(nil, &err) }

func (w *batchWriter) failed() error {
	if err := w.err.Load(); err != nil {
		return *err
	}
	return nil
}

// finish writes the last batch, waits until everything is written, and returns the
// first error.
func (w *batchWriter) finish(last *batch) error {
	if err := w.write(last); err != nil {
		w.fail(err)
	}
	if w.full != nil {
		close(w.full)
		w.wg.Wait()
	}
	return w.failed()
}
