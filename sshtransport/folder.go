package sshtransport

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"lighter/internal/backoff"

	"github.com/pkg/sftp"
)

const (
	// folderTemporary is how the names of files start that are being written.
	folderTemporary = ".tmp-"
	// folderBuffer is how much is given to the library at once, which sends it as many
	// packets without waiting in between.
	folderBuffer = 1 << 20
	// firstPause and maxPause bound how long a machine is left alone after it could not be
	// reached: one that is back may wait this long to be noticed.
	firstPause = time.Second
	maxPause   = time.Minute
	// folderGrace is how long an operation may go on after its context is over, until the
	// connection is closed under it.
	folderGrace = 2 * time.Second
)

// Folder is a folder on a machine, reached by SFTP: it reads and writes whole files. There
// is no agent there. Names are relative, with slashes, as fs.ValidPath wants them; what is
// not there is an error that matches fs.ErrNotExist. It may be used from several goroutines.
//
// There is one connection, made when it is needed. One that was lost is made again; what
// was under way is tried once more, other than Put, whose contents may not be had twice.
// After an attempt to connect that failed, all fail at once for a growing time, with a
// *DownError. A step of an operation that takes longer than Config.StartTimeout, and an
// operation whose context ends while it hangs, close the connection for all.
type Folder struct {
	cfg     Config
	dir     string
	dialing chan struct{} // holds a token while nobody connects

	mu      sync.Mutex // owns what follows
	session *folderSession
	pause   backoff.Pause // after a failure to connect
	closed  bool
}

// folderSession is a connection with SFTP on it.
type folderSession struct {
	link   *link
	client *sftp.Client
	said   *allowance
	dir    string // absolute
}

// NewFolder returns a folder on a machine; dir is relative to where SFTP starts (the home)
// if not absolute, and made when something is written. It connects when it is first used.
func NewFolder(cfg Config, dir string) *Folder {
	f := &Folder{cfg: cfg.withDefaults(), dir: dir, dialing: make(chan struct{}, 1)}
	f.dialing <- struct{}{}
	return f
}

// String says where the folder is.
func (f *Folder) String() string {
	return fmt.Sprintf("sftp://%s@%s/%s", f.cfg.User, f.cfg.Addr, strings.TrimPrefix(f.dir, "/"))
}

// Close closes the connection; operations under way fail.
func (f *Folder) Close() error {
	f.mu.Lock()
	s := f.session
	f.session, f.closed = nil, true
	f.mu.Unlock()
	if s != nil {
		s.end(ErrClosed)
	}
	return nil
}

// end closes the connection and waits until nothing runs any more.
func (s *folderSession) end(cause error) {
	s.link.fail(cause)
	_ = s.client.Close() // the connection is closed already
	s.link.close(cause)
}

