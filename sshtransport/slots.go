package sshtransport

import (
	"context"
	"net"
	"slices"
	"sync"
)

// slots bounds how many sessions are open at a time. Who waits is served in order.
type slots struct {
	mu      sync.Mutex
	limit   int
	used    int
	waiting []chan struct{}
}

// acquire takes a slot, when one is free. It gives up when ctx ends or over is closed.
func (s *slots) acquire(ctx context.Context, over <-chan struct{}) error {
	s.mu.Lock()
	if s.used < s.limit && len(s.waiting) == 0 {
		s.used++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	s.waiting = append(s.waiting, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-over:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, turn); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	} else { // it was given to us in the same moment
		s.used--
		s.serveLocked()
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return net.ErrClosed
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.serveLocked()
}

func (s *slots) serveLocked() {
	for len(s.waiting) > 0 && s.used < s.limit {
		s.used++
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
	}
}

// refused frees a slot for whose session the server had no room. If others are in
// use, that is why: it lowers the limit to their number, and returns it. Else it
// returns 0, and waiting for another slot would not help.
func (s *slots) refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.used > 0 {
		s.limit = min(s.limit, s.used)
	}
	s.serveLocked()
	return min(s.used, s.limit)
}
