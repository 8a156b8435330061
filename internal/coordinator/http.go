package coordinator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
)

// Limits on what clients get, and on what they choose.
const (
	defaultPage  = 100 // builds
	maxPage      = 1000
	maxPageBytes = 4 << 20 // of JSON; a page with more ends there
	maxCancel    = 100_000
	minPrefix    = 4
	maxLogTail   = 16 << 20 // bytes
)

// handler answers a request, or says with an error why not.
type handler func(http.ResponseWriter, *http.Request) error

// operation is one of the API's.
type operation struct {
	pattern string
	do      handler
	// operator is what only operators may do there, in words; empty is for everybody.
	operator string
	body     int64 // bytes; 0 is maxSmallBody
	memory   int64 // that it takes beside its body; 0 for what waits or streams
}

// Handler returns the API for clients, as docs/api.md describes it. It answers once
// Run has started, and until Run returns. Where Access says who may do what, connections
// are those of Server.
func (c *Coordinator) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, o := range []operation{
		{pattern: "GET /v1/version", do: c.getVersion},
		{pattern: "GET /v1/status", do: c.getStatus, memory: pageMemory},
		{pattern: "POST /v1/builds", do: c.postBuilds, body: maxBody, memory: requestMemory},
		{pattern: "GET /v1/builds", do: c.getBuilds, memory: pageMemory},
		{pattern: "GET /v1/builds/{id}", do: c.getBuild, memory: pageMemory},
		{pattern: "GET /v1/builds/{id}/log", do: c.getLog},
		{pattern: "GET /v1/builds/{id}/why", do: c.getWhy, memory: pageMemory},
		{pattern: "POST /v1/builds/{id}/cancel", do: c.postCancelOne, memory: requestMemory},
		{pattern: "POST /v1/cancel", do: c.postCancel, body: maxSelectionBody, memory: requestMemory},
		{pattern: "POST /v1/retry", do: c.postRetry, body: maxSelectionBody, memory: requestMemory},
		{pattern: "POST /v1/priority", do: c.postPriority, body: maxSelectionBody, memory: requestMemory},
		{pattern: "POST /v1/prune", do: c.postPrune, operator: "move builds out of the ledger"},
		{pattern: "GET /v1/events", do: c.getEvents},
		{pattern: "GET /v1/attach", do: c.getAttach},
		{pattern: "GET " + hookapi.Path, do: c.getOffload},
		{pattern: "GET /v1/machines", do: c.getMachines, memory: requestMemory},
		{pattern: "POST /v1/machines/{name}/check", do: c.postTrial, operator: "try a machine"},
		{pattern: "POST /v1/machines/{name}/gc", do: c.postGC, operator: "collect a machine's garbage"},
		{pattern: "POST /v1/machines/{name}/drain", do: c.postDrain, operator: "drain a machine"},
		{pattern: "POST /v1/machines/{name}/resume", do: c.postResumeMachine, operator: "have a machine build again"},
		{pattern: "POST /v1/machines/{name}/tags", do: c.postTags, operator: "tag a machine"},
		{pattern: "POST /v1/reload", do: c.postReload, operator: "have the machines file read"},
		{pattern: "POST /v1/pause", do: c.postPause, operator: "pause the coordinator"},
		{pattern: "POST /v1/resume", do: c.postResume, operator: "resume the coordinator"},
		{pattern: "GET /v1/metrics", do: c.getMetrics, memory: requestMemory},
		{pattern: "GET /v1/hooks", do: c.getHooks, memory: pageMemory},
		{pattern: "GET /v1/hooks/{hook}/{run}", do: c.getHookRun, memory: requestMemory},
		{pattern: "POST /v1/hooks/retry", do: c.postHooksRetry, body: maxSelectionBody, operator: "have runs of event hooks carried out again"},
		{pattern: "POST /v1/hooks/drop", do: c.postHooksDrop, body: maxSelectionBody, operator: "drop runs of event hooks"},
		{pattern: "POST /v1/hooks/{hook}/test", do: c.postHooksTest, operator: "try an event hook"},
		{pattern: "/", do: func(_ http.ResponseWriter, r *http.Request) error {
			return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: fmt.Sprintf("%s %s: no such operation", r.Method, r.URL.Path)}
		}},
	} {
		mux.HandleFunc(o.pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := c.answer(w, r, &o); err != nil {
				writeError(w, err)
			}
		})
	}
	return mux
}