// connected returns the session, when there is one.
func (f *Folder) connected(ctx context.Context) (*folderSession, error) {
	select {
	case <-f.dialing:
		defer func() { f.dialing <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	f.mu.Lock()
	old, closed, pause := f.session, f.closed, f.pause
	f.mu.Unlock()
	switch {
	case closed:
		return nil, fmt.Errorf("machine %s: %w", f.cfg.Machine, ErrClosed)
	case old != nil && old.link.lostError() == nil:
		return old, nil
	case old != nil:
		old.end(ErrLinkLost)
	case pause.Left() > 0:
		return nil, &DownError{Machine: f.cfg.Machine, Cause: pause.Cause, Next: pause.Until}
	}
	s, err := f.connect(ctx)
	return f.note(ctx, s, err)
}

// note keeps what came of an attempt to connect.
func (f *Folder) note(ctx context.Context, s *folderSession, err error) (*folderSession, error) {
	f.mu.Lock()
	closed := f.closed
	if !closed {
		f.session = s
		f.noteFailureLocked(ctx, err)
	}
	next := f.pause.Until
	f.mu.Unlock()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, &DownError{Machine: f.cfg.Machine, Cause: err, Next: next}
	case closed:
		s.end(ErrClosed)
		return nil, fmt.Errorf("machine %s: %w", f.cfg.Machine, ErrClosed)
	}
	return s, nil
}

// noteFailureLocked decides when to try again. A caller that has lost interest is not a failure.
func (f *Folder) noteFailureLocked(ctx context.Context, err error) {
	switch {
	case err == nil:
		f.pause = backoff.Pause{}
	case ctx.Err() == nil:
		first := firstPause
		if Permanent(err) {
			first = maxPause // a person must do something about it
		}
		f.pause.Begin(err, first, maxPause)
	}
}

func (f *Folder) connect(ctx context.Context) (*folderSession, error) {
	l, err := connectInTurn(ctx, &f.cfg)
	if err != nil {
		return nil, err
	}
	s := &folderSession{link: l, dir: f.dir}
	err = s.guarded(ctx, "starting SFTP", func() error {
		if s.client, s.said, err = l.openSFTP(); err != nil {
			return fmt.Errorf("SFTP: %w", err)
		}
		if path.IsAbs(f.dir) {
			return nil
		}
		home, err := s.client.RealPath(".")
		s.dir = path.Join(home, f.dir)
		return err
	})
	if err != nil {
		l.close(err)
		return nil, err
	}
	return s, nil
}

// guarded runs a step, and closes the connection if that takes too long.
func (s *folderSession) guarded(ctx context.Context, what string, step func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	limit := s.link.cfg.StartTimeout
	timer := time.AfterFunc(limit, func() { s.link.fail(&timeoutError{what, limit}) })
	defer timer.Stop()
	ended := make(chan struct{})
	defer close(ended)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-ended:
		case <-time.After(folderGrace):
			s.link.fail(context.Cause(ctx))
		}
	})
	defer stop()
	err := step()
	if err == nil || answered(err) {
		return err
	}
	return s.link.explain(err)
}

// answered reports whether an error is the machine's answer, so that the connection is fine.
func answered(err error) bool {
	var status *sftp.StatusError
	return errors.As(err, &status) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist)
}

// retried runs an operation on a file, once more if the connection was lost.
func (f *Folder) retried(ctx context.Context, what, name string, op func(s *folderSession, file string) error) error {
	if !fs.ValidPath(name) {
		return fmt.Errorf("%q is not a name in a folder", name)
	}
	for tries := 2; ; tries-- {
		s, err := f.connected(ctx)
		if err != nil {
			return err
		}
		file := path.Join(s.dir, name)
		err = s.guarded(ctx, what, func() error { return op(s, file) })
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case s.link.lostError() == nil || tries == 1:
			return fmt.Errorf("machine %s: %s: %w", f.cfg.Machine, file, err)
		}
	}
}

// Stat tells of a file, not of what a link points to.
func (f *Folder) Stat(ctx context.Context, name string) (info fs.FileInfo, err error) {
	err = f.retried(ctx, "asking for a file", name, func(s *folderSession, file string) (err error) {
		info, err = s.client.Lstat(file)
		return err
	})
	return info, err
}

// Read returns the contents of a file that has at most limit bytes.
func (f *Folder) Read(ctx context.Context, name string, limit int64) (text []byte, err error) {
	err = f.retried(ctx, "reading a file", name, func(s *folderSession, file string) error {
		in, err := s.client.Open(file)
		if err != nil {
			return err
		}
		defer in.Close()
		text, err = io.ReadAll(io.LimitReader(in, limit+1))
		if err == nil && int64(len(text)) > limit {
			err = fmt.Errorf("it has more than %d bytes", limit)
		}
		return err
	})
	return text, err
}

