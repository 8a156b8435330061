// Package serve answers like a Guix Data Service, from a catalogue: the routes of docs/data-service.md, in
// that service's JSON. It only reads.
//
// What clients rely on is as they know it: an invalid query is answered with status 200 and an object that has
// "error"; a revision that is not there with 404 and "unknown_commit"; a branch that is not there has
// no revisions. What a catalogue can't know is empty: it has no builds, so that "builds" is an empty list, each derivation
// is one that was never built, and filters by builds choose accordingly; there are no jobs, news and lint warnings.
//
// Lists are written as they are read, so that the longest take little memory; one that
// can't be finished is cut off, which no reader of JSON takes for its end.
package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lighter/internal/catalogue"
	"lighter/internal/version"
)

const (
	maxAtOnce = 8               // answers that are made at the same time; others wait
	maxAnswer = 5 * time.Minute // for an answer, until its reader has taken all of it
	maxQuery  = 16 << 10        // bytes of a path with its query
	chunk     = 64 << 10        // bytes that are written at once
)

// Server is the handler.
type Server struct {
	catalogue *catalogue.Catalogue
	logger    *slog.Logger
	mux       *http.ServeMux
	turns     chan struct{}
}

// New returns a handler that answers from a catalogue; nil is no logger.
func New(c *catalogue.Catalogue, logger *slog.Logger) *Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{catalogue: c, logger: logger, mux: http.NewServeMux(), turns: make(chan struct{}, maxAtOnce)}
	s.handle("/", func(*request) error { return refuse(http.StatusNotFound, "this service has no such page") })
	for path, answer := range map[string]func(*request) error{
		"/repositories":                            (*request).repositories,
		"/repository/{id}":                         (*request).repository,
		"/compare":                                 byCommit((*request).compare),
		"/compare/packages":                        byCommit((*request).comparePackages),
		"/compare/package-derivations":             byCommit((*request).compareDerivations),
		"/compare-by-datetime":                     byDatetime((*request).compare),
		"/compare-by-datetime/packages":            byDatetime((*request).comparePackages),
		"/compare-by-datetime/package-derivations": byDatetime((*request).compareDerivations),
		"/jobs":                            (*request).jobs,
		"/jobs/events":                     (*request).jobEvents,
		"/jobs/queue":                      (*request).jobQueue,
		"/repository/{id}/branch/{branch}": (*request).branch,
		"/repository/{id}/branch/{branch}/package/{name}":                    (*request).branchPackage,
		"/repository/{id}/branch/{branch}/package/{name}/derivation-history": (*request).derivationHistory,
	} {
		s.handle(path, answer)
	}
	for path, answer := range map[string]func(*request, catalogue.Revision) error{
		"":                          (*request).revision,
		"/packages":                 (*request).packages,
		"/package/{name}":           (*request).versions,
		"/package/{name}/{version}": (*request).onePackage,
		"/package-derivations":      (*request).derivations,
	} {
		s.handle("/revision/{commit}"+path, ofCommit(answer))
		s.handle("/repository/{id}/branch/{branch}/latest-processed-revision"+path, ofNewest(answer))
	}
	return s
}

// request is one that is answered.
type request struct {
	*http.Request
	w     http.ResponseWriter
	v     *catalogue.View
	query url.Values
	etag  string

	body bytes.Buffer
	sent bool // the answer has begun
}

// refusal is an answer that is not what was asked for.
type refusal struct {
	status int
	body   any
}

func (r *refusal) Error() string { return fmt.Sprintf("status %d: %v", r.status, r.body) }

func refuse(status int, text string) error {
	return &refusal{status, map[string]string{"error": text}}
}

func invalid() error { return refuse(http.StatusOK, "invalid query") }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	one := &request{Request: r, w: w}
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		one.refuse(&refusal{http.StatusMethodNotAllowed, map[string]string{"error": "this service is only read"}})
		return
	case len(r.URL.Path)+len(r.URL.RawQuery) > maxQuery:
		one.refuse(&refusal{http.StatusRequestURITooLong, map[string]string{"error": fmt.Sprintf("the query has more than %d bytes", maxQuery)}})
		return
	}
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-r.Context().Done():
		return
	}
	// Whoever takes too long to read keeps others from their turn.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(maxAnswer))
	s.mux.ServeHTTP(w, withoutSuffix(r))
}

// withoutSuffix takes away ".json", by which clients that send no Accept header ask for JSON.
func withoutSuffix(r *http.Request) *http.Request {
	path, ok := strings.CutSuffix(r.URL.Path, ".json")
	if !ok {
		return r
	}
	clone := r.Clone(r.Context())
	clone.URL.Path, clone.URL.RawPath = path, strings.TrimSuffix(r.URL.RawPath, ".json")
	return clone
}

