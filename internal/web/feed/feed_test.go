package feed

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// ledger is a coordinator that has events and nothing else.
type ledger struct {
	mu     sync.Mutex
	events []api.Event
	more   chan struct{}
	reads  int // requests for events
}

func newLedger(n int) *ledger {
	l := &ledger{more: make(chan struct{})}
	l.add(n)
	return l
}

func (l *ledger) add(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		seq := uint64(len(l.events) + 1)
		l.events = append(l.events, api.Event{Seq: seq, Time: time.Unix(int64(seq), 0), Build: fmt.Sprintf("build-%d", seq%3), State: api.Queued})
	}
	close(l.more)
	l.more = make(chan struct{})
}

func (l *ledger) after(n uint64) ([]api.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[min(int(n), len(l.events)):], l.more
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/status":
		l.mu.Lock()
		defer l.mu.Unlock()
		json.NewEncoder(w).Encode(api.Status{LastEvent: uint64(len(l.events))})
	case "/v1/events":
		l.mu.Lock()
		l.reads++
		l.mu.Unlock()
		from, _ := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
		at := max(from, 1) - 1
		for {
			events, more := l.after(at)
			for _, ev := range events {
				json.NewEncoder(w).Encode(ev)
			}
			at += uint64(len(events))
			if r.URL.Query().Get("follow") != "1" {
				return
			}
			http.NewResponseController(w).Flush()
			select {
			case <-more:
			case <-r.Context().Done():
				return
			}
		}
	default:
		http.NotFound(w, r)
	}
}

// start returns a feed of the ledger's events, and the URL at which it answers.
func (l *ledger) start(t *testing.T) (*Feed, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	coordinator := &httptest.Server{Listener: listener, Config: &http.Server{Handler: l}}
	coordinator.Start()
	client := apiclient.NewClient(socket)
	f := New(client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	page := httptest.NewServer(f)
	t.Cleanup(func() {
		cancel()
		<-done
		page.CloseClientConnections()
		page.Close()
		client.Close()
		coordinator.CloseClientConnections()
		coordinator.Close()
	})
	return f, page.URL
}

// reader reads a stream.
type reader struct {
	t       *testing.T
	resp    *http.Response
	scanner *bufio.Scanner
}

func read(t *testing.T, url string, header ...string) *reader {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, resp.Status)
	}
	r := &reader{t: t, resp: resp, scanner: bufio.NewScanner(resp.Body)}
	r.scanner.Buffer(nil, 1<<20)
	return r
}

// next returns the next event: its id, name and data.
func (r *reader) next() (id int, name, data string) {
	r.t.Helper()
	for r.scanner.Scan() {
		field, value, _ := strings.Cut(r.scanner.Text(), ": ")
		switch {
		case field == "id":
			id, _ = strconv.Atoi(value)
		case field == "event":
			name = value
		case field == "data":
			data = value
		case r.scanner.Text() == "" && data != "":
			return id, name, data
		}
	}
	r.t.Fatalf("the stream ended: %v", r.scanner.Err())
	return 0, "", ""
}

// want reads events with the ids from first to last.
func (r *reader) want(first, last int) {
	r.t.Helper()
	for want := first; want <= last; want++ {
		id, name, data := r.next()
		var ev api.Event
		if err := json.Unmarshal([]byte(data), &ev); err != nil || id != want || name != "queued" || ev.Seq != uint64(want) {
			r.t.Fatalf("id %d, event %s, data %s (%v): want %d", id, name, data, err, want)
		}
	}
}

// TestStream has each reader get each event once, in order, from where it asks.
func TestStream(t *testing.T) {
	l := newLedger(5)
	f, url := l.start(t)
	r := read(t, url+"?from=2")
	r.want(3, 5)
	now := read(t, url)
	l.add(3)
	r.want(6, 8)
	now.want(6, 8)
	read(t, url, "Last-Event-ID", "7").want(8, 8)
	if got := f.State(); got.Last != 8 || got.Streams == 0 || !got.Caught || got.Away {
		t.Errorf("state %+v", got)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reads != 1 {
		t.Errorf("the coordinator was asked %d times for events, want once for all", l.reads)
	}
}

func TestStreamOfBuilds(t *testing.T) {
	l := newLedger(6)
	_, url := l.start(t)
	r := read(t, url+"?from=0&build=build-1")
	for _, want := range []int{1, 4} {
		if id, _, _ := r.next(); id != want {
			t.Fatalf("event %d, want %d", id, want)
		}
	}
}

// TestCoalesced has a page learn of many events at once.
func TestCoalesced(t *testing.T) {
	l := newLedger(100)
	_, url := l.start(t)
	read(t, url+"?from=99").want(100, 100) // all have been read
	r := read(t, url+"?coalesce&from=0")
	id, name, data := r.next()
	var c Changes
	if err := json.Unmarshal([]byte(data), &c); err != nil || name != "changes" || id != 100 {
		t.Fatalf("id %d, event %s, data %s: %v", id, name, data, err)
	}
	want := Changes{From: 1, To: 100, Builds: []string{"build-0", "build-1", "build-2"}, Machines: []string{}}
	if want.Machines = nil; cmp.Diff(want, c) != "" {
		t.Errorf("want - got +\n%s", cmp.Diff(want, c))
	}
}

// TestResumeFromLedger has a reader who was long away get what the feed has dropped.
func TestResumeFromLedger(t *testing.T) {
	l := newLedger(lookBack + 20)
	_, url := l.start(t)
	r := read(t, url+"?from=10")
	r.want(11, 40)
	last := read(t, fmt.Sprintf("%s?from=%d&coalesce", url, 3))
	_, _, data := last.next()
	var c Changes
	if err := json.Unmarshal([]byte(data), &c); err != nil || !c.More || c.From != 4 || c.To != 19 {
		t.Errorf("a page that was long away is told %s, want to look at everything", data)
	}
}

func TestBadStreams(t *testing.T) {
	f := New(apiclient.NewClient("/nowhere"), slog.New(slog.DiscardHandler))
	for _, query := range []string{"?from=-1", "?from=x", "?from=99999999999999999999", "?" + strings.Repeat("build=a&", maxFilter+1)} {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/events"+query, http.NoBody))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%.30s: %d", query, w.Code)
		}
	}
	f.streams = maxStreams
	w := httptest.NewRecorder()
	f.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/events", http.NoBody))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one stream too many: %d", w.Code)
	}
}