// answer carries out an operation for those who may, within bounds.
func (c *Coordinator) answer(w http.ResponseWriter, r *http.Request, o *operation) error {
	who, err := c.caller(r.Context())
	if err == nil && o.operator != "" && !who.operates {
		err = who.refuse(o.operator)
	}
	if err != nil {
		return err
	}
	most := cmp.Or(o.body, maxSmallBody)
	if r.ContentLength > most {
		return bodyError(&http.MaxBytesError{Limit: most})
	}
	boundBody(w, r, most)
	if o.memory > 0 {
		body := r.ContentLength
		if body < 0 { // it does not say
			body = most
		}
		release, err := c.memory.acquire(r.Context(), who.uid(), o.memory+bodyMemory*body)
		if err != nil {
			return err
		}
		defer release()
	}
	return o.do(w, r)
}

func badRequest(format string, args ...any) *api.Error {
	return &api.Error{Status: http.StatusBadRequest, Code: api.CodeBadRequest, Message: fmt.Sprintf(format, args...)}
}

// asError finds the answer for an error.
func asError(err error) *api.Error {
	var answer *api.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &tooLarge):
		return badRequest("the body has more than %d bytes", tooLarge.Limit)
	case errors.Is(err, ledger.ErrNotFound):
		return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: err.Error()}
	case errors.Is(err, errNoLog):
		return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: err.Error()}
	case errors.Is(err, ledger.ErrDiskFull):
		return &api.Error{Status: http.StatusInsufficientStorage, Code: api.CodeDiskFull, Message: err.Error()}
	case errors.Is(err, errStopping), errors.Is(err, ledger.ErrClosed), errors.Is(err, context.Canceled):
		return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "the coordinator stops"}
	}
	return &api.Error{Status: http.StatusInternalServerError, Code: api.CodeInternal, Message: err.Error()}
}

func writeError(w http.ResponseWriter, err error) {
	e := asError(err)
	writeJSON(w, e.Status, e)
}

// writeJSON answers with one value. That the client is gone is no error here.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(answerPatience)) // which not every test's writer can
	_ = json.NewEncoder(w).Encode(v)
	_ = rc.SetWriteDeadline(time.Time{})
}

func answer(w http.ResponseWriter, v any) error {
	writeJSON(w, http.StatusOK, v)
	return nil
}

func (c *Coordinator) getVersion(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, api.Version{Version: c.cfg.Version, API: api.APIVersion})
}

// submission is what the body of POST /v1/builds asks for.
type submission struct {
	c        *Coordinator
	who      caller
	requests []api.Request
	refused  map[int]error // why a request is not taken, by its place
}

// take adds a request. What is wrong with one goes before the next one is read, since it may
// be too much to be kept.
func (s *submission) take(r *api.Request) error {
	if r.Offload {
		return badRequest("offload is for build hooks, which ask for it with GET %s", hookapi.Path)
	}
	err := s.c.checkRequest(r)
	if err == nil {
		err = s.who.mayAsk(r)
	}
	if err != nil {
		s.refused[len(s.requests)], *r = err, api.Request{}
	}
	s.requests = append(s.requests, *r)
	return nil
}

// read reads a list of requests, or one.
func (s *submission) read(r *http.Request) error {
	var one struct{ *api.Request } // nil if there is none of its fields
	builds := &list{field: "builds", most: api.MaxSubmit, each: func(d *json.Decoder) error {
		var r api.Request
		if err := d.Decode(&r); err != nil {
			return err
		}
		return s.take(&r)
	}}
	if err := readLists(r, &one, builds); err != nil {
		return err
	}
	switch {
	case builds.given && one.Request != nil:
		return badRequest("body: want one request, or a list of them in builds, not both")
	case builds.given:
		return nil
	case one.Request == nil:
		return s.take(&api.Request{})
	}
	return s.take(one.Request)
}

func (c *Coordinator) postBuilds(w http.ResponseWriter, r *http.Request) error {
	who, err := c.caller(r.Context())
	if err != nil {
		return err
	}
	s := submission{c: c, who: who, refused: make(map[int]error)}
	if err := s.read(r); err != nil {
		return err
	}
	answers, err := c.Submit(r.Context(), s.requests)
	if err != nil {
		return err
	}
	for i, err := range s.refused {
		answers[i] = submitted(nil, err)
	}
	return answer(w, api.Submissions{Builds: answers})
}

// sizeOf returns about how many bytes of JSON a build is.
func sizeOf(b *api.Build) int {
	n := 1 << 10 // what all have
	for k, v := range b.Tags {
		n += len(k) + len(v)
	}
	for name, path := range b.OutputPaths {
		n += len(name) + len(path)
	}
	for _, list := range [][]string{b.On, b.Skip, b.Outputs, b.DerivationSubstituteURLs, b.Features} {
		for _, text := range list {
			n += len(text)
		}
	}
	n += len(b.Reason) + 4*api.MaxMessage*len(b.Results)
	if b.Failure != nil {
		n += len(b.Failure.Message)
	}
	return n
}