func (s *Server) handle(path string, answer func(*request) error) {
	s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		one := &request{Request: r, w: w}
		err := s.answer(one, answer)
		var refused *refusal
		switch {
		case err == nil || r.Context().Err() != nil:
		case errors.As(err, &refused) && !one.sent:
			one.refuse(refused)
		case one.sent:
			s.logger.Warn("an answer of the data service is cut off", "path", r.URL.Path, "err", err)
			panic(http.ErrAbortHandler)
		default:
			s.logger.Error("the data service can't answer", "path", r.URL.Path, "err", err)
			one.refuse(&refusal{http.StatusInternalServerError, map[string]string{"error": "the catalogue can't be read; the log says why"}})
		}
	})
}

func (s *Server) answer(one *request, answer func(*request) error) (err error) {
	if one.query, err = url.ParseQuery(one.URL.RawQuery); err != nil {
		return invalid()
	}
	if one.v, err = s.catalogue.View(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, one.v.Close()) }()
	state, err := one.v.State()
	if err != nil {
		return err
	}
	// An answer follows from the catalogue, the query and this program.
	sum := sha256.Sum256([]byte(state + "\x00" + version.Full() + "\x00" + one.URL.RequestURI()))
	one.etag = `W/"` + hex.EncodeToString(sum[:12]) + `"`
	if strings.Contains(one.Header.Get("If-None-Match"), one.etag) {
		one.w.Header().Set("ETag", one.etag)
		one.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if err := answer(one); err != nil {
		return err
	}
	return one.flush()
}

func (r *request) refuse(why *refusal) {
	text, err := json.Marshal(why.body)
	if err != nil {
		text = []byte("{}")
	}
	r.w.Header().Set("Content-Type", "application/json")
	r.w.Header().Set("Cache-Control", "no-store")
	r.w.WriteHeader(why.status)
	_, _ = r.w.Write(append(text, '\n'))
}

// flush writes what there is of an answer.
func (r *request) flush() error {
	if !r.sent {
		h := r.w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("ETag", r.etag)
		h.Set("Cache-Control", "no-cache") // it may be kept, and is asked about
		r.sent = true
	}
	_, err := r.body.WriteTo(r.w)
	return err
}

func (r *request) object(value any) error {
	return json.NewEncoder(&r.body).Encode(value)
}

// list writes an object whose last member is a list, of what fill adds. Other members are those of head, an object;
// nil is none.
func (r *request) list(head any, name string, fill func(add func(any) error) error) error {
	text := []byte("{}")
	if head != nil {
		var err error
		if text, err = json.Marshal(head); err != nil {
			return err
		}
	}
	text = text[:len(text)-1]
	if len(text) > 1 {
		text = append(text, ',')
	}
	r.body.Write(text)
	fmt.Fprintf(&r.body, "%q:[", name)
	first := true
	err := fill(func(element any) error {
		if !first {
			r.body.WriteByte(',')
		}
		first = false
		if err := r.object(element); err != nil {
			return err
		}
		if r.body.Len() < chunk {
			return nil
		}
		return errors.Join(r.flush(), r.Context().Err())
	})
	if err != nil {
		return err
	}
	r.body.WriteString("]}\n")
	return nil
}

// limit returns how many results are wanted; -1 is all of them.
func (r *request) limit(usual int) (int, error) {
	all := r.query.Get("all_results") == "on"
	text := r.query.Get("limit_results")
	switch {
	case all && text != "":
		return 0, invalid()
	case all:
		return -1, nil
	case text == "":
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, invalid()
	}
	return n, nil
}

// datetime is how the service writes times, in UTC.
const datetime = "2006-01-02 15:04:05"

// time reads a parameter that is a time; zero if it is not there.
func (r *request) time(name string) (time.Time, error) {
	text := r.query.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(datetime, text)
	if err != nil {
		return t, invalid()
	}
	return t, nil
}

// choice returns what tells whether a value is one of those that a parameter names; all are if it names none.
func (r *request) choice(name string, read func(string) string) func(string) bool {
	wanted := make(map[string]bool)
	for _, value := range r.query[name] {
		wanted[read(value)] = true
	}
	return func(value string) bool { return len(wanted) == 0 || wanted[value] }
}

func asIs(s string) string { return s }

// target reads a target: a native build has none.
func target(s string) string {
	if s == "none" {
		return ""
	}
	return s
}

// fields returns what tells whether a field is wanted.
func (r *request) fields(usual ...string) func(string) bool {
	list := r.query["field"]
	if len(list) == 0 {
		list = usual
	}
	return func(name string) bool {
		for _, one := range list {
			if one == name {
				return true
			}
		}
		return false
	}
}
