// Package apiserver is the face of the coordinator for clients: the API over HTTP that
// docs/api.md describes and package apiclient speaks. It decides nothing about builds. What
// clients send is bounded before there is memory for it, who they are is asked of the kernel,
// and what they may do is looked up before the coordinator is asked.
package apiserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"lighter/internal/api"
	"lighter/internal/catalogue"
	"lighter/internal/coordinator"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
	"lighter/store"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits on what clients get, and on what they choose.
const (
	defaultPage                  = 100 // builds
	maxPage                      = 1000
	maxPageBytes                 = 4 << 20 // of JSON; a page with more ends there
	defaultBlocking, maxBlocking = 20, 100 // builds of each kind that hold up others
	maxCancel                    = 100_000
	maxLogTail                   = 16 << 20 // bytes
)

// handler answers a request, or says with an error why not.
type handler func(http.ResponseWriter, *http.Request) error

// operation is one of the API's.
type operation struct {
	pattern string
	do      handler
	// operator is what only operators may do there, in words; empty means everyone may.
	operator string
	body     int64 // bytes; 0 is maxSmallBody
	memory   int64 // that it takes besides its body; 0 for what waits or streams
}

// Options are what a server works with besides the coordinator.
type Options struct {
	Logger *slog.Logger // nil logs nothing
	// Access says who may do what; nil lets all clients do everything.
	Access *Access
	// Problems says what of the settings can't be carried out; nil is nothing.
	Problems func() []string
	// Installation is where the coordinator has its things; nil is not told.
	Installation *api.Installation
	// Roots are those of the head's store; nil where others keep them.
	Roots store.Rooter
	// Catalogue has the revisions that were evaluated; nil where it could not be opened.
	Catalogue *catalogue.Catalogue
}

// Server answers the clients of one coordinator.
type Server struct {
	c             *coordinator.Coordinator
	ledger        *ledger.Ledger
	log           *slog.Logger
	installation  *api.Installation
	roots         store.Rooter
	problems      func() []string
	revisions     *revisionCalls
	access        atomic.Pointer[Access]
	memory        *memory
	logins        *grants
	sessions      *grants
	conversations atomic.Int32         // with build hooks
	process       *prometheus.Registry // figures of this process, for the metrics
}