// getBuilds answers with a page, which has fewer builds than were asked for if they are
// large.
func (c *Coordinator) getBuilds(w http.ResponseWriter, r *http.Request) error {
	filter, err := parseFilter(r)
	if err != nil {
		return err
	}
	limit := filter.Limit
	filter.Limit++ // one more says whether there is a next page
	page := api.BuildList{Builds: []api.Build{}}
	size := 0
	for b, err := range c.ledger.Builds(r.Context(), filter) {
		if err != nil {
			return err
		}
		if n := len(page.Builds); n == limit || size > maxPageBytes {
			page.Next = page.Builds[n-1].ID
			break
		}
		page.Builds = append(page.Builds, *b)
		size += sizeOf(b)
	}
	return answer(w, page)
}

func parseFilter(r *http.Request) (ledger.Filter, error) {
	q := r.URL.Query()
	f := ledger.Filter{After: q.Get("after"), Limit: defaultPage}
	filter, err := api.ParseFilter(q, "limit", "after")
	if err != nil {
		return f, badRequest("%s", err)
	}
	f.Filter = *filter
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			return f, badRequest("limit %q: want a number from 1 to %d", s, maxPage)
		}
		f.Limit = n
	}
	return f, nil
}

// build returns the build that a request names, perhaps by the start of its id.
func (c *Coordinator) build(r *http.Request) (*api.Build, error) {
	return c.findBuild(r.Context(), r.PathValue("id"))
}

const uuidLength = 36

func (c *Coordinator) findBuild(ctx context.Context, id string) (*api.Build, error) {
	if len(id) >= uuidLength {
		return c.ledger.Build(ctx, id)
	}
	if len(id) < minPrefix {
		return nil, badRequest("id %q: want at least %d digits of it", id, minPrefix)
	}
	ids, err := c.ledger.ByPrefix(ctx, id, 2)
	switch {
	case err != nil:
		return nil, err
	case len(ids) == 0:
		return nil, fmt.Errorf("build %s: %w", id, ledger.ErrNotFound)
	case len(ids) > 1:
		return nil, badRequest("id %s is the start of %s and of %s", id, ids[0], ids[1])
	}
	return c.ledger.Build(ctx, ids[0])
}

func (c *Coordinator) getBuild(w http.ResponseWriter, r *http.Request) error {
	b, err := c.build(r)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("events") == "0" {
		return answer(w, b)
	}
	events, err := c.ledger.BuildEvents(r.Context(), b.ID)
	if err != nil {
		return err
	}
	story := api.BuildStory{Build: *b, Events: events}
	err = c.do(r.Context(), func(l *loop) {
		rec := l.builds[b.ID]
		if rec == nil {
			return
		}
		for d := range rec.task.dependants.all() {
			if len(d.builds) > 0 && len(story.WantedBy) < maxListed {
				story.WantedBy = append(story.WantedBy, d.builds[0].Build)
			}
		}
	})
	if err != nil {
		return err
	}
	return answer(w, story)
}

func (c *Coordinator) getWhy(w http.ResponseWriter, r *http.Request) error {
	b, err := c.build(r)
	if err != nil {
		return err
	}
	why := &api.Why{Build: *b, Summary: b.Reason}
	if err := c.do(r.Context(), func(l *loop) {
		if rec := l.builds[b.ID]; rec != nil {
			why = rec.task.why(l, rec)
			why.Attempts = slices.Clone(why.Attempts)
		}
	}); err != nil {
		return err
	}
	if why.Summary == "" && b.State.Final() {
		why.Summary = "it is over"
	}
	return answer(w, why)
}

func number(s, name string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("%s %q: want a number that is not negative", name, s)
	}
	return n, nil
}

// untilStopped ends with ctx, or when the coordinator stops.
func (c *Coordinator) untilStopped(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-c.stopped:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-watched
	}
}

func (c *Coordinator) getEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	from, err := number(q.Get("from"), "from")
	if err != nil {
		return err
	}
	builds := make(map[string]bool)
	for _, id := range q["build"] {
		b, err := c.findBuild(r.Context(), id)
		if err != nil {
			return err
		}
		builds[b.ID] = true
	}
	follow := q.Get("follow") == "1"
	ctx, cancel := c.untilStopped(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	s := newEventStream(w)
	defer s.close()
	err = c.ledger.Events(ctx, uint64(max(0, from)), follow, func(ev api.Event) error {
		if len(builds) > 0 && !builds[ev.Build] {
			return nil
		}
		return s.write(&ev)
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, ledger.ErrClosed) {
		c.log.Debug("a stream of events ended", "err", err)
		panic(http.ErrAbortHandler) // it has started; the client must not take it for the end
	}
	return nil
}
