package remote

import (
	"context"
	"fmt"
	"io"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
)

// Whatever a machine is asked for has a limit: each request has those of agentapi, and a
// build itself has its own, which the agent keeps. One that does not is found out here.

// forEver is so long that it is no limit.
const forEver = 100 * 365 * 24 * time.Hour

// limited returns the context for a build that the agent is to end in time.
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

// listen returns what takes the log, and a context that ends when the builder is silent for
// longer than the agent may let it be.
func (a *Attempt) listen(ctx context.Context) (context.Context, io.Writer, func()) {
	limit := a.Options.MaxSilentTime.Duration()
	if limit <= 0 || limit > forEver {
		return ctx, a.log, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	limit += a.config.Limits.AnswerTimeout
	silent := time.AfterFunc(limit, func() {
		cancel(&agentapi.Fault{Request: "max-silent-time", Problem: fmt.Sprintf("it does not end the build, which was silent for %s", limit)})
	})
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

// buildTimes is when the coordinator saw what of a build, by its own clock. Where it did not
// start the build itself the first two are zero.
type buildTimes struct {
	put    time.Time // the agent was asked to start it
	began  time.Time // the answer to that
	ended  time.Time // the end was heard of
	broken bool      // the machine was out of reach between these
}

// clockSlack is by how much what a machine says may be less than what was seen of a build,
// beside a quarter of that: the builder may wait for its store, and the log for the link.
const clockSlack = 5 * time.Second

// duration returns how long a build took, and whether that says something about others. The
// machine knows best, but its clock may be wrong, be set meanwhile, or lie: what it says
// counts as far as it agrees with what was seen from here; else what was seen does. Of
// a build that was not seen from its start nothing is learnt.
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

// maxClaim is what is believed of a build's time that nobody saw: it is shown, and no more.
const maxClaim = 30 * 24 * time.Hour

// How persist tries again.
const (
	maxLinkFailures = 10               // in a row, with the machine reached between them
	maxAllFailures  = 100              // of one call, whatever went well between them
	linkProgress    = 10 * time.Second // what goes well for that long ends the row
	maxLinkPause    = 5 * time.Second
	minLinkPause    = 20 * time.Millisecond
)

// persist calls f, and again whenever the way to the machine failed and the machine
// was reached after that. It gives up when the machine is lost. The context of f ends
// when the machine turns out not to answer.
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
		a.Report(a.Phase, time.Time{}, "link to "+m.Name+" lost, reconnecting: "+err.Error())
		if err := a.regain(ctx, m, pause, err); err != nil {
			return err
		}
		a.Report(a.Phase, time.Time{}, "")
		pause = min(2*pause, maxLinkPause)
	}
}

// regain waits until the machine was reached again.
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
