// Package apiclient is the client of the coordinator's API.
package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"lighter/internal/api"
	"lighter/internal/disk"
	"lighter/store"
)

// Limits on what a client believes of a coordinator.
const (
	maxAnswer = 256 << 20 // bytes of a JSON answer
	maxError  = 64 << 10  // bytes of an error's body
)

// Client talks to a coordinator. Its methods may be called from several
// goroutines at the same time. Errors that the coordinator answered with are
// *Error; where no coordinator listens, errors match ErrUnavailable.
type Client struct {
	socket    string
	transport *http.Transport
	http      *http.Client
	pid       *atomic.Int32 // of the process that was connected to last; 0 is not known
	session   string        // its token; empty if requests are those of this process

	quietTime, aliveTime time.Duration // of a watch
}

// NewClient returns a client of the coordinator that listens on a Unix socket. It
// connects when it is first used.
func NewClient(socket string) *Client {
	c := NewClientDialer(func(ctx context.Context) (net.Conn, error) { return disk.DialSocket(ctx, socket) })
	c.socket = socket
	return c
}

// NewClientDialer returns a client that reaches the coordinator by dial.
func NewClientDialer(dial func(context.Context) (net.Conn, error)) *Client {
	c := &Client{socket: "the coordinator", pid: new(atomic.Int32), quietTime: quietTime, aliveTime: aliveTime}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx)
			if err == nil {
				c.notePeer(conn)
			}
			return conn, err
		},
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	c.transport, c.http = t, &http.Client{Transport: t}
	return c
}

// dial finds out whether there is a coordinator: a connection that broke says nothing of that.
func (c *Client) dial(ctx context.Context) error {
	conn, err := c.transport.DialContext(ctx, "", "")
	if err == nil {
		err = conn.Close()
	}
	return err
}

// dialFailure returns what kept a connection from being made, or nil if that was not it.
func dialFailure(err error) *net.OpError {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return op
	}
	return nil
}

// Close ends the connections that are not in use.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Version says which coordinator it is.
func (c *Client) Version(ctx context.Context) (*api.Version, error) {
	return get[api.Version](ctx, c, "/v1/version", nil)
}

// Installation says where the coordinator has its things.
func (c *Client) Installation(ctx context.Context) (*api.Installation, error) {
	return get[api.Installation](ctx, c, "/v1/installation", nil)
}

// Status returns the coordinator at one glance.
func (c *Client) Status(ctx context.Context) (*api.Status, error) {
	return get[api.Status](ctx, c, "/v1/status", nil)
}

// Submit asks for one build and returns it once it is durable in the ledger.
func (c *Client) Submit(ctx context.Context, r api.Request) (*api.Build, error) {
	all, err := c.SubmitAll(ctx, []api.Request{r})
	if err != nil {
		return nil, err
	}
	if all[0].Build == nil {
		return nil, &api.Error{Code: all[0].Code, Message: all[0].Error}
	}
	return all[0].Build, nil
}

// SubmitAll asks for many builds and returns what became of each, in the same
// order. It sends several submissions if there are more than MaxSubmit; beside an
// error it returns what became of those before it.
func (c *Client) SubmitAll(ctx context.Context, requests []api.Request) ([]api.Submitted, error) {
	var all []api.Submitted
	for len(requests) > 0 {
		n := min(len(requests), api.MaxSubmit)
		part, err := post[api.Submissions](ctx, c, "/v1/builds", api.Submission{Builds: requests[:n]})
		if err != nil {
			return all, err
		}
		if len(part.Builds) != n {
			return all, fmt.Errorf("submit: got %d answers to %d requests", len(part.Builds), n)
		}
		all = append(all, part.Builds...)
		requests = requests[n:]
	}
	return all, nil
}

// BuildFilter selects a page of builds. The zero value selects the first of all.
type BuildFilter struct {
	api.Filter
	Limit int    // of a page; 0 is the coordinator's
	After string // BuildList.Next of the page before
}

