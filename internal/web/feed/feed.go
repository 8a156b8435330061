// Package feed reads the coordinator's events once for all who look at the page, and passes them on
// as server-sent events (HTML, section 9.2) with the coordinator's own numbers as ids. Who comes back
// with Last-Event-ID misses none: what the feed no longer has it reads from the coordinator.
//
// Events come in batches, a few each second, whose bytes are made once and written to everybody; so
// a stream costs little more than what it carries. Who reads too slowly is dropped, and resumes.
package feed

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// Bounds of what is kept.
const (
	// maxKept bounds the bytes of events that are kept for who reads slowly or comes back soon.
	maxKept = 8 << 20
	// maxRecent is how many events [Feed.Recent] has.
	maxRecent = 500
	// lookBack is how many events before the start are read.
	lookBack = 50_000
)

const (
	// batchTime is how long an event may wait for others.
	batchTime = 200 * time.Millisecond
	// patience is how long a coordinator may be away before its absence is logged.
	patience = time.Minute
	// retryTime is for how long nothing is tried after an error that is not an absence.
	retryTime = 5 * time.Second
)

// batch is events that are passed on together.
type batch struct {
	first, last uint64 // their numbers
	frames      []byte // of all, as server-sent events
	ends        []int  // of each in frames
	events      []brief
}

// brief is what a stream that leaves events out must know of one.
type brief struct {
	number         uint64
	build, machine string
}

// Feed has the events.
type Feed struct {
	client *apiclient.Client
	log    *slog.Logger

	mu      sync.Mutex // owns all below
	batches []batch    // kept ones, in order
	kept    int        // bytes
	next    batch      // is filled
	before  uint64     // events up to this number are not kept
	last    uint64     // number of the newest event that was read
	away    bool       // no coordinator answers
	caught  bool       // what there was at the start has been read
	recent  []api.Event
	spans   spans
	changed chan struct{} // closed when there is another batch
	streams int

	begun    chan struct{} // closed when it is known from which event on the feed has all
	catchUps chan struct{} // places of streams that read from the coordinator
}

// New returns a feed of a coordinator's events. [Feed.Run] reads them.
func New(client *apiclient.Client, log *slog.Logger) *Feed {
	return &Feed{client: client, log: log, changed: make(chan struct{}), spans: newSpans(), begun: make(chan struct{}), catchUps: make(chan struct{}, maxCatchUps)}
}

// Run reads events until the context ends, across restarts of the coordinator.
func (f *Feed) Run(ctx context.Context) {
	var passing sync.WaitGroup
	passing.Go(func() { f.passOn(ctx) })
	defer passing.Wait()
	for ctx.Err() == nil {
		err := f.read(ctx)
		if ctx.Err() != nil {
			return
		}
		f.setAway(true)
		f.log.Warn("no events from the coordinator", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryTime):
		}
	}
}

// read follows events until the coordinator is away for too long.
func (f *Feed) read(ctx context.Context) error {
	status, err := f.client.Status(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	from := f.last + 1
	if status.LastEvent < f.last { // the ledger is another one, or lost its end in a crash
		f.forget()
		from = 1
	}
	if status.LastEvent > lookBack && from < status.LastEvent-lookBack {
		f.forget()
		from = status.LastEvent - lookBack
		f.before, f.last = from-1, from-1
	}
	f.away = false
	f.caught = status.LastEvent < from
	select {
	case <-f.begun:
	default:
		close(f.begun)
	}
	f.mu.Unlock()
	return f.client.FollowAcross(ctx, from, patience, func(ev *api.Event) error {
		f.take(ev, status.LastEvent)
		return nil
	})
}

func (f *Feed) setAway(is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = is
}

// forget drops all that is kept.
func (f *Feed) forget() {
	f.batches, f.kept, f.next, f.before, f.last, f.recent, f.spans = nil, 0, batch{}, 0, 0, nil, newSpans()
}

// take adds an event. there is the number of the last one that was there when reading began: up to it
// events are the past, which nobody waits for.
func (f *Feed) take(ev *api.Event, there uint64) {
	frame := frameOf(ev)
	f.mu.Lock()
	defer f.mu.Unlock()
	if ev.Seq <= f.last {
		return
	}
	f.last, f.away = ev.Seq, false
	f.caught = f.caught || ev.Seq >= there
	if len(f.recent) >= 2*maxRecent {
		f.recent = append(f.recent[:0], f.recent[len(f.recent)-maxRecent:]...)
	}
	f.recent = append(f.recent, *ev)
	f.spans.take(ev)
	b := &f.next
	if b.first == 0 {
		b.first = ev.Seq
	}
	b.last = ev.Seq
	b.frames = append(b.frames, frame...)
	b.ends = append(b.ends, len(b.frames))
	b.events = append(b.events, brief{ev.Seq, ev.Build, ev.Machine})
	if len(b.frames) > maxKept/16 {
		f.closeBatch()
	}
}

// frameOf writes an event as a server-sent event.
func frameOf(ev *api.Event) []byte {
	data, err := json.Marshal(ev)
	if err != nil {
		data = []byte("{}") // a time that JSON can't hold: from no ledger
	}
	frame := append(strconv.AppendUint([]byte("id: "), ev.Seq, 10), "\nevent: "...)
	frame = append(frame, safeName(cmp.Or(string(ev.Kind), string(ev.State), "machine"))...)
	frame = append(append(frame, "\ndata: "...), data...)
	return append(frame, "\n\n"...)
}

// safeName is a name of an event that can't end its line.
func safeName(name string) string {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && c != '-' {
			return "event"
		}
	}
	return name
}

// closeBatch passes the next batch on.
func (f *Feed) closeBatch() {
	if f.next.first == 0 {
		return
	}
	f.batches, f.kept = append(f.batches, f.next), f.kept+len(f.next.frames)
	f.next = batch{}
	for len(f.batches) > 1 && f.kept > maxKept {
		f.kept, f.before = f.kept-len(f.batches[0].frames), f.batches[0].last
		f.batches[0] = batch{}
		f.batches = f.batches[1:]
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// passOn closes batches now and then.
func (f *Feed) passOn(ctx context.Context) {
	ticks := time.NewTicker(batchTime)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			f.mu.Lock()
			f.closeBatch()
			f.mu.Unlock()
		}
	}
}

// Recent returns the newest events, the newest first, at most n.
func (f *Feed) Recent(n int) []api.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = min(n, len(f.recent), maxRecent)
	list := make([]api.Event, 0, n)
	for i := range n {
		list = append(list, f.recent[len(f.recent)-1-i])
	}
	return list
}

// State says how the feed is doing.
type State struct {
	Last    uint64 // number of the newest event
	Away    bool   // no coordinator answers
	Caught  bool   // the past has been read
	Streams int    // that are open
	Kept    int    // bytes of events
}

// State returns how the feed is doing.
func (f *Feed) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return State{Last: f.last, Away: f.away, Caught: f.caught, Streams: f.streams, Kept: f.kept}
}

// Spans returns the attempts that a machine made, wholly or partly since a time, in the order in which they were
// begun, and since when all of them are known: what is asked for, or later.
func (f *Feed) Spans(machine string, since time.Time) ([]Span, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.spans.of(machine, since)
}