// New returns a server, which does nothing by itself.
func New(c *coordinator.Coordinator, opts Options) *Server {
	s := &Server{
		c: c, ledger: c.Ledger(), log: opts.Logger, installation: opts.Installation, roots: opts.Roots, problems: opts.Problems, memory: newMemory(), process: processMetrics(),
		logins: newGrants(loginLife, 0, userLogins, maxLogins), sessions: newGrants(sessionLife, sessionIdle, userSessions, maxSessions),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.access.Store(opts.Access)
	s.revisions = newRevisionCalls(s, opts.Catalogue)
	return s
}

// Handler returns the API for clients, as docs/api.md describes it. It answers once
// the coordinator runs, and as long as it does. Where Access says who may do what,
// connections are those of HTTP.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	onMachines, onLogins := machineCalls{s}, loginCalls{s}
	for _, o := range []operation{
		{pattern: "GET /v1/version", do: s.getVersion},
		{pattern: "GET /v1/installation", do: s.getInstallation},
		{pattern: "GET /v1/status", do: s.getStatus, memory: pageMemory},
		{pattern: "POST /v1/builds", do: s.postBuilds, body: maxBody, memory: requestMemory},
		{pattern: "GET /v1/builds", do: s.getBuilds, memory: pageMemory},
		{pattern: "GET /v1/builds/counts", do: s.getCounts, memory: requestMemory},
		{pattern: "GET /v1/builds/{id}", do: s.getBuild, memory: pageMemory},
		{pattern: "GET /v1/builds/{id}/log", do: s.getLog},
		{pattern: "GET /v1/builds/{id}/why", do: s.getWhy, memory: pageMemory},
		{pattern: "POST /v1/builds/{id}/cancel", do: s.postCancelOne, memory: requestMemory},
		{pattern: "POST /v1/cancel", do: s.postCancel, body: maxSelectionBody, memory: requestMemory},
		{pattern: "POST /v1/retry", do: s.postRetry, body: maxSelectionBody, memory: requestMemory},
		{pattern: "POST /v1/priority", do: s.postPriority, body: maxSelectionBody, memory: requestMemory},
		{pattern: "POST /v1/outlook", do: s.postOutlook, body: maxSelectionBody, memory: requestMemory},
		{pattern: "POST /v1/prune", do: onMachines.postPrune, operator: "move builds out of the ledger"},
		{pattern: "GET /v1/blocking", do: s.getBlocking, memory: pageMemory},
		{pattern: "GET /v1/estimates", do: s.getEstimates, memory: pageMemory},
		{pattern: "GET /v1/estimates/samples", do: s.getSamples, memory: requestMemory},
		{pattern: "POST /v1/estimates/samples", do: s.postSamples, body: maxBody, memory: requestMemory, operator: "import what was measured elsewhere"},
		{pattern: "GET /v1/history", do: s.getHistory, memory: historyMemory},
		{pattern: "GET /v1/events", do: s.getEvents},
		{pattern: "GET /v1/attach", do: s.getAttach},
		{pattern: "GET " + hookapi.Path, do: s.getOffload},
		{pattern: "POST /v1/revisions", do: s.revisions.post, body: maxRevisionBody, operator: "record revisions"},
		{pattern: dataServicePath, do: s.revisions.get},
		{pattern: "GET /v1/machines", do: onMachines.getMachines, memory: requestMemory},
		{pattern: "POST /v1/machines/{name}/check", do: onMachines.postTrial, operator: "try a machine"},
		{pattern: "POST /v1/machines/{name}/gc", do: onMachines.postGC, operator: "collect a machine's garbage"},
		{pattern: "POST /v1/machines/{name}/drain", do: onMachines.postDrain, operator: "drain a machine"},
		{pattern: "POST /v1/machines/{name}/resume", do: onMachines.postResumeMachine, operator: "have a machine build again"},
		{pattern: "POST /v1/machines/{name}/tags", do: onMachines.postTags, operator: "tag a machine"},
		{pattern: "GET /v1/roots", do: s.getRoots, memory: pageMemory},
		{pattern: "POST /v1/roots", do: s.postRoots},
		{pattern: "POST /v1/roots/remove", do: s.postRootsRemove},
		{pattern: "POST /v1/needed", do: onMachines.postNeeded, body: maxNeededBody, memory: requestMemory},
		{pattern: "POST /v1/reload", do: onMachines.postReload, operator: "have the machines file read"},
		{pattern: "POST /v1/pause", do: onMachines.postPause, operator: "pause the coordinator"},
		{pattern: "POST /v1/resume", do: onMachines.postResume, operator: "resume the coordinator"},
		{pattern: "POST /v1/logins", do: onLogins.postLogins},
		{pattern: "POST /v1/logins/whose", do: onLogins.postLoginsWhose},
		{pattern: "POST /v1/sessions", do: onLogins.postSessions},
		{pattern: "GET /v1/sessions", do: onLogins.getSessions},
		{pattern: "DELETE /v1/sessions", do: onLogins.deleteSessions},
		{pattern: "GET /v1/metrics", do: s.getMetrics, memory: requestMemory},
		{pattern: "GET /v1/hooks", do: s.getHooks, memory: pageMemory},
		{pattern: "GET /v1/hooks/{hook}/{run}", do: s.getHookRun, memory: requestMemory},
		{pattern: "POST /v1/hooks/retry", do: s.postHooksRetry, body: maxSelectionBody, operator: "have runs of event hooks carried out again"},
		{pattern: "POST /v1/hooks/drop", do: s.postHooksDrop, body: maxSelectionBody, operator: "drop runs of event hooks"},
		{pattern: "POST /v1/hooks/{hook}/test", do: s.postHooksTest, operator: "try an event hook"},
		{pattern: "/", do: func(_ http.ResponseWriter, r *http.Request) error {
			return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: fmt.Sprintf("%s %s: no such operation", r.Method, r.URL.Path)}
		}},
	} {
		mux.HandleFunc(o.pattern, func(w http.ResponseWriter, r *http.Request) {
			r, err := onLogins.acting(r)
			if err == nil {
				err = s.answer(w, r, &o)
			}
			if err != nil {
				writeError(w, err)
			}
		})
	}
	return mux
}