func (f *BuildFilter) query() url.Values {
	q := f.Values()
	if f.After != "" {
		q.Set("after", f.After)
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return q
}

// Builds returns one page of the builds that the filter selects, newest first.
func (c *Client) Builds(ctx context.Context, f BuildFilter) (*api.BuildList, error) {
	return get[api.BuildList](ctx, c, "/v1/builds", f.query())
}

// Counts returns how many builds the filter selects, by system and state.
func (c *Client) Counts(ctx context.Context, f *api.Filter) (*api.BuildCounts, error) {
	return get[api.BuildCounts](ctx, c, "/v1/builds/counts", f.Values())
}

// Blocking returns what holds up most builds, for a system or for all; limit bounds each of its lists, 0 is the
// coordinator's.
func (c *Client) Blocking(ctx context.Context, system string, limit int) (*api.Blocking, error) {
	q := url.Values{}
	if system != "" {
		q.Set("system", system)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return get[api.Blocking](ctx, c, "/v1/blocking", q)
}

// pageSize is how many builds are asked for at once where all are wanted.
const pageSize = 1000

// EachPage calls fn for the pages of builds that a filter selects, newest first, until it
// returns an error. limit bounds the builds of all pages, 0 means no limit; more reports
// whether it left any out.
func (c *Client) EachPage(ctx context.Context, filter *api.Filter, limit int, fn func([]api.Build) error) (more bool, err error) {
	left, ask := limit, BuildFilter{Filter: *filter}
	for {
		ask.Limit = pageSize
		if limit > 0 {
			ask.Limit = min(left, pageSize)
		}
		page, err := c.Builds(ctx, ask)
		if err != nil {
			return false, err
		}
		left -= len(page.Builds)
		if err := fn(page.Builds); err != nil {
			return false, err
		}
		if page.Next == "" || limit > 0 && left <= 0 {
			return page.Next != "", nil
		}
		if page.Next == ask.After {
			return false, fmt.Errorf("the coordinator sends the page after %s again and again", page.Next)
		}
		ask.After = page.Next
	}
}

// Build returns one build. The id may be abbreviated to what is unique among the
// builds that are not too old.
func (c *Client) Build(ctx context.Context, id string) (*api.Build, error) {
	return get[api.Build](ctx, c, "/v1/builds/"+url.PathEscape(id), url.Values{"events": {"0"}})
}

// Story returns one build and its history.
func (c *Client) Story(ctx context.Context, id string) (*api.BuildStory, error) {
	return get[api.BuildStory](ctx, c, "/v1/builds/"+url.PathEscape(id), nil)
}

// Why says why a build is where it is.
func (c *Client) Why(ctx context.Context, id string) (*api.Why, error) {
	return get[api.Why](ctx, c, "/v1/builds/"+url.PathEscape(id)+"/why", nil)
}

// Outlook returns when the last build of a selection will be done.
func (c *Client) Outlook(ctx context.Context, s *api.Selection) (*api.Outlook, error) {
	return post[api.Outlook](ctx, c, "/v1/outlook", s)
}

// Cancel cancels builds. Those that are final already stay as they are.
func (c *Client) Cancel(ctx context.Context, ids ...string) error {
	_, err := c.CancelAll(ctx, &api.Selection{IDs: ids})
	return err
}

// CancelAll cancels the selected builds and says which were not final already.
func (c *Client) CancelAll(ctx context.Context, s *api.Selection) (*api.Selected, error) {
	return post[api.Selected](ctx, c, "/v1/cancel", s)
}

// Retry has builds that failed, timed out or were canceled tried again, under the same
// ids.
func (c *Client) Retry(ctx context.Context, s *api.Selection) (*api.Selected, error) {
	return post[api.Selected](ctx, c, "/v1/retry", s)
}

// Prioritise gives builds that are not final another priority.
func (c *Client) Prioritise(ctx context.Context, s *api.Selection) (*api.Selected, error) {
	return post[api.Selected](ctx, c, "/v1/priority", s)
}

// Pause stops placing builds, until Resume. What runs goes on.
func (c *Client) Pause(ctx context.Context, reason string) error {
	_, err := post[struct{}](ctx, c, "/v1/pause", api.OperatorNote{Reason: reason})
	return err
}

// Resume ends Pause.
func (c *Client) Resume(ctx context.Context) error {
	_, err := post[struct{}](ctx, c, "/v1/resume", struct{}{})
	return err
}

// Reload has the coordinator read its machines file now. A bad one is refused whole.
func (c *Client) Reload(ctx context.Context) (*api.Reloaded, error) {
	return post[api.Reloaded](ctx, c, "/v1/reload", struct{}{})
}

// Drain lets a machine finish what it has and gives it nothing more, until
// ResumeMachine.
func (c *Client) Drain(ctx context.Context, name, reason string) (*api.MachineStatus, error) {
	return post[api.MachineStatus](ctx, c, "/v1/machines/"+url.PathEscape(name)+"/drain", api.OperatorNote{Reason: reason})
}

// ResumeMachine ends Drain, and a quarantine.
func (c *Client) ResumeMachine(ctx context.Context, name string) (*api.MachineStatus, error) {
	return post[api.MachineStatus](ctx, c, "/v1/machines/"+url.PathEscape(name)+"/resume", struct{}{})
}

// TagMachine changes an operator's tags of a machine.
func (c *Client) TagMachine(ctx context.Context, name string, change *api.TagChange) (*api.MachineStatus, error) {
	return post[api.MachineStatus](ctx, c, "/v1/machines/"+url.PathEscape(name)+"/tags", change)
}

// Prune moves old builds out of the ledger.
func (c *Client) Prune(ctx context.Context, p *api.Prune) (*api.Pruned, error) {
	return post[api.Pruned](ctx, c, "/v1/prune", p)
}

// Estimates returns what builds of packages will probably take whose names match a pattern as of path.Match; an
// empty one matches all.
func (c *Client) Estimates(ctx context.Context, pattern string) (*api.EstimateList, error) {
	return get[api.EstimateList](ctx, c, "/v1/estimates", url.Values{"name": {pattern}})
}

// ExportSamples copies a file of what was measured to w; see package estimates.
func (c *Client) ExportSamples(ctx context.Context, machines bool, w io.Writer) error {
	q := make(url.Values)
	if machines {
		q.Set("machines", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/estimates/samples", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("samples: %w", err)
	}
	return nil
}

// ImportSamples gives the coordinator a file of samples from another farm.
func (c *Client) ImportSamples(ctx context.Context, file []byte) (*api.ImportedSamples, error) {
	return exchange[api.ImportedSamples](ctx, c, http.MethodPost, "/v1/estimates/samples", nil, file)
}

// Hooks returns the event hooks and their runs that are not over.
func (c *Client) Hooks(ctx context.Context) (*api.HookList, error) {
	return get[api.HookList](ctx, c, "/v1/hooks", nil)
}

// HookRun returns one run of an event hook that is not over, with its output. The id is
// such as "publish/1042".
func (c *Client) HookRun(ctx context.Context, id string) (*api.HookRun, error) {
	hook, run, _ := strings.Cut(id, "/")
	return get[api.HookRun](ctx, c, "/v1/hooks/"+url.PathEscape(hook)+"/"+url.PathEscape(run), nil)
}

// TestHook carries an event hook out once, for a build as it is now, and waits for it.
func (c *Client) TestHook(ctx context.Context, hook string, t *api.HookTest) (*api.HookTested, error) {
	return post[api.HookTested](ctx, c, "/v1/hooks/"+url.PathEscape(hook)+"/test", t)
}

// RetryHooks has parked runs tried again, and returns how many.
func (c *Client) RetryHooks(ctx context.Context, s *api.HookSelection) (*api.Selected, error) {
	return post[api.Selected](ctx, c, "/v1/hooks/retry", s)
}

// DropHooks forgets parked runs, and returns how many.
func (c *Client) DropHooks(ctx context.Context, s *api.HookSelection) (*api.Selected, error) {
	return post[api.Selected](ctx, c, "/v1/hooks/drop", s)
}

// Attach tells the coordinator that the caller wants builds with Attached, until ctx ends,
// whose error it returns, or the coordinator goes away.
func (c *Client) Attach(ctx context.Context, ids ...string) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/attach", url.Values{"build": ids}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil {
		err = io.ErrUnexpectedEOF
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("attach: %w", err)
}

// Metrics copies the coordinator's figures, in Prometheus's text format, to w.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/metrics", nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Log copies the log of a build's current or last attempt to w, from an offset
// in bytes on. With follow it goes on until the build is final.
func (c *Client) Log(ctx context.Context, id string, offset int64, follow bool, w io.Writer) error {
	return c.LogOf(ctx, id, LogQuery{Offset: offset, Follow: follow}, w)
}

// LogQuery says which log of a build is wanted, and how much of it.
type LogQuery struct {
	Attempt int    // 0 is the current or last one
	Machine string // the last attempt there; of a check, what that machine built
	Offset  int64  // bytes
	Lines   int    // only the last ones, and what follows; 0 means all
	Follow  bool   // on until the build is final; or, with Attempt or Machine, that attempt
}

// LogOf copies a log to w.
func (c *Client) LogOf(ctx context.Context, id string, query LogQuery, w io.Writer) error {
	q := query.values()
	q.Set("offset", strconv.FormatInt(query.Offset, 10))
	if query.Lines > 0 {
		q.Set("lines", strconv.Itoa(query.Lines))
	}
	if query.Follow {
		q.Set("follow", "1")
	}
	return c.copyLog(ctx, id, q, w)
}

// LogTailOf is as LogTail, for another log than the last one; the rest of the query is not used.
func (c *Client) LogTailOf(ctx context.Context, id string, query LogQuery, size int64) ([]byte, error) {
	var b bytes.Buffer
	q := query.values()
	q.Set("tail", strconv.FormatInt(size, 10))
	err := c.copyLog(ctx, id, q, &b)
	return b.Bytes(), err
}

func (q *LogQuery) values() url.Values {
	v := make(url.Values)
	if q.Attempt > 0 {
		v.Set("attempt", strconv.Itoa(q.Attempt))
	}
	if q.Machine != "" {
		v.Set("machine", q.Machine)
	}
	return v
}

// LogTail returns at most that many bytes from the end of a build's log.
func (c *Client) LogTail(ctx context.Context, id string, size int64) ([]byte, error) {
	return c.LogTailOf(ctx, id, LogQuery{}, size)
}

// LogFile asks for a log as a file, with GET or HEAD; of the query only Attempt and Machine count. header may have
// Range, If-Range and If-None-Match, and the answer be 206, 304 or 416. The caller closes its body.
func (c *Client) LogFile(ctx context.Context, method, id string, query LogQuery, header http.Header) (*http.Response, error) {
	return c.doWith(ctx, method, "/v1/builds/"+url.PathEscape(id)+"/log", query.values(), nil, header)
}

func (c *Client) copyLog(ctx context.Context, id string, q url.Values, w io.Writer) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/builds/"+url.PathEscape(id)+"/log", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("log of %s: %w", id, err)
	}
	return nil
}

