package buildlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"lighter/internal/api"
	"lighter/internal/stream"
)

// Reader reads a log from wherever one seeks to, as far as it was written when it was opened. It is for one
// goroutine at a time, and is closed by who opened it.
type Reader struct {
	io.ReadSeeker
	Name    Name
	Growing bool // more may be written

	close func()
}

// Close ends reading.
func (r *Reader) Close() error {
	if r.close != nil {
		r.close()
	}
	return nil
}

// ReadOf opens one of a build's logs. The error matches ErrNoLog where there is none.
func (f *Folder) ReadOf(b *api.Build, which Name) (*Reader, error) {
	if err := tried(b, which); err != nil {
		return nil, err
	}
	r, err := f.read(which)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", b.ID, err)
	}
	// After a restart an attempt's log is opened again only once its machine is reached.
	r.Growing = r.Growing || b.Check == 0 && which.Attempt == b.Attempt && b.State.Running()
	return r, nil
}

func (f *Folder) read(which Name) (*Reader, error) {
	name := f.File(which.ID, which.Attempt)
	f.mu.Lock()
	live := f.live[name] != nil
	f.mu.Unlock()
	file, err := os.Open(name)
	switch {
	case err == nil:
		info, err := file.Stat()
		if err != nil {
			file.Close()
			return nil, err
		}
		return &Reader{io.NewSectionReader(file, 0, info.Size()), which, live, func() { file.Close() }}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case live: // nothing was written yet
		return &Reader{strings.NewReader(""), which, true, nil}, nil
	}
	c := &compressed{name: name}
	if c.size, err = sizeOfCompressed(name, f.max+stream.MaxMarker); err != nil {
		c.close()
		return nil, err
	}
	return &Reader{c, which, false, c.close}, nil
}

// sizeOfCompressed returns how many bytes a compressed log has; most is what any has.
func sizeOfCompressed(name string, most int64) (int64, error) {
	file, z, err := openCompressed(name)
	if file != nil {
		defer file.Close()
	}
	if err != nil {
		return 0, logError(name, err)
	}
	defer z.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if strings.HasSuffix(file.Name(), ".gz") && most <= math.MaxUint32 {
		// RFC 1952 ends with the size modulo 2³²; whoever compresses logs writes one member.
		var trailer [4]byte
		if _, err := file.ReadAt(trailer[:], info.Size()-4); err != nil {
			return 0, logError(name, err)
		}
		if size := int64(binary.LittleEndian.Uint32(trailer[:])); size <= most {
			return size, nil
		}
	}
	var start [zstd.HeaderMaxSize]byte
	n, _ := file.ReadAt(start[:], 0)
	if h := (zstd.Header{}); h.Decode(start[:n]) == nil && h.HasFCS && h.FrameContentSize <= uint64(most) { //nolint:gosec // most is not negative
		return int64(h.FrameContentSize), nil //nolint:gosec // it is at most that
	}
	size, err := io.Copy(io.Discard, io.LimitReader(z, most))
	if err != nil {
		return 0, logError(name, err)
	}
	return size, nil
}

func logError(name string, err error) error {
	if errors.Is(err, ErrNoLog) {
		return err
	}
	return fmt.Errorf("log %s: %w", name, err)
}

// compressed reads a compressed log. To go back it begins anew.
type compressed struct {
	name     string
	size, at int64

	file *os.File
	z    io.ReadCloser // nil before the first byte was asked for
	done int64         // bytes read from z
}

func (c *compressed) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of a log")
	}
	c.at = offset
	return offset, nil
}

func (c *compressed) Read(p []byte) (int, error) {
	if c.at >= c.size {
		return 0, io.EOF
	}
	if c.z == nil || c.done > c.at {
		c.close()
		var err error
		if c.file, c.z, err = openCompressed(c.name); err != nil {
			c.close()
			return 0, logError(c.name, err)
		}
	}
	n, err := io.CopyN(io.Discard, c.z, c.at-c.done)
	if c.done += n; err == nil {
		n, err := c.z.Read(p[:min(int64(len(p)), c.size-c.at)])
		c.done, c.at = c.done+int64(n), c.at+int64(n)
		if !errors.Is(err, io.EOF) || c.at >= c.size {
			return n, err
		}
	}
	return 0, logError(c.name, io.ErrUnexpectedEOF)
}

func (c *compressed) close() {
	if c.z != nil {
		c.z.Close()
	}
	if c.file != nil {
		c.file.Close()
	}
	c.file, c.z, c.done = nil, nil, 0
}
