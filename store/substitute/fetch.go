package substitute

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
	"lighter/store/substitute/lzip"
)

// Fetch writes the NAR of an item to w and returns what is known of the item. Hash and size
// are checked: on an error what was written is not the item. Another server, or another file
// of the same one, is tried as long as nothing was written.
func (c *Client) Fetch(ctx context.Context, path store.Path, w io.Writer) (*store.Info, error) {
	acl, err := c.acl()
	if err != nil {
		return nil, err
	}
	var info *store.Info
	err = c.try(ctx, acl, path, func(found *narinfo.Info, r *narReader) (bool, error) {
		info = &found.Info
		_, err := io.Copy(w, r)
		return r.hash.Size() > 0, err
	})
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	return info, nil
}

// try opens the NAR of an item, on one server after the other, for use, until that has no
// error or says that its error is final. It joins what went wrong.
func (c *Client) try(ctx context.Context, acl *signature.ACL, path store.Path, use func(*narinfo.Info, *narReader) (final bool, err error)) error {
	if err := take(ctx, c.downloads); err != nil {
		return err
	}
	defer func() { <-c.downloads }()
	missing := &MissingError{Path: path}
	for _, s := range c.servers {
		info, err := s.lookup(ctx, acl, path)
		if err == nil {
			var final bool
			if final, err = s.tryFiles(ctx, info, use); err == nil || final || ctx.Err() != nil {
				return s.explain(path, err)
			}
			s.forget(path)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		missing.Tried = append(missing.Tried, &ServerError{Server: s.String(), Path: path, Err: err})
	}
	return missing
}

// explain names server and item.
func (s *server) explain(path store.Path, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", path, &ServerError{Server: s.String(), Path: path, Err: err})
}

// tryFiles tries the files in which one server has an item.
func (s *server) tryFiles(ctx context.Context, info *narinfo.Info, use func(*narinfo.Info, *narReader) (bool, error)) (final bool, err error) {
	var errs []error
	for _, d := range choose(info.Downloads) {
		final, err := s.tryFile(ctx, info, d, use)
		if err == nil || final || ctx.Err() != nil {
			return final, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", d.URL, err))
	}
	if len(errs) == 0 {
		return false, unsupported(info.Downloads)
	}
	return false, errors.Join(errs...)
}

// choose returns the files that can be read, the best first: the smallest where all sizes
// are known, else by compression. Lzip is last whatever the sizes are: it is a little
// smaller than zstd, and takes more than ten times its time.
func choose(downloads []narinfo.Download) []narinfo.Download {
	ranks := []string{narinfo.Zstd, narinfo.Gzip, narinfo.None, narinfo.Lzip}
	usable := slices.DeleteFunc(slices.Clone(downloads), func(d narinfo.Download) bool { return !slices.Contains(ranks, d.Compression) })
	sized := !slices.ContainsFunc(usable, func(d narinfo.Download) bool { return d.FileSize == 0 })
	slices.SortStableFunc(usable, func(a, b narinfo.Download) int {
		if lzip := a.Compression == narinfo.Lzip; lzip != (b.Compression == narinfo.Lzip) {
			if lzip {
				return 1
			}
			return -1
		}
		if sized && a.FileSize != b.FileSize {
			return int(min(max(a.FileSize-b.FileSize, -1), 1))
		}
		return slices.Index(ranks, a.Compression) - slices.Index(ranks, b.Compression)
	})
	return usable
}

func unsupported(downloads []narinfo.Download) error {
	var names []string
	for _, d := range downloads {
		names = append(names, fmt.Sprintf("%q", d.Compression))
	}
	return fmt.Errorf("its NAR is compressed as %s, which is not supported: want zstd, gzip, none or lzip", strings.Join(names, ", "))
}

// tryFile opens one file and hands it on.
func (s *server) tryFile(ctx context.Context, info *narinfo.Info, d narinfo.Download, use func(*narinfo.Info, *narReader) (bool, error)) (bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(s.client.opts.Timeout, func() { cancel(errTooSlow) })
	defer silence.Stop()
	f, err := s.open(ctx, d.URL)
	silence.Stop()
	if err != nil {
		return false, err
	}
	defer f.Close()
	if want := declared(info, d); f.size >= 0 && want >= 0 && f.size != want {
		return false, fmt.Errorf("%w: the file has %d bytes, not %d", store.ErrCorrupt, f.size, want)
	}
	in := &watched{ctx: ctx, server: s, r: f, silence: silence, most: largest(info, d)}
	contents, closeContents, err := s.client.decompress(ctx, d.Compression, in, info.NARSize)
	if err != nil {
		return false, err
	}
	defer closeContents()
	r := &narReader{r: contents, want: &info.Info, sized: f.size >= 0}
	final, err := use(info, r)
	if r.err != nil {
		err = r.err // it is the cause, whatever became of it
	}
	if err == nil {
		s.good()
		// The unpacker stops at the NAR's end; the connection can be used again if the
		// file's end is read.
		_, _ = r.Read(make([]byte, 1))
	}
	return final, err
}

// declared returns how large the file should be, or -1 if that is not said.
func declared(info *narinfo.Info, d narinfo.Download) int64 {
	switch {
	case d.Compression == narinfo.None:
		return info.NARSize
	case d.FileSize > 0:
		return d.FileSize
	}
	return -1
}

// largest returns how many bytes the file may have: no way to compress makes a NAR longer
// than by a few bytes for each block of some KB.
func largest(info *narinfo.Info, d narinfo.Download) int64 {
	if want := declared(info, d); want >= 0 && d.Compression != narinfo.None {
		return want
	}
	return info.NARSize + info.NARSize/64 + 64<<10
}

// Limits on how slow a server may be while it sends a file: slowest, in bytes a second, on
// average after slowStart.
const (
	slowest   = 1 << 10
	slowStart = 2 * time.Minute
)

// watched reads from a server. Too long a silence is an error, and so are too slow or too
// long an answer and the end of its context; time that passes between reads does not count.
type watched struct {
	ctx     context.Context
	server  *server
	r       io.Reader
	silence *time.Timer
	most    int64 // bytes that may come
	got     int64
	waited  time.Duration // for those
}

func (w *watched) Read(p []byte) (int, error) {
	start := time.Now()
	w.silence.Reset(w.server.client.opts.Timeout)
	n, err := w.r.Read(p)
	w.silence.Stop()
	w.got += int64(n)
	w.waited += time.Since(start)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return n, w.server.blame(w.ctx, err)
	case w.got > w.most:
		return 0, fmt.Errorf("%w: the file has more than %d bytes", store.ErrCorrupt, w.most)
	case w.waited > slowStart+time.Duration(w.got/slowest)*time.Second:
		return 0, w.server.blame(w.ctx, errTooSlow)
	}
	return n, err
}

// Limits on the window of a zstd file, in bytes. It is allocated at once, whatever follows.
const (
	maxWindow = 128 << 20 // that of zstd --ultra -22
	// largeWindow is what any level but the ultra ones has at most. Of files that need more,
	// maxLargeWindows are decompressed at a time.
	largeWindow     = 8 << 20
	maxLargeWindows = 2
)

// decompress returns a reader of what is in a file, of which size bytes are wanted, and what
// to call afterwards.
func (c *Client) decompress(ctx context.Context, compression string, r io.Reader, size int64) (io.Reader, func(), error) {
	switch compression {
	case narinfo.None:
		return r, func() {}, nil
	case narinfo.Gzip:
		z, err := gzip.NewReader(bufio.NewReader(r))
		if err != nil {
			return nil, nil, fmt.Errorf("gzip: %w", err)
		}
		return z, func() {}, nil
	case narinfo.Lzip:
		return lzip.NewReader(r, size), func() {}, nil
	default:
		return c.decompressZstd(ctx, r)
	}
}

func (c *Client) decompressZstd(ctx context.Context, r io.Reader) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(r, 128<<10)
	start, err := in.Peek(zstd.HeaderMaxSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	window, release := uint64(largeWindow), func() {}
	var header zstd.Header
	if header.Decode(start) == nil && (header.WindowSize > largeWindow || header.SingleSegment && header.FrameContentSize > largeWindow) {
		if err := take(ctx, c.windows); err != nil {
			return nil, nil, err
		}
		window, release = maxWindow, func() { <-c.windows }
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(true))
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("zstd: %w", err)
	}
	return z, func() {
		z.Close()
		release()
	}, nil
}