// Machines returns what the coordinator knows of each machine now.
func (c *Client) Machines(ctx context.Context) ([]api.MachineStatus, error) {
	list, err := get[[]api.MachineStatus](ctx, c, "/v1/machines", nil)
	if err != nil {
		return nil, err
	}
	return *list, nil
}

// FreshMachines is Machines, after the coordinator has read the machines file if that has changed. The error
// has the code api.CodeBadRequest if it can't be used.
func (c *Client) FreshMachines(ctx context.Context) ([]api.MachineStatus, error) {
	list, err := get[[]api.MachineStatus](ctx, c, "/v1/machines", url.Values{"fresh": {"true"}})
	if err != nil {
		return nil, err
	}
	return *list, nil
}

// History returns what the farm was like over time.
func (c *Client) History(ctx context.Context, q api.HistoryQuery) (*api.History, error) {
	return get[api.History](ctx, c, "/v1/history", q.Values())
}

// TestMachine connects to a machine now and tries all that building there needs.
func (c *Client) TestMachine(ctx context.Context, name string) (*api.MachineTrial, error) {
	return post[api.MachineTrial](ctx, c, "/v1/machines/"+url.PathEscape(name)+"/check", struct{}{})
}

// Roots returns the roots of the head's store.
func (c *Client) Roots(ctx context.Context) ([]store.Root, error) {
	roots, err := exchange[[]store.Root](ctx, c, http.MethodGet, "/v1/roots", nil, nil)
	if err != nil {
		return nil, err
	}
	return *roots, nil
}