// answer carries out an operation for those who may, within bounds.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, o *operation) error {
	who, err := s.caller(r.Context())
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
		release, err := s.memory.acquire(r.Context(), who.uid(), o.memory+bodyMemory*body)
		if err != nil {
			return err
		}
		defer release()
	}
	return o.do(w, r)
}

func writeError(w http.ResponseWriter, err error) {
	e := coordinator.AsError(err)
	if e.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	writeJSON(w, e.Status, e)
}

// writeJSON answers with one value. That the client is gone is not an error here.
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

func (s *Server) getVersion(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, api.Version{Version: s.c.Version(), API: api.APIVersion})
}

func (s *Server) getInstallation(w http.ResponseWriter, _ *http.Request) error {
	if s.installation == nil {
		return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: "this coordinator does not say where it has its things"}
	}
	return answer(w, s.installation)
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	who, err := s.caller(r.Context())
	if err != nil {
		return err
	}
	status, err := s.c.Status(r.Context())
	if err != nil {
		return err
	}
	if s.problems != nil {
		status.SettingsProblems = s.problems()
	}
	status.Caller, status.Installation = who.status(), s.installation
	return answer(w, status)
}

// submission is what the body of POST /v1/builds asks for.
type submission struct {
	c        *coordinator.Coordinator
	who      caller
	requests []api.Request
	refused  map[int]error // why a request is not taken, by its place
}

// take adds a request. What is wrong with one goes before the next one is read, since it may
// be too much to be kept.
func (s *submission) take(r *api.Request) error {
	if r.Offload {
		return api.BadRequest("offload is for build hooks, which ask for it with GET %s", hookapi.Path)
	}
	err := api.CheckRequest(r, s.c.StoreDir())
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
		return api.BadRequest("body: want one request, or a list of them in builds, not both")
	case builds.given:
		return nil
	case one.Request == nil:
		return s.take(&api.Request{})
	}
	return s.take(one.Request)
}

