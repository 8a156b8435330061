package agentapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Log copies a build's log, from an offset in bytes to its end, to w as it is written,
// and returns the final state. A log that breaks off is an error. One may be silent for as
// long as its build runs, which the agent is asked now and then.
func (c *Client) Log(ctx context.Context, asked *Asked, offset int64, w io.Writer) (*BuildStatus, error) {
	a, err := c.do(ctx, request{method: http.MethodGet, path: buildPath(asked.ID) + "/log?offset=" + strconv.FormatInt(offset, 10)})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	a.free = true
	silence := &silence{c: c, asked: asked, a: a, size: offset, w: w}
	over := make(chan struct{})
	go func() {
		defer close(over)
		silence.attend()
	}()
	_, err = io.Copy(silence, a)
	status := new(BuildStatus)
	if err == nil {
		status, err = a.trailer(asked)
	}
	if err != nil {
		err = fmt.Errorf("log of build %s: %w", asked.ID, err)
	}
	a.end(nil)
	<-over
	switch {
	case err != nil:
		return nil, err
	case status.Partial:
		final := *asked
		final.State = status.State
		return c.Build(ctx, &final)
	}
	return status, nil
}

// trailer returns the state that comes after a log.
func (a *answer) trailer(asked *Asked) (*BuildStatus, error) {
	text := a.header.Trailer.Get(LogTrailer)
	if text == "" {
		return nil, &linkError{io.ErrUnexpectedEOF}
	}
	s := new(BuildStatus)
	err := unmarshal([]byte(text), s)
	if err == nil {
		err = s.check(asked)
	}
	if err == nil && !s.Finished() {
		err = fmt.Errorf("it ends though the build is %s", s.State)
	}
	if err != nil {
		return nil, a.failure(fmt.Errorf("trailer %s: %w", LogTrailer, err))
	}
	return s, nil
}

// silence takes a log in and looks whether it stands still though it should not.
type silence struct {
	c     *Client
	asked *Asked
	a     *answer
	size  int64 // of the log before
	w     io.Writer

	taken  atomic.Int64 // bytes
	taking atomic.Bool
}

func (s *silence) Write(p []byte) (int, error) {
	s.taking.Store(true)
	defer s.taking.Store(false)
	n, err := s.w.Write(p)
	s.taken.Add(int64(n))
	return n, err
}

// maxStandstills is how often in a row the agent may say that there is more, or that the
// build is over, while nothing comes.
const maxStandstills = 2

// attend runs until the log is over.
func (s *silence) attend() {
	ticker := time.NewTicker(s.c.limits.Answer)
	defer ticker.Stop()
	before := int64(-1)
	for standstills := 0; standstills < maxStandstills; {
		select {
		case <-s.a.ctx.Done():
			return
		case <-ticker.C:
		}
		if now := s.taken.Load(); now != before || s.taking.Load() {
			before, standstills = now, 0
			continue
		}
		status, err := s.c.Build(s.a.ctx, s.asked)
		switch {
		case err != nil:
			s.a.end(err)
			return
		case status.Finished() || status.LogSize > s.size+before:
			standstills++
		default:
			standstills = 0
		}
	}
	s.a.end(&Fault{Request: s.a.request, Problem: "nothing comes, though there is more of the log, or the build is over"})
}
