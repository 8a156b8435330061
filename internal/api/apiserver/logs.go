package apiserver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/stream"
)

func (s *Server) getLog(w http.ResponseWriter, r *http.Request) error {
	b, err := s.build(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	offset, err := number(q.Get("offset"), "offset")
	if err != nil {
		return err
	}
	last, err := number(q.Get("tail"), "tail")
	if err != nil {
		return err
	}
	if last > maxLogTail {
		return api.BadRequest("tail %d: at most %d bytes", last, maxLogTail)
	}
	lines, err := number(q.Get("lines"), "lines")
	if err != nil {
		return err
	}
	if lines > 0 && (last > 0 || offset > 0) {
		return api.BadRequest("lines goes with neither tail nor offset")
	}
	chosen, err := s.chosenLog(r.Context(), b, q)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if last > 0 {
		t := &stream.Tail{Max: int(last)}
		if err := s.c.Logs().CopyOf(r.Context(), t, b, cmp.Or(chosen, buildlog.Last(b)), 0, false, nil); err != nil {
			return err
		}
		_, _ = w.Write(t.Kept)
		return nil
	}
	follow := q.Get("follow") == "1"
	if lines == 0 && !follow && !q.Has("offset") {
		return s.serveLog(w, r, b, cmp.Or(chosen, buildlog.Last(b)))
	}
	if lines > 0 {
		t := &lineTail{}
		size := &writtenCounter{w: t}
		err := s.c.Logs().CopyOf(r.Context(), size, b, cmp.Or(chosen, buildlog.Last(b)), 0, false, nil)
		if err != nil && (!follow || !errors.Is(err, buildlog.ErrNoLog)) {
			return err
		}
		if _, err := w.Write(t.last(lines)); err != nil || !follow {
			return nil //nolint:nilerr // the client is gone
		}
		offset = size.written
	}
	return s.streamLog(w, r, b, chosen, offset, follow)
}

// serveLog serves a log as a file: with its size, and parts of it as RFC 9110 has them. One that grows has no
// validator.
func (s *Server) serveLog(w http.ResponseWriter, r *http.Request, b *api.Build, which buildlog.Name) error {
	log, err := s.c.Logs().ReadOf(b, which)
	if err != nil {
		return err
	}
	defer log.Close()
	h := w.Header()
	name := fmt.Sprintf("%s.%d", log.Name.ID, log.Name.Attempt)
	h.Set(api.LogHeader, name)
	if log.Growing {
		w = &growingLog{w}
	} else {
		h.Set("ETag", `"`+name+`"`)
	}
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range") // several parts would come as MIME
	}
	http.ServeContent(w, r, "", time.Time{}, log)
	return nil
}

// growingLog does not say of a part how long the whole is.
type growingLog struct{ http.ResponseWriter }

func (g *growingLog) WriteHeader(status int) {
	if part, _, ok := strings.Cut(g.Header().Get("Content-Range"), "/"); ok && status == http.StatusPartialContent {
		g.Header().Set("Content-Range", part+"/*")
	}
	g.ResponseWriter.WriteHeader(status)
}

// chosenLog returns the log that a question chooses by attempt or by machine, if it does.
func (s *Server) chosenLog(ctx context.Context, b *api.Build, q url.Values) (chosen buildlog.Name, err error) {
	attempt, err := number(q.Get("attempt"), "attempt")
	if err != nil {
		return chosen, err
	}
	return s.c.ChosenLog(ctx, b, attempt, q.Get("machine"))
}

// streamLog writes a log that may still grow. With follow it waits for the log of a
// build that has none yet, goes on from one attempt to the next, and ends when the
// build is final. A log that was chosen is followed up to its own end.
func (s *Server) streamLog(w http.ResponseWriter, r *http.Request, b *api.Build, chosen buildlog.Name, offset int64, follow bool) error {
	ctx, cancel := s.c.UntilStopped(r.Context())
	defer cancel()
	rc := http.NewResponseController(w)
	out := &writtenCounter{w: w}
	flush := func() {
		out.started = true
		_ = rc.Flush()
	}
	current := buildlog.Last(b)
	if chosen.ID != "" {
		current = chosen
	}
	for {
		next := s.ledger.LastEvent() + 1
		b, err := s.ledger.Build(ctx, b.ID)
		if err == nil {
			if last := buildlog.Last(b); last != current && chosen.ID == "" {
				current, offset = last, 0
			}
			before := out.written
			err = s.c.Logs().CopyOf(ctx, out, b, current, offset, follow, flush)
			offset += out.written - before
		}
		if follow && chosen.ID == "" && (err == nil || errors.Is(err, buildlog.ErrNoLog)) && !b.State.Final() {
			flush()
			if err = s.awaitEvent(ctx, b.ID, next); err == nil {
				continue
			}
		}
		switch {
		case err == nil, errors.Is(err, buildlog.ErrNoLog) && follow:
			return nil
		case out.started:
			panic(http.ErrAbortHandler) // the client must not take it for all
		}
		return err
	}
}

// awaitEvent waits for an event of a build, from a number on.
func (s *Server) awaitEvent(ctx context.Context, id string, from uint64) error {
	enough := errors.New("enough")
	err := s.ledger.Events(ctx, from, true, func(ev api.Event) error {
		if ev.Build == id {
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		return nil
	}
	return err
}

// lineTail keeps the end of a log: at least the last maxLogTail bytes, at most twice as many.
type lineTail struct{ kept []byte }

func (t *lineTail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*maxLogTail {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-maxLogTail:]...)
	}
	return len(p), nil
}

// last returns the last n lines, as far as they were kept.
func (t *lineTail) last(n int64) []byte {
	end := len(t.kept)
	if end > 0 && t.kept[end-1] == '\n' {
		end--
	}
	for ; n > 0; n-- {
		if end = bytes.LastIndexByte(t.kept[:end], '\n'); end < 0 {
			return t.kept
		}
	}
	return t.kept[end+1:]
}

type writtenCounter struct {
	w       io.Writer
	written int64
	started bool // the answer has begun
}

func (c *writtenCounter) Write(p []byte) (int, error) {
	c.started = true
	n, err := c.w.Write(p)
	c.written += int64(n)
	return n, err
}