// TestSlowReader bounds what is kept for who does not read, and ends its stream.
func TestSlowReader(t *testing.T) {
	f := New(apiclient.NewClient("/nowhere"), slog.New(slog.DiscardHandler))
	reason := strings.Repeat("x", 4000)
	n := uint64(3 * maxKept / len(reason))
	for seq := uint64(1); seq <= n; seq++ {
		f.take(&api.Event{Seq: seq, Build: "b", State: api.Queued, Reason: reason}, n)
	}
	if f.kept > maxKept {
		t.Errorf("%d bytes are kept, want %d at most", f.kept, maxKept)
	}
	if _, _, err := f.since(1); err == nil {
		t.Error("who has read 1 event, and then none of many, is not dropped")
	}
	if batches, _, err := f.since(f.before); err != nil || batches[0].first != f.before+1 {
		t.Errorf("who is as slow as can be: %v", err)
	}
	if got := len(f.Recent(10 * maxRecent)); got != maxRecent {
		t.Errorf("%d events are recent, want %d", got, maxRecent)
	}
}

// TestFrame keeps what an event says within its frame.
func TestFrame(t *testing.T) {
	frame := string(frameOf(&api.Event{Seq: 7, Kind: "x\nevent: y", Reason: "a\n\ndata: b\r\nid: 9"}))
	if strings.Count(frame, "\n") != 4 || !strings.HasPrefix(frame, "id: 7\nevent: event\ndata: {") || strings.Contains(frame, "\r") {
		t.Errorf("frame %q", frame)
	}
}

// TestBatches has events wait for each other, for a moment.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(apiclient.NewClient("/nowhere"), slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.passOn(ctx)
		_, changed, _ := f.since(0)
		start := time.Now()
		f.take(&api.Event{Seq: 1}, 0)
		f.take(&api.Event{Seq: 2}, 0)
		<-changed
		if batches, _, _ := f.since(0); len(batches) != 1 || batches[0].last != 2 {
			t.Errorf("batches %v", batches)
		}
		if waited := time.Since(start); waited > batchTime {
			t.Errorf("waited %v", waited)
		}
		cancel()
		synctest.Wait()
	})
}

func TestSpans(t *testing.T) {
	s := newSpans()
	at := func(minutes int) time.Time { return time.Date(2026, 11, 3, 12, minutes, 0, 0, time.UTC) }
	for _, ev := range []api.Event{
		{Time: at(0), Build: "a", State: api.Queued, Kind: api.KindSubmitted},
		{Time: at(1), Build: "a", Attempt: 1, Machine: "m", State: api.Placed},
		{Time: at(2), Build: "a", Attempt: 1, Machine: "m", State: api.Building},
		{Time: at(3), Build: "b", Attempt: 1, Machine: "m", State: api.Building},
		{Time: at(4), Build: "a", Attempt: 1, Machine: "m", State: api.Fetching}, // its slot is free
		{Time: at(9), Build: "a", Attempt: 1, Machine: "m", State: api.Succeeded},
		{Time: at(9), Build: "c", Attempt: 1, Machine: "other", State: api.Building},
	} {
		s.take(&ev)
	}
	got, since := s.of("m", at(-60))
	want := []Span{
		{Build: "a", Machine: "m", Attempt: 1, From: at(1), To: at(4), State: api.Fetching},
		{Build: "b", Machine: "m", Attempt: 1, From: at(3), State: api.Building},
	}
	if d := cmp.Diff(want, got); d != "" || !since.Equal(at(0)) {
		t.Errorf("since %v, want - got +\n%s", since, d)
	}
	if got, _ := s.of("m", at(5)); len(got) != 1 || got[0].Build != "b" {
		t.Errorf("since minute 5: %v", got)
	}
	for i := range maxSpans + 10 {
		s.take(&api.Event{Time: at(10), Build: strconv.Itoa(i), Attempt: 1, Machine: "m", State: api.Building})
	}
	if len(s.list) > maxSpans || len(s.open) > maxSpans {
		t.Errorf("%d attempts are kept, %d of them open: want %d at most", len(s.list), len(s.open), maxSpans)
	}
	s.take(&api.Event{Time: at(10).Add(26 * time.Hour), Build: "new", Attempt: 1, Machine: "m", State: api.Building})
	if got, since := s.of("m", at(0)); len(got) != 1 || !since.After(at(0)) {
		t.Errorf("a day later %d attempts are kept, since %v", len(got), since)
	}
}
