package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
)

// Whatever a machine is asked for has a time limit: each request has those of agentapi, and a build
// has its own, which the agent must keep. An agent that does not is found out here.

// forEver is so long that it is not a limit.
const forEver = 100 * 365 * 24 * time.Hour

// limited returns the context for waiting for a build that the agent must end in time.
func (a *Attempt) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := a.Options.Timeout.Duration()
	if limit <= 0 || limit > forEver {
		return context.WithCancel(ctx)
	}
	late := fmt.Errorf("build %s: %w", a.ID, &agentapi.Fault{
		Request: "timeout", Problem: fmt.Sprintf("it does not end the build, which may take %s", limit),
	})
	// The machine may be out of reach when its time is over.
	return context.WithTimeoutCause(ctx, limit+a.config.Limits.AnswerTimeout+min(a.config.Limits.MachineLostAfter, forEver), late)
}

// listen returns a writer for the log, and a context that ends when the builder is silent for
// longer than the agent may allow.
func (a *Attempt) listen(ctx context.Context, asked *agentapi.Asked) (context.Context, io.Writer, func()) {
	limit := a.Options.MaxSilentTime.Duration()
	if limit <= 0 || limit > forEver {
		return ctx, a.log, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	limit += a.config.Limits.AnswerTimeout
	var silent *time.Timer
	written := int64(0)
	silent = time.AfterFunc(forEver, func() {
		// The end of a long log comes last: the agent says whether the builder writes meanwhile.
		s, err := a.Machine.Client.Build(ctx, asked)
		if err == nil && s.Written > max(written, a.log.Size()) {
			written = s.Written
			silent.Reset(limit)
			return
		}
		cancel(&agentapi.Fault{Request: "max-silent-time", Problem: fmt.Sprintf("it does not end the build, which was silent for %s", limit)})
	})
	silent.Reset(limit)
	return ctx, resetting{a.log, silent, limit}, func() {
		silent.Stop()
		cancel(nil)
	}
}

// resetting is a writer that puts a timer off.
type resetting struct {
	io.Writer
	timer *time.Timer
	limit time.Duration
}

func (w resetting) Write(p []byte) (int, error) {
	w.timer.Reset(w.limit)
	return w.Writer.Write(p)
}

// buildTimes is what the coordinator saw of a build, by its own clock. If this attempt did not start
// the build, the first two are zero.
type buildTimes struct {
	put    time.Time // when the agent was asked to start it
	began  time.Time // when it answered
	ended  time.Time // when the end was heard of
	broken bool      // the connection broke in between
}

// clockSlack is by how much a machine may claim less time than was seen, besides a quarter of that:
// the builder may wait for its store, and the log for the link.
const clockSlack = 5 * time.Second

// duration returns how long a build took, and whether something can be learnt from that. The machine
// knows best, but its clock may be wrong, be set meanwhile, or lie: its claim counts if it agrees
// with what was seen from here; otherwise what was seen counts. Nothing is learnt from a build
// that was not seen from its start.
func (b *buildTimes) duration(s *agentapi.BuildStatus) (took time.Duration, sure bool) {
	claim := s.Stopped.Sub(s.Started)
	if b.put.IsZero() {
		return min(max(claim, 0), maxClaim), false
	}
	least, most := b.ended.Sub(b.began), b.ended.Sub(b.put)
	switch {
	case claim <= 0 || claim > most:
		return least, !b.broken
	case b.broken || claim >= least-least/4-clockSlack:
		return claim, true
	}
	return least, true
}

// maxClaim bounds what a machine may claim for a build that was not seen from its start. The claim
// is only shown.
const maxClaim = 30 * 24 * time.Hour

// How often persist tries again, and how long it pauses.
const (
	maxLinkFailures = 10               // in a row, with the machine reached between them
	maxAllFailures  = 100              // of one call, whatever went well between them
	linkProgress    = 10 * time.Second // a call that lasts longer than this ends the row
	maxLinkPause    = 5 * time.Second
	minLinkPause    = 20 * time.Millisecond
)

// persist calls f, and calls it again whenever the way to the machine has failed and the machine was
// reached after that. It gives up when the machine is lost. The context of f ends when the machine
// turns out not to answer.
func (a *Attempt) persist(ctx context.Context, m *peer.Peer, f func(ctx context.Context) error) error {
	pause := minLinkPause
	for failures, all := 0, 0; ; {
		began := time.Now()
		err := m.With(ctx, f)
		if ended := context.Cause(ctx); err != nil && ended != nil {
			return ended
		}
		if !peer.LinkFailed(err) {
			return err
		}
		if time.Since(began) > linkProgress {
			failures, pause = 0, minLinkPause
		}
		all++
		if failures++; failures > maxLinkFailures || all > maxAllFailures {
			return a.blameMachine(m, api.CulpritLink, err)
		}
		why := err
		var lost interface{ Because() error }
		if errors.As(err, &lost) {
			why = lost.Because() // the rest says what this says
		}
		a.Report(a.Phase, time.Time{}, "link to "+m.Name()+" lost, reconnecting: "+why.Error())
		if err := a.regain(ctx, m, pause, err); err != nil {
			return err
		}
		a.Report(a.Phase, time.Time{}, "")
		pause = min(2*pause, maxLinkPause)
	}
}

// regain waits until the machine has been reached again.
func (a *Attempt) regain(ctx context.Context, m *peer.Peer, pause time.Duration, lost error) error {
	patience := a.config.Limits.MachineLostAfter
	if a.Phase == api.Placed || a.Phase == api.Sending {
		patience = min(patience, a.config.Limits.SendPatience) // nothing is lost by going elsewhere
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-time.After(pause):
	case <-limited.Done():
	}
	if m.Await(limited) == nil {
		return nil
	}
	if ended := context.Cause(ctx); ended != nil {
		return ended
	}
	return a.blameMachine(m, api.CulpritLink, fmt.Errorf("not reached again for %s after: %w", patience, lost))
}
