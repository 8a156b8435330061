package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"time"

	"lighter/internal/api"
)

// Bounds of streams.
const (
	// maxStreams is how many there are at a time.
	maxStreams = 4000
	// maxCatchUps is how many of them read from the coordinator what the feed does not have.
	maxCatchUps = 4
	// maxBuilds is how many builds and machines a change names.
	maxBuilds = 200
	// maxFilter is how many builds a stream may be limited to.
	maxFilter = 100
)

const (
	// writeTime is how long a reader may take for what is written at once.
	writeTime = 10 * time.Second
	// heartbeat is after how long without events a stream says that it lives.
	heartbeat = 15 * time.Second
	// changesTime is between two changes of a coalesced stream.
	changesTime = time.Second
)

// Changes is what happened since the last change, for a page that then looks again. It is the data of
// the events "changes" of a coalesced stream.
type Changes struct {
	From     uint64   `json:"from"` // numbers of the first and the last event
	To       uint64   `json:"to"`
	Builds   []string `json:"builds,omitempty"`   // that changed
	Machines []string `json:"machines,omitempty"` // that changed, or on which builds did
	// More says that there were too many to name them all.
	More bool `json:"more,omitempty"`
}

// errSlow ends the stream of a reader that is too slow.
var errSlow = errors.New("the reader is too slow")

// ServeHTTP answers with events as they happen. The header Last-Event-ID, or the parameter "from", says
// after which number to begin; without it the stream begins now. With "coalesce" there are only
// Changes, one in a second at most; with "build" only events of those builds.
func (f *Feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after, resumed, err := lastEvent(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if len(q["build"]) > maxFilter {
		http.Error(w, fmt.Sprintf("build: at most %d", maxFilter), http.StatusBadRequest)
		return
	}
	if !f.enter() {
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many look at the events now; try again soon", http.StatusServiceUnavailable)
		return
	}
	defer f.leave()
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx passes it on at once
	s := &eventStream{f: f, w: w, rc: http.NewResponseController(w), builds: q["build"], coalesce: q.Has("coalesce")}
	// Its end, whatever the reason, is the end of the answer; browsers come back by themselves.
	_ = s.run(r.Context(), after, resumed)
}

// lastEvent returns the number of the last event that a client has seen.
func lastEvent(r *http.Request) (after uint64, resumed bool, err error) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.URL.Query().Get("from")
	}
	if text == "" {
		return 0, false, nil
	}
	after, err = strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, false, fmt.Errorf("%.40q is no number of an event", text)
	}
	return after, true, nil
}

func (f *Feed) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams >= maxStreams {
		return false
	}
	f.streams++
	return true
}

func (f *Feed) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams--
}

// eventStream is one reader.
type eventStream struct {
	f        *Feed
	w        http.ResponseWriter
	rc       *http.ResponseController
	builds   []string // empty for all
	coalesce bool
	after    uint64 // the last event that was passed on, or left out
}

