package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
)

// Limits on what clients send and get.
const (
	maxBody     = 64 << 20 // bytes
	defaultPage = 100      // builds
	maxPage     = 1000
	maxCancel   = 100_000
	minPrefix   = 4
	maxLogTail  = 16 << 20 // bytes
)

// Handler returns the API for clients, as docs/api.md describes it. It answers once
// Run has started, and until Run returns.
func (c *Coordinator) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			if err := h(w, r); err != nil {
				writeError(w, err)
			}
		})
	}
	handle("GET /v1/version", c.getVersion)
	handle("GET /v1/status", c.getStatus)
	handle("POST /v1/builds", c.postBuilds)
	handle("GET /v1/builds", c.getBuilds)
	handle("GET /v1/builds/{id}", c.getBuild)
	handle("GET /v1/builds/{id}/log", c.getLog)
	handle("GET /v1/builds/{id}/why", c.getWhy)
	handle("POST /v1/builds/{id}/cancel", c.postCancelOne)
	handle("POST /v1/cancel", c.postCancel)
	handle("POST /v1/retry", c.postRetry)
	handle("POST /v1/priority", c.postPriority)
	handle("POST /v1/prune", c.postPrune)
	handle("GET /v1/events", c.getEvents)
	handle("GET /v1/attach", c.getAttach)
	handle("GET "+hookapi.Path, c.getOffload)
	handle("GET /v1/machines", c.getMachines)
	handle("POST /v1/machines/{name}/check", c.postCheck)
	handle("POST /v1/machines/{name}/gc", c.postGC)
	handle("POST /v1/machines/{name}/drain", c.postDrain)
	handle("POST /v1/machines/{name}/resume", c.postResumeMachine)
	handle("POST /v1/machines/{name}/tags", c.postTags)
	handle("POST /v1/reload", c.postReload)
	handle("POST /v1/pause", c.postPause)
	handle("POST /v1/resume", c.postResume)
	handle("GET /v1/metrics", c.getMetrics)
	handle("GET /v1/hooks", c.getHooks)
	handle("GET /v1/hooks/{hook}/{run}", c.getHookRun)
	handle("POST /v1/hooks/retry", c.postHooksRetry)
	handle("POST /v1/hooks/drop", c.postHooksDrop)
	handle("POST /v1/hooks/{hook}/test", c.postHooksTest)
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: fmt.Sprintf("%s %s: no such operation", r.Method, r.URL.Path)}
	})
	return mux
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
	_ = json.NewEncoder(w).Encode(v)
}

func answer(w http.ResponseWriter, v any) error {
	writeJSON(w, http.StatusOK, v)
	return nil
}

// readJSON reads a body that is one JSON value with known fields. An empty body
// leaves v as it is.
func readJSON(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	switch err := d.Decode(v); {
	case err == io.EOF:
		return nil
	case err != nil:
		return bodyError(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return badRequest("body: there is more than one JSON value")
	}
	return nil
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return badRequest("body: %s", strings.TrimPrefix(err.Error(), "json: "))
}

func (c *Coordinator) getVersion(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, api.Version{Version: c.cfg.Version, API: api.APIVersion})
}

// submission is the body of POST /v1/builds: a list, or one request.
type submission struct {
	Builds []api.Request `json:"builds"`
	api.Request
}

func (c *Coordinator) postBuilds(w http.ResponseWriter, r *http.Request) error {
	var s submission
	if err := readJSON(r, &s); err != nil {
		return err
	}
	requests := s.Builds
	if requests == nil {
		requests = []api.Request{s.Request}
	}
	if slices.ContainsFunc(requests, func(r api.Request) bool { return r.Offload }) {
		return badRequest("offload is for build hooks, which ask for it with GET %s", hookapi.Path)
	}
	answers, err := c.Submit(r.Context(), requests)
	if err != nil {
		return err
	}
	return answer(w, api.Submissions{Builds: answers})
}

func (c *Coordinator) getBuilds(w http.ResponseWriter, r *http.Request) error {
	filter, err := parseFilter(r)
	if err != nil {
		return err
	}
	limit := filter.Limit
	filter.Limit++ // one more says whether there is a next page
	page := api.BuildList{Builds: []api.Build{}}
	for b, err := range c.ledger.Builds(r.Context(), filter) {
		if err != nil {
			return err
		}
		if len(page.Builds) == limit {
			page.Next = page.Builds[limit-1].ID
			break
		}
		page.Builds = append(page.Builds, *b)
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
	err = c.do(r.Context(), func() {
		rec := c.builds[b.ID]
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
	if err := c.do(r.Context(), func() {
		if rec := c.builds[b.ID]; rec != nil {
			why = c.why(rec.task, rec)
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
