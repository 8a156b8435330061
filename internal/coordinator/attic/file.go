package attic

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"lighter/internal/api"
	"lighter/internal/disk"
)

// writer writes an attic. What was written up to a sync is a frame of its own, so that a file
// that was cut short is whole up to the last one. Its name ends in partSuffix until it is
// finished.
type writer struct {
	dir    string
	now    func() time.Time // for its name
	name   string           // that it will have; empty before the first build
	file   *os.File
	frame  *zstd.Encoder
	lines  *json.Encoder // into frame
	open   bool          // something was written since the last sync
	synced int64         // bytes that are on the disk
}

// leftBuild is one line.
type leftBuild struct {
	Build  *api.Build  `json:"build"`
	Events []api.Event `json:"events"`
}

const (
	folder     = "archive" // in the state folder
	fileSuffix = ".jsonl.zst"
	partSuffix = ".part"
)

// add writes a build and its history.
func (w *writer) add(b *api.Build, events []api.Event) error {
	if w.file == nil {
		if err := w.create(); err != nil {
			return err
		}
	}
	w.open = true
	return w.lines.Encode(leftBuild{b, events})
}

func (w *writer) create() error {
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return err
	}
	if err := disk.SyncFolder(filepath.Dir(w.dir)); err != nil {
		return err
	}
	name, err := w.freeName()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(name+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w.name, w.file = name, file
	if w.frame, err = zstd.NewWriter(file, zstd.WithEncoderConcurrency(1)); err != nil {
		return err
	}
	w.lines = json.NewEncoder(w.frame)
	return disk.SyncFolder(w.dir)
}

// freeName returns a name that no file has, finished or not. Nobody else makes files there: only
// one process has the ledger to which the folder belongs open.
func (w *writer) freeName() (string, error) {
	base := filepath.Join(w.dir, "builds-"+w.now().UTC().Format("20060102T150405Z"))
	name := base + fileSuffix
	for n := 2; ; n++ {
		_, err := os.Lstat(name)
		_, partErr := os.Lstat(name + partSuffix)
		switch {
		case errors.Is(err, fs.ErrNotExist) && errors.Is(partErr, fs.ErrNotExist):
			return name, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", err
		case partErr != nil && !errors.Is(partErr, fs.ErrNotExist):
			return "", partErr
		}
		name = fmt.Sprintf("%s-%d%s", base, n, fileSuffix)
	}
}

// sync makes what was added durable.
func (w *writer) sync() error {
	if !w.open {
		return nil
	}
	if err := errors.Join(w.frame.Close(), w.file.Sync()); err != nil {
		return err
	}
	at, err := w.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	w.synced, w.open = at, false
	w.frame.Reset(w.file)
	return nil
}

// finish gives the file its name and returns its size. What was not synced is cut off: those
// builds are still in the ledger. If no build was added there is no file.
func (w *writer) finish() (size int64, err error) {
	if w.file == nil {
		return 0, nil
	}
	file := w.file
	w.file = nil
	return finishFile(file, w.name, w.synced)
}

// finishFile cuts a file to a size, closes it and gives it its name. A file without builds is
// removed.
func finishFile(file *os.File, name string, size int64) (int64, error) {
	part := file.Name()
	err := file.Truncate(size)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return 0, err
	}
	if size == 0 {
		err = os.Remove(part)
	} else {
		err = os.Rename(part, name)
	}
	return size, errors.Join(err, disk.SyncFolder(filepath.Dir(name)))
}

// finishAll finishes the files that a crash left in a folder, and returns the names of those that
// have builds.
func finishAll(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		name, isPart := strings.CutSuffix(filepath.Join(dir, e.Name()), partSuffix)
		if !isPart || !strings.HasSuffix(name, fileSuffix) {
			continue
		}
		file, openErr := os.OpenFile(name+partSuffix, os.O_RDWR, 0)
		if openErr != nil {
			err = errors.Join(err, openErr)
			continue
		}
		size, wholeErr := wholeFrames(file)
		if wholeErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", file.Name(), wholeErr), file.Close())
			continue
		}
		size, finishErr := finishFile(file, name, size)
		if finishErr != nil {
			err = errors.Join(err, finishErr)
		} else if size > 0 {
			names = append(names, name)
		}
	}
	return names, err
}

// wholeFrames returns how many bytes from the start of a file are whole frames. It decompresses
// the last one to be sure; all before it were synced when that one was begun.
func wholeFrames(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	var last, end int64
	for end < info.Size() {
		next, err := frameEnd(file, end)
		if errors.Is(err, errNoFrame) || next > info.Size() {
			break
		}
		if err != nil {
			return 0, err
		}
		last, end = end, next
	}
	z, err := zstd.NewReader(io.NewSectionReader(file, last, end-last), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer z.Close()
	switch _, err := io.Copy(io.Discard, z); {
	case errors.As(err, new(*fs.PathError)):
		return 0, err // the disk's fault, not the frame's
	case err != nil:
		return last, nil
	}
	return end, nil
}

var errNoFrame = errors.New("no whole frame")

// frameEnd returns where the frame that begins at an offset ends, as its headers say, which may be
// beyond the end of the file; or errNoFrame. RFC 8878, section 3.1.1, defines frames.
func frameEnd(r io.ReaderAt, at int64) (int64, error) {
	var start [zstd.HeaderMaxSize]byte
	n, err := r.ReadAt(start[:], at)
	if err != nil && err != io.EOF {
		return 0, err
	}
	var header zstd.Header
	if err := header.Decode(start[:n]); err != nil || header.Skippable {
		return 0, errNoFrame
	}
	at += int64(header.HeaderSize)
	for last := false; !last; {
		var block [4]byte
		switch n, err := r.ReadAt(block[:3], at); {
		case n < 3 && err == io.EOF:
			return 0, errNoFrame
		case n < 3:
			return 0, err
		}
		bits := binary.LittleEndian.Uint32(block[:])
		last = bits&1 != 0
		size := int64(bits >> 3)
		switch bits >> 1 & 3 {
		case 1: // one byte, repeated
			size = 1
		case 3:
			return 0, errNoFrame
		}
		at += 3 + size
	}
	if header.HasCheckSum {
		at += 4
	}
	return at, nil
}
