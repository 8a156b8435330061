package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"lighter/internal/backoff"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
)

// How long a server is set aside after its first failure, and at most.
const (
	firstPause = 2 * time.Second
	maxPause   = 5 * time.Minute
)

// Limits on what is kept of a server's answers: how many, and how many bytes they had.
const (
	maxAnswers = 1 << 16
	maxCached  = 64 << 20
)

// server is one server, with what it answered lately.
type server struct {
	client *Client
	base   *url.URL

	mu     sync.Mutex // owns what follows
	cache  map[string]answer
	cached int64         // bytes, of the texts of those
	pause  backoff.Pause // in which it is set aside
}

// answer is a narinfo, not verified, or nil where the server has none.
type answer struct {
	info  *narinfo.Info
	bytes int64 // of its text
	until time.Time
}

func (s *server) String() string { return strings.TrimSuffix(s.base.Redacted(), "/") }

// lookup returns the narinfo of an item, which a key of the ACL has signed.
func (s *server) lookup(ctx context.Context, acl *signature.ACL, path store.Path) (*narinfo.Info, error) {
	info, known := s.remembered(path)
	if !known {
		var err error
		if info, err = s.ask(ctx, path); err != nil {
			return nil, err
		}
	}
	if info == nil {
		return nil, ErrNotThere
	}
	if info.Path != path {
		return nil, fmt.Errorf("%w: its narinfo is about %s", store.ErrCorrupt, info.Path)
	}
	if _, err := info.Verify(acl); err != nil {
		return nil, fmt.Errorf("narinfo: %w", err)
	}
	if info.NARSize > s.client.opts.MaxNAR {
		return nil, fmt.Errorf("its NAR has %d bytes, more than %d", info.NARSize, s.client.opts.MaxNAR)
	}
	return info, nil
}

func (s *server) remembered(path store.Path) (*narinfo.Info, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.cache[path.HashPart()]
	if !ok || time.Now().After(a.until) {
		return nil, false
	}
	return a.info, true
}

func (s *server) remember(path store.Path, info *narinfo.Info, bytes int) {
	ttl := positiveTTL
	if info == nil {
		ttl = s.client.opts.NegativeTTL
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cache) >= maxAnswers || s.cached+int64(bytes) > maxCached {
		s.makeRoomLocked(now)
	}
	s.forgetLocked(path.HashPart())
	s.cache[path.HashPart()] = answer{info, int64(bytes), now.Add(ttl)}
	s.cached += int64(bytes)
}

// makeRoomLocked drops what is old, and half of the rest if that is not enough.
func (s *server) makeRoomLocked(now time.Time) {
	for key, a := range s.cache {
		if now.After(a.until) {
			s.forgetLocked(key)
		}
	}
	for key := range s.cache {
		if len(s.cache) <= maxAnswers/2 && s.cached <= maxCached/2 {
			return
		}
		s.forgetLocked(key)
	}
}

// forget drops the narinfo of an item, with which something was wrong.
func (s *server) forget(path store.Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(path.HashPart())
}

func (s *server) forgetLocked(key string) {
	s.cached -= s.cache[key].bytes
	delete(s.cache, key)
}

// ask gets a narinfo, or nil if the server has none.
func (s *server) ask(ctx context.Context, path store.Path) (*narinfo.Info, error) {
	if err := take(ctx, s.client.requests); err != nil {
		return nil, err
	}
	defer func() { <-s.client.requests }()
	ctx, cancel := context.WithTimeoutCause(ctx, s.client.opts.Timeout, errTooSlow)
	defer cancel()
	text, err := s.read(ctx, narinfo.Name(path))
	if errors.Is(err, ErrNotThere) {
		s.remember(path, nil, 0)
		return nil, nil //nolint:nilnil // the answer that there is none
	}
	if err != nil {
		return nil, err
	}
	info, err := narinfo.Parse(s.client.opts.Dir, text)
	if err != nil {
		return nil, err
	}
	s.remember(path, info, len(text))
	return info, nil
}

// read returns a small file of the server.
func (s *server) read(ctx context.Context, name string) ([]byte, error) {
	f, err := s.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, narinfo.MaxSize+1))
	if err != nil {
		return nil, s.blame(ctx, err)
	}
	s.good()
	return text, nil // Parse refuses what is too long
}

// file is a file of a server.
type file struct {
	io.ReadCloser
	size int64 // -1 if it is not known
}

// open opens a file of the server by its URL, which may be relative. The error matches
// ErrNotThere if the server says so, and ErrAside if it was not asked.
func (s *server) open(ctx context.Context, ref string) (*file, error) {
	u, err := s.resolve(ref)
	if err != nil {
		return nil, err
	}
	if err := s.aside(); err != nil {
		return nil, err
	}
	if u.Scheme == "file" {
		return s.openFile(u)
	}
	ctx = context.WithValue(ctx, leader{}, hostPort(s.base))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// What is compressed is so by its name; nothing is to be decoded on the way.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "lighter")
	resp, err := s.client.http.Do(req)
	if err != nil {
		return nil, s.blame(ctx, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return &file{resp.Body, resp.ContentLength}, nil
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden:
		err = ErrNotThere // some storage services say "forbidden" of what is not there
		s.good()
	default:
		err = s.blame(ctx, fmt.Errorf("GET %s: %d %s", u.Redacted(), resp.StatusCode, http.StatusText(resp.StatusCode)))
	}
	// A body that is read keeps its connection.
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	resp.Body.Close()
	return nil, err
}

// resolve returns the URL of a file of the server. An absolute one may be elsewhere, but no
// nearer than the server: see reach.
func (s *server) resolve(ref string) (*url.URL, error) {
	u, err := url.Parse(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: the URL %q is none", store.ErrCorrupt, ref)
	}
	switch {
	case u.Scheme == "" && u.Host == "" && u.Path != "":
		u.Path, u.RawPath = strings.TrimLeft(u.Path, "/"), ""
		if !filepath.IsLocal(u.Path) {
			return nil, fmt.Errorf("%w: the URL %q leads out of the server's folder", store.ErrCorrupt, ref)
		}
		return s.base.ResolveReference(&url.URL{Path: "./" + u.Path, RawQuery: u.RawQuery}), nil
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && s.base.Scheme != "file":
		return u, nil
	}
	return nil, fmt.Errorf("%w: the URL %q is of a kind that is not followed", store.ErrCorrupt, ref)
}

func (s *server) openFile(u *url.URL) (*file, error) {
	name, err := filepath.Rel(s.base.Path, u.Path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(s.base.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotThere
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait for its writer
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotThere
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: it is not a file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{f, info.Size()}, nil
}

// aside returns an error while the server is set aside.
func (s *server) aside() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.pause.Left(); left > 0 {
		return fmt.Errorf("%w for %v more: %w", ErrAside, left.Round(time.Second), s.pause.Cause)
	}
	return nil
}

var errTooSlow = errors.New("the server is too slow")

// blame notes a failure of the server, unless the caller has lost interest, and returns the
// error to show.
func (s *server) blame(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(cause, errTooSlow) {
			return cause
		}
		err = errTooSlow
	}
	var withURL *url.Error
	if errors.As(err, &withURL) {
		err = withURL.Err // the URL is said once
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pause.Left() > 0 {
		s.pause.Cause = err // one of many that were under way
		return err
	}
	s.pause.Begin(err, firstPause, maxPause)
	s.client.opts.Logger.Warn("substitute server fails", "server", s.String(), "err", err, "pause", s.pause.Left().Round(time.Millisecond))
	return err
}

// good notes that the server works.
func (s *server) good() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause = backoff.Pause{}
}
