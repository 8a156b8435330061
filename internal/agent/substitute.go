package agent

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"lighter/internal/agentapi"
	"lighter/store"
)

// Substituter gets items from substitute servers.
type Substituter interface {
	// Substitute makes those of the paths valid that the servers have, and what they
	// refer to. It returns the ones that are valid afterwards, also beside an error, which
	// is about the others. What no server has is not an error.
	Substitute(ctx context.Context, urls []string, paths []store.Path) (fetched []store.Path, err error)
}

const (
	// substituteRuns is how many calls of a Substituter run at the same time. Each may
	// have many downloads.
	substituteRuns = 4
	// maxTried bounds how many items are remembered that could not be had.
	maxTried = 200_000
	// maxAside bounds how many lists of servers are remembered that took too long, and
	// maxAsideFactor for how much longer than the first time they are left alone.
	maxAside       = 1000
	maxAsideFactor = 12
)

// substitutes asks a Substituter, for several builds at the same time, for each item once.
type substitutes struct {
	from    Substituter
	timeout time.Duration // of one call
	pause   time.Duration // until it is asked again for what it did not get
	log     *slog.Logger
	slots   chan struct{} // has room for each call that may run

	mu sync.Mutex // owns all below
	// fetching has a channel for each item that is asked for now, closed at the end.
	fetching map[wanted]chan struct{}
	// tried has until when it is not asked for an item that it did not get.
	tried map[wanted]time.Time
	// aside has the servers that took too long the last time they were asked. Without it
	// each build would wait for servers that take connections and never answer.
	aside map[string]slow
}

// slow is for how long servers are not asked for anything.
type slow struct {
	until time.Time
	times int // in a row
}

// wanted is an item, and the servers that it shall come from.
type wanted struct {
	servers string
	path    store.Path
}

func newSubstitutes(opts *Options, log *slog.Logger) *substitutes {
	return &substitutes{
		from: opts.Substituter, timeout: opts.SubstituteTimeout, pause: opts.SubstitutePause, log: log,
		slots:    make(chan struct{}, substituteRuns),
		fetching: make(map[wanted]chan struct{}), tried: make(map[wanted]time.Time), aside: make(map[string]slow),
	}
}

// fetch gets what it can of the items, and waits for those that another build is getting.
// What comes of it, the store knows. It ends with the context.
func (s *substitutes) fetch(ctx context.Context, urls []string, paths []store.Path) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errSubstituteTimeout)
	defer cancel()
	servers := strings.Join(urls, " ")
	mine, others := s.claim(servers, paths, time.Now())
	if len(mine) > 0 {
		s.get(ctx, urls, servers, mine)
	}
	for _, over := range others {
		select {
		case <-over:
		case <-ctx.Done():
			return
		}
	}
}

// get asks for claimed items, and ends the claim.
func (s *substitutes) get(ctx context.Context, urls []string, servers string, paths []store.Path) {
	var missed []store.Path
	defer func() { s.release(servers, paths, missed, time.Now()) }()
	missed = s.run(ctx, urls, servers, paths)
}

// claim returns the items that the caller is to get, and of those that another caller is
// getting when that is over. What could not be had a short time ago is left out, and
// everything while the servers are set aside.
func (s *substitutes) claim(servers string, paths []store.Path, now time.Time) (mine []store.Path, others []chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.aside[servers].until) {
		return nil, nil
	}
	over := make(chan struct{})
	waits := make(map[chan struct{}]bool)
	for _, p := range paths {
		w := wanted{servers, p}
		until, tried := s.tried[w]
		switch other := s.fetching[w]; {
		case other != nil && other != over && !waits[other]:
			waits[other] = true
			others = append(others, other)
		case other != nil:
		case tried && now.Before(until):
		default:
			delete(s.tried, w)
			s.fetching[w] = over
			mine = append(mine, p)
		}
	}
	return mine, others
}

