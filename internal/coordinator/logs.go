package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"lighter/internal/api"
)

func (c *Coordinator) getLog(w http.ResponseWriter, r *http.Request) error {
	b, err := c.build(r)
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
		return badRequest("tail %d: at most %d bytes", last, maxLogTail)
	}
	chosen, err := c.chosenLog(r.Context(), b, q)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if last > 0 {
		t := &tail{max: int(last)}
		if err := c.copyLog(r.Context(), t, b, cmp.Or(chosen, lastLog(b)), 0, false, nil); err != nil {
			return err
		}
		_, _ = w.Write(t.kept)
		return nil
	}
	follow := q.Get("follow") == "1"
	return c.streamLog(w, r, b, chosen, offset, follow)
}

// attemptLog names the log of an attempt.
type attemptLog struct {
	id      string
	attempt int // 0 if there was none
}

// logID returns the id under which the logs of a build are kept, unless it is a check.
func logID(b *api.Build) string { return cmp.Or(b.Shares, b.ID) }

// lastLog returns the log of a build's current or last attempt. Of a check it is that of the
// first machine on which the build fails, or of the first of all.
func lastLog(b *api.Build) attemptLog {
	if b.Check == 0 {
		return attemptLog{logID(b), b.Attempt}
	}
	var last attemptLog
	for i := range b.Results {
		r := &b.Results[i]
		if r.LogID != "" && (last.id == "" || r.Failure != nil) {
			last = attemptLog{r.LogID, r.LogAttempt}
		}
		if r.Failure != nil {
			break
		}
	}
	return last
}

// chosenLog returns the log that a question chooses by attempt or by machine, if it does.
func (c *Coordinator) chosenLog(ctx context.Context, b *api.Build, q url.Values) (chosen attemptLog, err error) {
	attempt, err := number(q.Get("attempt"), "attempt")
	machine := q.Get("machine")
	switch {
	case err != nil:
		return chosen, err
	case attempt > 0 && machine != "":
		return chosen, badRequest("attempt and machine: choose by one of them")
	case attempt > 0 && b.Check > 0:
		return chosen, badRequest("build %s is a check: it has logs by machine, not by attempt", b.ID)
	case attempt > int64(b.Attempt) && b.Attempt == 0:
		return chosen, badRequest("build %s has no attempt %d: it was not tried", b.ID, attempt)
	case attempt > int64(b.Attempt):
		return chosen, badRequest("build %s has no attempt %d: the last one is %d", b.ID, attempt, b.Attempt)
	case attempt > 0:
		return attemptLog{logID(b), int(attempt)}, nil
	case machine == "":
		return chosen, nil
	}
	if b.Check > 0 {
		chosen, err = c.comparedOn(ctx, b, machine)
	} else {
		chosen, err = c.triedOn(ctx, b, machine)
	}
	if err == nil && chosen.attempt == 0 {
		err = badRequest("build %s was not tried on a machine %q", b.ID, machine)
	}
	return chosen, err
}

// comparedOn returns the log of what a machine built for a check, or builds now.
func (c *Coordinator) comparedOn(ctx context.Context, b *api.Build, machine string) (found attemptLog, err error) {
	for i := range b.Results {
		if r := &b.Results[i]; r.Machine == machine && r.LogID != "" {
			return attemptLog{r.LogID, r.LogAttempt}, nil
		}
	}
	err = c.do(ctx, func(l *loop) {
		if rec := l.builds[b.ID]; rec != nil && rec.check != nil {
			for t := range rec.check.tasks {
				if t.machine != nil && t.machine.Name == machine {
					found = attemptLog{t.id, t.attempt}
				}
			}
		}
	})
	return found, err
}

// triedOn returns the log of a build's last attempt on a machine.
func (c *Coordinator) triedOn(ctx context.Context, b *api.Build, machine string) (found attemptLog, err error) {
	events, err := c.ledger.BuildEvents(ctx, b.ID)
	for i := range events {
		if events[i].Machine == machine && events[i].Attempt > 0 {
			found = attemptLog{logID(b), events[i].Attempt}
		}
	}
	return found, err
}

// streamLog writes a log that may still grow. With follow it waits for the log of a
// build that has none yet, goes on from one attempt to the next, and ends when the
// build is final. A log that was chosen is followed up to its own end.
func (c *Coordinator) streamLog(w http.ResponseWriter, r *http.Request, b *api.Build, chosen attemptLog, offset int64, follow bool) error {
	ctx, cancel := c.untilStopped(r.Context())
	defer cancel()
	rc := http.NewResponseController(w)
	out := &writtenCounter{w: w}
	flush := func() {
		out.started = true
		_ = rc.Flush()
	}
	current := lastLog(b)
	if chosen.id != "" {
		current = chosen
	}
	for {
		next := c.ledger.LastEvent() + 1
		b, err := c.ledger.Build(ctx, b.ID)
		if err == nil {
			if last := lastLog(b); last != current && chosen.id == "" {
				current, offset = last, 0
			}
			before := out.written
			err = c.copyLog(ctx, out, b, current, offset, follow, flush)
			offset += out.written - before
		}
		if follow && chosen.id == "" && (err == nil || errors.Is(err, errNoLog)) && !b.State.Final() {
			flush()
			if err = c.awaitEvent(ctx, b.ID, next); err == nil {
				continue
			}
		}
		switch {
		case err == nil, errors.Is(err, errNoLog) && follow:
			return nil
		case out.started:
			panic(http.ErrAbortHandler) // the client must not take it for all
		}
		return err
	}
}

// awaitEvent waits for an event of a build, from a number on.
func (c *Coordinator) awaitEvent(ctx context.Context, id string, from uint64) error {
	enough := errors.New("enough")
	err := c.ledger.Events(ctx, from, true, func(ev api.Event) error {
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

// WriteLog writes the log of a build's current or last attempt, as far as there is one.
func (c *Coordinator) WriteLog(ctx context.Context, w io.Writer, b *api.Build) error {
	return c.copyLog(ctx, w, b, lastLog(b), 0, false, nil)
}

// copyLog copies one of a build's logs.
func (c *Coordinator) copyLog(ctx context.Context, w io.Writer, b *api.Build, which attemptLog, offset int64, follow bool, flush func()) error {
	if which.attempt == 0 {
		if b.State.Final() {
			return fmt.Errorf("build %s: %w: it was never tried", b.ID, errNoLog)
		}
		return fmt.Errorf("build %s: %w: it was not tried yet", b.ID, errNoLog)
	}
	if err := c.logs.copyTo(ctx, w, which.id, which.attempt, offset, follow, flush); err != nil {
		return fmt.Errorf("build %s: %w", b.ID, err)
	}
	return nil
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