// AddRoot makes a root, and RemoveRoot ends one: see api.NewRoot.
func (c *Client) AddRoot(ctx context.Context, r api.NewRoot) error {
	_, err := post[store.Root](ctx, c, "/v1/roots", r)
	return err
}

func (c *Client) RemoveRoot(ctx context.Context, link string) error {
	_, err := post[struct{}](ctx, c, "/v1/roots/remove", api.NewRoot{Link: link})
	return err
}

// Needed returns those of the items that builds need: see api.Needed.
func (c *Client) Needed(ctx context.Context, items []store.Path) ([]store.Path, error) {
	needed, err := post[api.Needed](ctx, c, "/v1/needed", api.Needed{Paths: items})
	if err != nil {
		return nil, err
	}
	return needed.Paths, nil
}

// CollectGarbage deletes what no build needs from a machine's store.
func (c *Client) CollectGarbage(ctx context.Context, name string, opts api.MachineGC) (*api.MachineGCResult, error) {
	return post[api.MachineGCResult](ctx, c, "/v1/machines/"+url.PathEscape(name)+"/gc", opts)
}

// Follow calls fn for each event from number from on (0 counts as 1), in order,
// and goes on as they happen, until the context ends, fn returns an error, which
// it returns, or the coordinator goes away. If builds are named it calls fn for
// theirs alone.
func (c *Client) Follow(ctx context.Context, from uint64, fn func(*api.Event) error, builds ...string) error {
	return c.events(ctx, from, true, builds, fn)
}

