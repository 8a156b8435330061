package apiserver

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"lighter/internal/api"
)

// flushDelay is how long an event may stay in the buffer of its stream. A flush for
// each would cost more than the event itself when there are thousands a second.
const flushDelay = 20 * time.Millisecond

// eventStream writes events as JSON lines.
type eventStream struct {
	mu     sync.Mutex // owns all below
	rc     *http.ResponseController
	lines  *json.Encoder
	timer  *time.Timer
	dirty  bool // the timer runs
	closed bool
}

func newEventStream(w http.ResponseWriter) *eventStream {
	s := &eventStream{rc: http.NewResponseController(w), lines: json.NewEncoder(w)}
	_ = s.rc.Flush() // the client sees the headers at once
	s.timer = time.AfterFunc(time.Hour, s.flush)
	s.timer.Stop()
	return s
}

func (s *eventStream) write(ev *api.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.lines.Encode(ev); err != nil {
		return err
	}
	if !s.dirty {
		s.dirty = true
		s.timer.Reset(flushDelay)
	}
	return nil
}

func (s *eventStream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.dirty = false
	_ = s.rc.Flush() // that the client is gone shows in the request's context
}

// close flushes and makes the timer harmless: nothing is written after it.
func (s *eventStream) close() {
	s.flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.timer.Stop()
}