func (s *Server) postBuilds(w http.ResponseWriter, r *http.Request) error {
	who, err := s.caller(r.Context())
	if err != nil {
		return err
	}
	in := submission{c: s.c, who: who, refused: make(map[int]error)}
	if err := in.read(r); err != nil {
		return err
	}
	answers, err := s.c.Submit(r.Context(), in.requests, who.submitter())
	if err != nil {
		return err
	}
	for i, err := range in.refused {
		answers[i] = api.Refused(coordinator.AsError(err))
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
func (s *Server) getBuilds(w http.ResponseWriter, r *http.Request) error {
	filter, err := parseFilter(r)
	if err != nil {
		return err
	}
	limit := filter.Limit
	filter.Limit++ // one more says whether there is a next page
	page := api.BuildList{Builds: []api.Build{}}
	size := 0
	for b, err := range s.ledger.Builds(r.Context(), filter) {
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
	s.markEnds(r.Context(), page.Builds)
	return answer(w, page)
}

// getCounts answers with how many builds a filter selects.
func (s *Server) getCounts(w http.ResponseWriter, r *http.Request) error {
	filter, err := api.ParseFilter(r.URL.Query())
	if err != nil {
		return api.BadRequest("%s", err)
	}
	counts, err := s.ledger.Count(r.Context(), filter)
	if err != nil {
		return err
	}
	return answer(w, counts)
}

func parseFilter(r *http.Request) (ledger.Filter, error) {
	q := r.URL.Query()
	f := ledger.Filter{After: q.Get("after"), Limit: defaultPage}
	filter, err := api.ParseFilter(q, "limit", "after")
	if err != nil {
		return f, api.BadRequest("%s", err)
	}
	f.Filter = *filter
	if f.Limit, err = parseLimit(q, defaultPage, maxPage); err != nil {
		return f, err
	}
	return f, nil
}

// parseLimit reads how many are wanted at most.
func parseLimit(q url.Values, or, most int) (int, error) {
	s := q.Get("limit")
	if s == "" {
		return or, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, api.BadRequest("limit %q: want a number from 1 to %d", s, most)
	}
	return n, nil
}

// getBlocking answers with what holds up most builds.
func (s *Server) getBlocking(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	for name := range q {
		if name != "system" && name != "limit" {
			return api.BadRequest("%q is not a parameter: there are system, limit", name)
		}
	}
	limit, err := parseLimit(q, defaultBlocking, maxBlocking)
	if err != nil {
		return err
	}
	found, err := s.c.Blocking(r.Context(), q.Get("system"), limit)
	if err != nil {
		return err
	}
	return answer(w, found)
}

// build returns the build that a request names, perhaps by the start of its id.
func (s *Server) build(r *http.Request) (*api.Build, error) {
	return s.c.Build(r.Context(), r.PathValue("id"))
}

func (s *Server) getBuild(w http.ResponseWriter, r *http.Request) error {
	b, err := s.build(r)
	if err != nil {
		return err
	}
	if !b.State.Final() {
		s.c.Outlook(r.Context()).Mark(b, s.c.Now())
	}
	if r.URL.Query().Get("events") == "0" {
		return answer(w, b)
	}
	story, err := s.c.Story(r.Context(), b)
	if err != nil {
		return err
	}
	return answer(w, story)
}

func (s *Server) getWhy(w http.ResponseWriter, r *http.Request) error {
	b, err := s.build(r)
	if err != nil {
		return err
	}
	why, err := s.c.Why(r.Context(), b)
	if err != nil {
		return err
	}
	return answer(w, why)
}

func number(s, name string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, api.BadRequest("%s %q: want a number that is not negative", name, s)
	}
	return n, nil
}

// maxKnown bounds the derivations that a stream of events remembers.
const maxKnown = 10_000

// derivationOf returns the derivation of a build, if it is still known.
func (s *Server) derivationOf(ctx context.Context, build string, known map[string]store.Path) store.Path {
	drv, ok := known[build]
	if ok || build == "" {
		return drv
	}
	if b, err := s.ledger.Build(ctx, build); err == nil {
		drv = b.Derivation
	}
	if len(known) == maxKnown {
		clear(known)
	}
	known[build] = drv
	return drv
}

func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	from, err := number(q.Get("from"), "from")
	if err != nil {
		return err
	}
	builds := make(map[string]bool)
	for _, id := range q["build"] {
		b, err := s.c.Build(r.Context(), id)
		if err != nil {
			return err
		}
		builds[b.ID] = true
	}
	follow := q.Get("follow") == "1"
	ctx, cancel := s.c.UntilStopped(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	stream := newEventStream(w)
	defer stream.close()
	known := make(map[string]store.Path)
	err = s.ledger.Events(ctx, uint64(max(0, from)), follow, func(ev api.Event) error {
		if len(builds) > 0 && !builds[ev.Build] {
			return nil
		}
		ev.Derivation = s.derivationOf(ctx, ev.Build, known)
		return stream.write(&ev)
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, ledger.ErrClosed) {
		s.log.Debug("a stream of events ended", "err", err)
		panic(http.ErrAbortHandler) // it has started; the client must not take it for the end
	}
	return nil
}