// Events is as Follow, but ends with the last event that there is.
func (c *Client) Events(ctx context.Context, from uint64, fn func(*api.Event) error, builds ...string) error {
	return c.events(ctx, from, false, builds, fn)
}

// FollowAcross is as Follow, but where the coordinator goes away it waits for
// another to take its place, for at most patience, and goes on from the event
// after the last one: fn sees none twice and misses none.
func (c *Client) FollowAcross(ctx context.Context, from uint64, patience time.Duration, fn func(*api.Event) error, builds ...string) error {
	var outage Outage
	for {
		var refused error
		err := c.events(ctx, from, true, builds, func(ev *api.Event) error {
			from, outage = ev.Seq+1, Outage{}
			refused = fn(ev)
			return refused
		})
		switch {
		case refused != nil:
			return refused
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !Away(err):
			return err
		}
		lost := fmt.Errorf("events from %d: %w", from, errors.Join(api.ErrUnavailable, err))
		if err := outage.Wait(ctx, patience, lost); err != nil {
			return err
		}
	}
}

func (c *Client) events(ctx context.Context, from uint64, follow bool, builds []string, fn func(*api.Event) error) error {
	q := url.Values{"from": {strconv.FormatUint(from, 10)}, "build": builds}
	if follow {
		q.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/events", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var ev api.Event
		switch err := lines.Decode(&ev); {
		case err == io.EOF && follow:
			return fmt.Errorf("events from %d: %w: it ended the stream", from, api.ErrUnavailable)
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("events from %d: %w", from, err)
		}
		if err := fn(&ev); err != nil {
			return err
		}
	}
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (*T, error) {
	return exchange[T](ctx, c, http.MethodGet, path, q, nil)
}

func post[T any](ctx context.Context, c *Client, path string, body any) (*T, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return exchange[T](ctx, c, http.MethodPost, path, nil, text)
}

func exchange[T any](ctx context.Context, c *Client, method, path string, q url.Values, body []byte) (*T, error) {
	resp, err := c.do(ctx, method, path, q, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer := new(T)
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(answer); err != nil {
		return nil, fmt.Errorf("%s %s: answer of the coordinator: %w", method, path, err)
	}
	return answer, nil
}

// do returns an answer with a status below 400, whose body the caller closes. Where the
// coordinator does not live any more, it and reading the body end.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	return c.doWith(ctx, method, path, q, body, nil)
}

// doWith is do with headers. Those of a Range may be answered with 416, which is no error.
func (c *Client) doWith(ctx context.Context, method, path string, q url.Values, body []byte, header http.Header) (*http.Response, error) {
	w := c.watch(ctx)
	resp, err := c.send(w.ctx, method, path, q, body, header) //nolint:contextcheck // it is made of ctx
	if err != nil {
		w.end()
		return nil, err
	}
	resp.Body = &watchedBody{resp.Body, w}
	return resp, nil
}

func (c *Client) send(ctx context.Context, method, path string, q url.Values, body []byte, header http.Header) (*http.Response, error) {
	address := "http://coordinator" + path
	if len(q) > 0 {
		address += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.session != "" {
		req.Header.Set("Authorization", "Bearer "+c.session)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		op := dialFailure(err)
		if op == nil {
			op = dialFailure(c.dial(ctx))
		}
		if op != nil {
			return nil, fmt.Errorf("%w at %s: %w", api.ErrUnavailable, c.socket, op.Err)
		}
		return nil, fmt.Errorf("%s %s: %w", method, path, errors.Unwrap(err))
	}
	if resp.StatusCode < http.StatusBadRequest || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readError(resp)
}

func readError(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	e := &api.Error{Status: resp.StatusCode}
	if err != nil || json.Unmarshal(text, e) != nil || e.Message == "" {
		e.Message = fmt.Sprintf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return e
}