// narReader reads a NAR of known size and checks it. It never waits for more than that:
// guix publish leaves the connection open after a NAR that is not compressed.
type narReader struct {
	r     io.Reader
	want  *store.Info
	sized bool // the length of the file is known, so that looking for its end does not wait
	hash  nar.Hasher
	done  bool
	err   error // the first, other than io.EOF
}

func (r *narReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.done {
		return 0, io.EOF
	}
	left := r.want.NARSize - r.hash.Size()
	if left == 0 {
		r.done = true
		if r.err = r.finish(); r.err != nil {
			return 0, r.err
		}
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), left)])
	_, _ = r.hash.Write(p[:n]) // it never fails
	switch {
	case errors.Is(err, io.EOF) && int64(n) < left:
		r.err = fmt.Errorf("%w: its NAR ends after %d bytes of %d", store.ErrCorrupt, r.hash.Size(), r.want.NARSize)
	case err != nil && !errors.Is(err, io.EOF):
		r.err = fmt.Errorf("after %d bytes of %d: %w", r.hash.Size(), r.want.NARSize, err)
	}
	if n > 0 {
		return n, nil // the error comes with the next one
	}
	return n, r.err
}

// finish checks what was read.
func (r *narReader) finish() error {
	if got := r.hash.Sum(); got != r.want.NARHash {
		return fmt.Errorf("%w: its NAR has hash %s, not %s", store.ErrCorrupt, got, r.want.NARHash)
	}
	if !r.sized {
		return nil
	}
	var more [1]byte
	n, err := io.ReadFull(r.r, more[:])
	if n > 0 {
		return fmt.Errorf("%w: its NAR is longer than %d bytes", store.ErrCorrupt, r.want.NARSize)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
