package sshtransport

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"lighter/internal/backoff"
)

// An sshd takes few connections at a time that have not logged in yet (MaxStartups in sshd_config(5)), and
// drops others before it has said anything. So this process makes few at a time to one address, and
// tries again, a little later, where one was dropped.
const (
	startupsAtOnce    = 3
	startupTries      = 6
	firstStartupPause = 250 * time.Millisecond // it doubles: 6 to 8 s in all
	maxStartupPause   = 4 * time.Second
)

// startups are the places of those that connect, by address.
var startups struct {
	mu     sync.Mutex
	places map[string]*startupPlaces
}

type startupPlaces struct {
	free  chan struct{}
	users int // who has one or waits; under startups.mu
}

// connectInTurn is connect, when there is a place.
func connectInTurn(ctx context.Context, cfg *Config) (*link, error) {
	places := takePlaces(cfg.Addr)
	defer places.give(cfg.Addr)
	for try := 1; ; try++ {
		select {
		case places.free <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		l, err := connect(ctx, cfg)
		<-places.free
		if try == startupTries || !wasDropped(err) {
			return l, err
		}
		cfg.Logger.Debug("the server dropped the connection before it logged in (MaxStartups?)", "try", try, "err", err)
		if err := backoff.Wait(ctx, backoff.After(try, firstStartupPause, maxStartupPause, rand.Float64())); err != nil {
			return nil, err
		}
	}
}

func takePlaces(addr string) *startupPlaces {
	startups.mu.Lock()
	defer startups.mu.Unlock()
	p := startups.places[addr]
	if p == nil {
		p = &startupPlaces{free: make(chan struct{}, startupsAtOnce)}
		if startups.places == nil {
			startups.places = make(map[string]*startupPlaces)
		}
		startups.places[addr] = p
	}
	p.users++
	return p
}

func (p *startupPlaces) give(addr string) {
	startups.mu.Lock()
	defer startups.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(startups.places, addr)
	}
}

// wasDropped reports whether a server closed a connection before it said that it is one of SSH.
func wasDropped(err error) bool {
	var connect *ConnectError
	var program *ProgramError
	switch {
	case errors.As(err, &connect):
		return connect.dropped
	case errors.As(err, &program):
		return strings.Contains(program.Said, "kex_exchange_identification")
	}
	return false
}