// release ends a claim. What was missed is left alone for a while.
func (s *substitutes) release(servers string, mine, missed []store.Path, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range mine {
		w := wanted{servers, p}
		if i == 0 {
			close(s.fetching[w]) // they all have the same
		}
		delete(s.fetching, w)
	}
	if len(s.tried)+len(missed) > maxTried {
		for w, until := range s.tried {
			if !now.Before(until) {
				delete(s.tried, w)
			}
		}
	}
	for _, p := range missed[:min(len(missed), max(0, maxTried-len(s.tried)))] {
		s.tried[wanted{servers, p}] = now.Add(s.pause)
	}
}

// tookTooLong sets servers aside, for longer each time.
func (s *substitutes) tookTooLong(servers string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.aside[servers]
	if now.Before(last.until) || !known && len(s.aside) >= maxAside {
		return // another call was as slow, or there are too many
	}
	times := min(last.times+1, maxAsideFactor)
	s.aside[servers] = slow{now.Add(time.Duration(times) * s.pause), times}
}

// answered ends that servers are set aside.
func (s *substitutes) answered(servers string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.aside, servers)
}

var errSubstituteTimeout = errors.New("the servers took too long")

// run asks for items, and returns those that it did not get. If the context has
// ended it says nothing about them.
func (s *substitutes) run(ctx context.Context, urls []string, servers string, paths []store.Path) (missed []store.Path) {
	var fetched []store.Path
	var err error
	began, asked := time.Now(), false
	select {
	case s.slots <- struct{}{}:
		asked = true
		fetched, err = s.ask(ctx, urls, paths)
	case <-ctx.Done():
	}
	switch {
	case ctx.Err() == nil:
		s.answered(servers)
	case !errors.Is(context.Cause(ctx), errSubstituteTimeout):
		return nil
	default:
		err = context.Cause(ctx)
		if asked {
			s.tookTooLong(servers, time.Now())
		}
	}
	got := make(map[store.Path]bool, len(fetched))
	for _, p := range fetched {
		got[p] = true
	}
	for _, p := range paths {
		if !got[p] {
			missed = append(missed, p)
		}
	}
	log := s.log.With("servers", urls, "wanted", len(paths), "fetched", len(paths)-len(missed), "took", time.Since(began))
	if err != nil {
		log.Warn("not all inputs came from substitute servers; the coordinator sends them", "err", err)
		return missed
	}
	log.Debug("inputs came from substitute servers")
	return missed
}

// ask calls the Substituter, and gives its slot back.
func (s *substitutes) ask(ctx context.Context, urls []string, paths []store.Path) ([]store.Path, error) {
	defer func() { <-s.slots }()
	return s.from.Substitute(ctx, urls, paths)
}

// substitute tries to get a build's missing inputs from the servers of its request, and
// returns what is still missing. It is ended by who cancels the build.
func (a *Agent) substitute(ctx context.Context, at *attempt, req *agentapi.BuildRequest, missing []store.Path) ([]store.Path, error) {
	if a.substitutes == nil || len(req.SubstituteURLs) == 0 || len(missing) == 0 {
		return missing, nil
	}
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(a.ctx, func() { cancel(errShutdown) })() //nolint:contextcheck // both end it
	a.setInterrupt(at.id, cancel)
	defer a.setInterrupt(at.id, nil)
	a.substitutes.fetch(limited, req.SubstituteURLs, missing)
	return store.Missing(ctx, a.opts.Store, missing)
}

func (a *Agent) setInterrupt(id string, cancel context.CancelCauseFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.entries[id]
	if e == nil {
		return
	}
	e.interrupt = cancel
	if cancel != nil && e.hurried > 0 {
		cancel(errHurried)
	}
}

// errHurried is why a build's inputs are not waited for any more.
var errHurried = errors.New("the build is to end")

// hurry makes who has the turn of a build get no more of its inputs from substitute servers,
// if the attempt is one before the given number. It is called by who is to wait for the turn
// to end that attempt, and the result when that wait is over.
func (a *Agent) hurry(id string, before int) (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.entries[id]
	if e == nil || e.attempt == nil && before < math.MaxInt || e.attempt != nil && e.attempt.number >= before {
		return func() {}
	}
	e.hurried++
	if e.interrupt != nil {
		e.interrupt(errHurried)
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		e.hurried--
	}
}