// run passes events on, after the one with a number if the reader resumes, else from now on.
func (s *eventStream) run(ctx context.Context, after uint64, resumed bool) error {
	if err := s.write([]byte("retry: 3000\n\n")); err != nil {
		return err
	}
	select {
	case <-s.f.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.after = after
	if now := s.f.State(); !resumed || now.Caught && after > now.Last { // a number of another ledger
		s.after = now.Last
	}
	if resumed {
		if err := s.catchUp(ctx); err != nil {
			return err
		}
	}
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	for {
		batches, changed, err := s.f.since(s.after)
		if err != nil {
			return err
		}
		if len(batches) > 0 {
			if err := s.pass(batches); err != nil {
				return err
			}
			beat.Reset(heartbeat)
			if s.coalesce {
				if err := pause(ctx, changesTime); err != nil {
					return err
				}
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-beat.C:
			beat.Reset(heartbeat)
			if err := s.write([]byte(": nothing new\n\n")); err != nil {
				return err
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// since returns the batches with events after a number, and a channel that is closed when there are
// more. It is an error if some of them are not kept any more.
func (f *Feed) since(after uint64) ([]batch, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if after < f.before {
		return nil, nil, errSlow
	}
	at := sort.Search(len(f.batches), func(i int) bool { return f.batches[i].last > after })
	return f.batches[at:len(f.batches):len(f.batches)], f.changed, nil
}

// pass writes batches, or what the reader wants of them.
func (s *eventStream) pass(batches []batch) error {
	if s.coalesce {
		return s.passChanges(batches)
	}
	for i := range batches {
		b := &batches[i]
		frames := b.frames
		if b.first <= s.after || len(s.builds) > 0 {
			frames = s.chosen(b)
		}
		if len(frames) > 0 {
			if err := s.write(frames); err != nil {
				return err
			}
		}
		s.after = b.last
	}
	return nil
}

// chosen returns the frames of a batch that the reader has not seen and wants.
func (s *eventStream) chosen(b *batch) []byte {
	var frames []byte
	start := 0
	for i, ev := range b.events {
		frame := b.frames[start:b.ends[i]]
		start = b.ends[i]
		if ev.number > s.after && s.wants(ev) {
			frames = append(frames, frame...)
		}
	}
	return frames
}

func (s *eventStream) wants(ev brief) bool {
	return len(s.builds) == 0 || slices.Contains(s.builds, ev.build)
}

// passChanges writes what changed in batches.
func (s *eventStream) passChanges(batches []batch) error {
	c := Changes{From: s.after + 1, To: batches[len(batches)-1].last}
	builds, machines := make(map[string]bool), make(map[string]bool)
	for i := range batches {
		for _, ev := range batches[i].events {
			if ev.number <= s.after || !s.wants(ev) {
				continue
			}
			if len(builds) >= maxBuilds || len(machines) >= maxBuilds {
				c.More = true
				break
			}
			builds[ev.build], machines[ev.machine] = true, true
		}
	}
	delete(builds, "")
	delete(machines, "")
	s.after = c.To
	if len(s.builds) > 0 && len(builds) == 0 && !c.More {
		return nil
	}
	return s.changes(&c, builds, machines)
}

func (s *eventStream) changes(c *Changes, builds, machines map[string]bool) error {
	c.Builds, c.Machines = sorted(builds), sorted(machines)
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return s.write(fmt.Appendf(nil, "id: %d\nevent: changes\ndata: %s\n\n", c.To, data))
}

func sorted(set map[string]bool) []string {
	list := make([]string, 0, len(set))
	for name := range set {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// catchUp reads from the coordinator what happened after the last event that the reader has seen and is not
// kept. A coalesced stream has no need of it: its page looks at all anew.
func (s *eventStream) catchUp(ctx context.Context) error {
	before := s.f.firstBefore()
	if s.after >= before {
		return nil
	}
	if s.coalesce {
		c := Changes{From: s.after + 1, To: before, More: true}
		s.after = before
		return s.changes(&c, nil, nil)
	}
	select {
	case s.f.catchUps <- struct{}{}:
		defer func() { <-s.f.catchUps }()
	case <-ctx.Done():
		return ctx.Err()
	}
	reached := errors.New("the feed has the rest")
	var frames []byte
	err := s.f.client.Events(ctx, s.after+1, func(ev *api.Event) error {
		if before := s.f.firstBefore(); ev.Seq > before {
			s.after = max(s.after, before)
			return reached
		}
		s.after = ev.Seq
		if s.wants(brief{ev.Seq, ev.Build, ev.Machine}) {
			frames = append(frames, frameOf(ev)...)
		}
		if len(frames) <= 64<<10 {
			return nil
		}
		defer func() { frames = frames[:0] }()
		return s.write(frames)
	})
	if err != nil && !errors.Is(err, reached) {
		return err
	}
	if len(frames) == 0 {
		return nil
	}
	return s.write(frames)
}

// firstBefore is up to which number events are not kept.
func (f *Feed) firstBefore() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.before
}

func (s *eventStream) write(p []byte) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTime)) // which not every test's writer can
	if _, err := s.w.Write(p); err != nil {
		return err
	}
	return s.rc.Flush()
}