// List returns what is in a folder, in no order. One that is not there is empty.
func (f *Folder) List(ctx context.Context, dir string) (infos []fs.FileInfo, err error) {
	err = f.retried(ctx, "listing a folder", dir, func(s *folderSession, folder string) (err error) {
		s.said.bound(maxListing)
		defer s.said.lift()
		infos, err = s.client.ReadDirContext(ctx, folder)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return infos, err
}

// Touch sets the time of a file's last change to now, by the clock of this computer.
func (f *Folder) Touch(ctx context.Context, name string) error {
	return f.retried(ctx, "changing the time of a file", name, func(s *folderSession, file string) error {
		now := time.Now()
		return s.client.Chtimes(file, now, now)
	})
}

// Remove removes a file. One that is not there is no error.
func (f *Folder) Remove(ctx context.Context, name string) error {
	return f.retried(ctx, "removing a file", name, func(s *folderSession, file string) error {
		if err := s.client.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// Put makes a file of what fill writes, with the folders above it, in the place of one that
// is there. No reader ever sees a part of it, and where the server can do that it is on the
// disk when Put returns. If fill has an error nothing is changed, and that is Put's error.
func (f *Folder) Put(ctx context.Context, name string, fill func(io.Writer) error) error {
	var p *folderPut
	err := f.retried(ctx, "making a file", name, func(s *folderSession, file string) error {
		p = &folderPut{ctx: ctx, session: s, file: file, tmp: path.Join(path.Dir(file), folderTemporary+strings.ToLower(rand.Text()))}
		return p.create()
	})
	if err != nil {
		return err
	}
	if err := p.run(ctx, fill); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("machine %s: %s: %w", f.cfg.Machine, p.file, err)
	}
	return nil
}

// folderPut is one run of Put, on one connection.
type folderPut struct {
	ctx       context.Context // of Write
	session   *folderSession
	file, tmp string
	out       *sftp.File
	size      int64
}

// create makes the temporary file.
func (p *folderPut) create() error {
	c := p.session.client
	open := func() (err error) {
		p.out, err = c.OpenFile(p.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		return err
	}
	err := open()
	if errors.Is(err, fs.ErrNotExist) {
		if err = c.MkdirAll(path.Dir(p.file)); err == nil {
			err = open()
		}
	}
	if err != nil {
		return p.explain(err)
	}
	return p.out.Chmod(0o644)
}

// run writes the file, checks its length, and gives it its name.
func (p *folderPut) run(ctx context.Context, fill func(io.Writer) error) (err error) {
	defer func() {
		if err != nil && p.session.link.lostError() == nil {
			// The context may be over; this takes as long as the time limit at most.
			_ = p.step(ctx, "removing what was not completed", func() error { return p.session.client.Remove(p.tmp) })
		}
	}()
	w := bufio.NewWriterSize(p, folderBuffer)
	err = fill(w)
	if err == nil {
		err = w.Flush()
	}
	if closeErr := p.step(ctx, "closing a file", p.finish); err == nil {
		err = closeErr
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return p.step(ctx, "naming a file", func() error {
		u := &uploader{link: p.session.link, client: p.session.client}
		return u.rename(p.tmp, p.file)
	})
}

// step is guarded for what is to be done even if the context is over.
func (p *folderPut) step(ctx context.Context, what string, f func() error) error {
	return p.session.guarded(context.WithoutCancel(ctx), what, f)
}

// Write sends a piece.
func (p *folderPut) Write(b []byte) (int, error) {
	var n int
	err := p.session.guarded(p.ctx, "writing a file", func() (err error) {
		n, err = p.out.Write(b)
		return p.explain(err)
	})
	p.size += int64(n)
	return n, err
}

// finish brings the file to the disk.
func (p *folderPut) finish() error {
	c := p.session.client
	var err error
	if _, ok := c.HasExtension("fsync@openssh.com"); ok {
		err = p.out.Sync()
	}
	if closeErr := p.out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return p.explain(err)
	}
	info, err := c.Lstat(p.tmp)
	if err == nil && info.Size() != p.size {
		err = p.explain(fmt.Errorf("it has %d bytes there, not %d", info.Size(), p.size))
	}
	return err
}

// explain adds what SFTP has no word for.
func (p *folderPut) explain(err error) error {
	if err == nil {
		return nil
	}
	u := &uploader{link: p.session.link, client: p.session.client}
	return u.explain(err, p.session.dir, 1)
}
