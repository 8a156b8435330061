package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/human"
	"lighter/internal/stream"
	"lighter/internal/web/logview"
)

// Log is a part of a build's log.
type Log struct {
	Build *api.Build `json:"build"`
	// Name says which log it is: the id of the build whose attempts it is of, a dot, and the number of the attempt.
	// Attempt and Machine are where it comes from, if that is known.
	Name    string `json:"name,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	Machine string `json:"machine,omitempty"`
	// None says why there is no log.
	None    string `json:"none,omitempty"`
	Size    int64  `json:"size"` // bytes so far
	Growing bool   `json:"growing"`
	// Start and Next are offsets in bytes: of the first line, and of what comes after the last: a client goes on with
	// ?from=NEXT. Last says that there is nothing there now.
	Start int64     `json:"start"`
	Next  int64     `json:"next"`
	Last  bool      `json:"last"`
	Lines []LogLine `json:"lines"`
	// Error is the line that says what went wrong first, if the build failed.
	Error *LogLine `json:"error,omitempty"`

	query url.Values    // chooses the log
	text  template.HTML // of Lines
}

// LogLine is a line of a log.
type LogLine struct {
	Number int    `json:"number"` // from 1
	Offset int64  `json:"offset"` // of its first byte
	Text   string `json:"text"`   // without colours, safe to print; cut if it is long
}

// errorWindow is how much of a log's end is searched for what went wrong, in bytes.
const errorWindow = 256 << 10

// loadLog is the page of a log. ?from=, ?before= and ?line= say which part of it.
func (s *Server) loadLog(r *http.Request) (any, error) {
	b, err := s.buildOf(r, "/log.html")
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	query, err := logQuery(q)
	if err != nil {
		return nil, err
	}
	want, err := wantedPart(q)
	if err != nil {
		return nil, err
	}
	m := &Log{Build: b, Lines: []LogLine{}, Last: true, Machine: query.Machine, Attempt: query.Attempt, query: url.Values{}}
	err = s.ask(r.Context(), func(ctx context.Context, c *apiclient.Client) error {
		resp, err := c.LogFile(ctx, http.MethodHead, b.ID, query, nil)
		if err == nil {
			resp.Body.Close()
			m.Name, m.Size, m.Growing = resp.Header.Get(api.LogHeader), max(0, resp.ContentLength), resp.Header.Get("ETag") == ""
		}
		return err
	})
	var refused *api.Error
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		m.None = whyNoLog(b, query)
		return m, nil
	case err != nil:
		return nil, err
	}
	m.choose(&query)
	return m, s.readLog(r.Context(), m, query, want)
}

// choose has the same log chosen from now on, whatever the build's last attempt is then.
func (m *Log) choose(query *apiclient.LogQuery) {
	id, number, _ := strings.Cut(m.Name, ".")
	attempt, _ := strconv.Atoi(number)
	if m.Build.Check > 0 {
		for i := range m.Build.Results {
			if r := &m.Build.Results[i]; query.Machine == "" && r.LogID == id && r.LogAttempt == attempt {
				query.Machine = r.Machine
			}
		}
		m.Machine = query.Machine
		m.query.Set("machine", query.Machine)
		return
	}
	if m.Attempt = attempt; attempt == m.Build.Attempt {
		m.Machine = m.Build.Machine
	}
	*query = apiclient.LogQuery{Attempt: attempt}
	m.query.Set("attempt", number)
}

// readLog reads the part that is wanted.
func (s *Server) readLog(ctx context.Context, m *Log, query apiclient.LogQuery, want logview.Want) error {
	known, err := s.logs.get(ctx, m.Name)
	if err != nil {
		return err
	}
	defer known.release()
	read := func(w io.Writer, from, to int64) error {
		return s.ask(ctx, func(ctx context.Context, c *apiclient.Client) error { return readRange(ctx, c, m, query, from, to, w) })
	}
	if err := read(&known.index, known.index.Size(), m.Size); err != nil {
		return err
	}
	bytesOf := func(from, to int64) ([]byte, error) {
		var piece strings.Builder
		err := read(&piece, from, to)
		return []byte(piece.String()), err
	}
	part, err := known.index.Part(want, m.Growing, bytesOf)
	if err != nil {
		return err
	}
	last := want == logview.Want{} || want.Before > 0
	text, n := logview.Render(part.Lines, last)
	part.Keep(n, last)
	m.text, m.Start, m.Next, m.Last = text, part.Start, part.Next, part.Last
	for i := range part.Lines {
		m.Lines = append(m.Lines, newLogLine(&part.Lines[i]))
	}
	if m.Build.State.FailedItself() && !m.Growing {
		m.Error, err = known.firstError(bytesOf)
	}
	return err
}

func newLogLine(l *logview.Line) LogLine {
	return LogLine{Number: l.Number, Offset: l.Offset, Text: l.Plain()}
}

// readRange copies a part of a log.
func readRange(ctx context.Context, c *apiclient.Client, m *Log, query apiclient.LogQuery, from, to int64, w io.Writer) error {
	if from >= to {
		return nil
	}
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, to-1)}}
	resp, err := c.LogFile(ctx, http.MethodGet, m.Build.ID, query, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent || resp.Header.Get(api.LogHeader) != m.Name {
		return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "the log has changed meanwhile; look again"}
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, to-from))
	if err == nil && n < to-from {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// logQuery reads which of a build's logs is asked for.
func logQuery(q url.Values) (query apiclient.LogQuery, err error) {
	query.Machine = q.Get("machine")
	attempt, err := countParameter(q, "attempt")
	query.Attempt = int(min(attempt, api.MaxAttempt))
	return query, err
}

// wantedPart reads which part of a log is asked for.
func wantedPart(q url.Values) (want logview.Want, err error) {
	if q.Has("from") {
		from, err := countParameter(q, "from")
		return logview.Want{From: &from}, err
	}
	if want.Before, err = countParameter(q, "before"); err != nil {
		return want, err
	}
	line, err := countParameter(q, "line")
	want.Line = int(min(line, 1<<31-2))
	return want, err
}

// countParameter reads a number that is not negative; 0 if there is none.
func countParameter(q url.Values, name string) (int64, error) {
	text := q.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, api.BadRequest("%s=%.40q: want a number, 0 or more", name, text)
	}
	return n, nil
}

// whyNoLog says why a build has no log, or not that one.
func whyNoLog(b *api.Build, query apiclient.LogQuery) string {
	current := query.Machine == "" && (query.Attempt == 0 || query.Attempt == b.Attempt)
	switch {
	case b.Check > 0 && !b.State.Final():
		return "No machine has written anything for this check yet."
	case b.State == api.DependencyFailed:
		return "It was not built, since something that it needs failed: that one's log says why."
	case b.State == api.Succeeded && b.Attempt == 0:
		return "Its outputs were there already, so nothing was built."
	case b.Attempt == 0 && b.State.Final():
		return "It was never tried on a machine."
	case b.Attempt == 0:
		return "It has not been tried on a machine yet: it is " + string(b.State) + "."
	case current && (b.State == api.Placed || b.State == api.Sending):
		return "The builder has not started yet: what it needs is being sent to " + b.Machine + "."
	case current && b.State.Running():
		return "The builder has written nothing yet."
	case current && b.Failure != nil && b.Failure.Phase != api.Building && b.Failure.Phase != api.Fetching:
		return "The attempt ended while " + string(b.Failure.Phase) + ", before the builder started."
	case current && b.LogSize == 0:
		return "The builder wrote nothing."
	}
	return "It is not kept any more: logs are removed when they are old, if lighter.toml says so, and with the builds that are pruned."
}

// Links of the page.

func (m *Log) link(pairs ...string) string {
	q := url.Values{}
	for k, v := range m.query {
		q[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return "?" + q.Encode()
}

// HTML is the text of the lines.
func (m *Log) HTML() template.HTML { return m.text }

// Plain leads to the whole log as text.
func (m *Log) Plain() string { return "/build/" + m.Build.ID + "/log" + m.link() }

// First leads to the start of the log.
func (m *Log) First() string { return m.link("from", "0") }

// Earlier leads to what comes before this part, More to what comes after it, and End to the last lines.
func (m *Log) Earlier() string { return m.link("before", strconv.FormatInt(m.Start, 10)) }
func (m *Log) More() string    { return m.link("from", strconv.FormatInt(m.Next, 10)) }
func (m *Log) End() string     { return m.link() }

// ToError leads to the line that says what went wrong: on this page, or on another.
func (m *Log) ToError() string {
	anchor := "#L" + strconv.Itoa(m.Error.Number)
	if slices.ContainsFunc(m.Lines, func(l LogLine) bool { return l.Number == m.Error.Number }) {
		return anchor
	}
	return m.link("line", strconv.Itoa(m.Error.Number)) + anchor
}

// Chosen has the parameters that choose the log, for forms.
func (m *Log) Chosen() map[string]string {
	chosen := make(map[string]string)
	for k := range m.query {
		chosen[k] = m.query.Get(k)
	}
	return chosen
}

// Others has the numbers of the build's other attempts, the newest ones first, at most maxOtherLogs.
func (m *Log) Others() (others []int) {
	if m.Build.Check > 0 {
		return nil
	}
	for n := m.Build.Attempt; n > 0 && len(others) < maxOtherLogs; n-- {
		if n != m.Attempt {
			others = append(others, n)
		}
	}
	return others
}

// OtherMachines has those of a check whose logs are others.
func (m *Log) OtherMachines() (others []string) {
	for i := range m.Build.Results {
		if r := &m.Build.Results[i]; r.LogID != "" && r.Machine != m.Machine && len(others) < maxOtherLogs {
			others = append(others, r.Machine)
		}
	}
	return others
}

const maxOtherLogs = 20

// logIndexes remembers where the lines of logs are that were looked at lately.
type logIndexes struct {
	mu    sync.Mutex
	known map[string]*logIndex // by the name of the log
	uses  uint64
}

// maxLogIndexes bounds them; each has 16 KB at most, for a log of 256 MiB.
const maxLogIndexes = 256

// logIndex is that of one log; one page at a time has it.
type logIndex struct {
	taken chan struct{}
	used  uint64

	index logview.Index
	wrong *LogLine // the first error, of a log of that size
	of    int64
}

// get waits for the index of a log, which the caller releases.
func (l *logIndexes) get(ctx context.Context, name string) (*logIndex, error) {
	l.mu.Lock()
	x := l.known[name]
	if x == nil {
		if len(l.known) >= maxLogIndexes {
			l.dropOldestLocked()
		}
		x = &logIndex{taken: make(chan struct{}, 1)}
		if l.known == nil {
			l.known = make(map[string]*logIndex)
		}
		l.known[name] = x
	}
	l.uses++
	x.used = l.uses
	l.mu.Unlock()
	select {
	case x.taken <- struct{}{}:
		return x, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *logIndexes) dropOldestLocked() {
	oldest := ""
	for name, x := range l.known {
		if oldest == "" || x.used < l.known[oldest].used {
			oldest = name
		}
	}
	delete(l.known, oldest)
}

func (x *logIndex) release() { <-x.taken }

// firstError finds the line that says what went wrong, of a log that is complete.
func (x *logIndex) firstError(read func(from, to int64) ([]byte, error)) (*LogLine, error) {
	size := x.index.Size()
	if x.of == size && size > 0 {
		return x.wrong, nil
	}
	from := max(0, size-errorWindow) / logview.Block * logview.Block
	piece, err := read(from, size)
	if err != nil {
		return nil, err
	}
	lines := logview.Split(piece, from, x.index.Before(from/logview.Block)+1, from == 0, len(piece))
	x.wrong, x.of = nil, size
	if i := logview.FirstError(lines); i >= 0 {
		l := newLogLine(&lines[i])
		l.Text = human.Truncate(l.Text, maxQuoted)
		x.wrong = &l
	}
	return x.wrong, nil
}

// The log as text.

// maxLogStreams is how many logs are being sent at a time, and logPatience how long a reader may take for a piece.
const (
	maxLogStreams = 128
	logPatience   = 30 * time.Second
)

// serveLog serves a log as text: with HEAD, Range and, once it is complete, ETag.
func (s *Server) serveLog(w http.ResponseWriter, r *http.Request) {
	if err := s.sendLog(w, r); err != nil {
		var elsewhere *redirect
		if errors.As(err, &elsewhere) {
			http.Redirect(w, r, elsewhere.to, http.StatusFound)
			return
		}
		if r.Context().Err() == nil {
			e := s.asError(err)
			http.Error(w, human.Printable(e.Message), e.Status)
		}
	}
}

func (s *Server) sendLog(w http.ResponseWriter, r *http.Request) error {
	select {
	case s.logStreams <- struct{}{}:
		defer func() { <-s.logStreams }()
	default:
		return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "too many read logs now; try again soon"}
	}
	id := r.PathValue("id")
	if !api.IsUUID(id) {
		if _, err := s.buildOf(r, "/log"); err != nil {
			return err
		}
	}
	query, err := logQuery(r.URL.Query())
	if err != nil {
		return err
	}
	header := make(http.Header)
	for _, name := range []string{"Range", "If-Range", "If-None-Match"} {
		if v := r.Header.Values(name); len(v) > 0 {
			header[name] = v
		}
	}
	resp, err := s.client.LogFile(r.Context(), r.Method, id, query, header)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		if b, err := s.buildOf(r, "/log"); err == nil {
			return notFound("build %s has no log: %s", b.ID, whyNoLog(b, query))
		}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	h := w.Header()
	for _, name := range []string{"Accept-Ranges", "Content-Length", "Content-Range", "Etag", api.LogHeader} {
		if v := resp.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	w.WriteHeader(resp.StatusCode)
	rc := http.NewResponseController(w)
	out := stream.WriterUntil(r.Context(), patientWriter{w, func() { _ = rc.SetWriteDeadline(time.Now().Add(logPatience)) }})
	if _, err := io.Copy(out, resp.Body); err != nil {
		panic(http.ErrAbortHandler) // the client must not take it for all
	}
	return nil
}

// patientWriter waits for each piece for a time.
type patientWriter struct {
	w    io.Writer
	wait func()
}

func (p patientWriter) Write(b []byte) (int, error) {
	p.wait()
	return p.w.Write(b)
}

// buildOf returns the build that a request names. Where the id is abbreviated the page is at the whole one.
func (s *Server) buildOf(r *http.Request, below string) (*api.Build, error) {
	id := r.PathValue("id")
	if len(id) > len("00000000-0000-0000-0000-000000000000") {
		return nil, notFound("%.60q is no id of a build", id)
	}
	var b *api.Build
	err := s.ask(r.Context(), func(ctx context.Context, c *apiclient.Client) (err error) {
		b, err = c.Build(ctx, id)
		return err
	})
	if err != nil {
		return nil, gone(id, err)
	}
	if b.ID != id {
		return nil, &redirect{canonical(r, b.ID, below)}
	}
	return b, nil
}

// canonical is the path of a build's page, with the query and the kind of answer that a request has.
func canonical(r *http.Request, id, below string) string {
	to := "/build/" + id + below
	if r.Context().Value(twinKey{}) != nil {
		to += twinSuffix
	}
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	return to
}

// gone says of a build that the coordinator doesn't know where it may be.
func gone(id string, err error) error {
	var e *api.Error
	if !errors.As(err, &e) || e.Status != http.StatusNotFound {
		return err
	}
	return notFound("there is no build %s in the ledger. Old builds leave it for files of the folder “archive” in the coordinator's state folder, where zstdgrep finds them by their id; "+
		"lighter builds prune and prune-after of lighter.toml do that", cmp.Or(human.Printable(id), "without an id"))
}
