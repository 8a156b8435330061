package web

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
)

// page is what is at a path.
type page struct {
	path     string // a pattern of net/http without method
	template string // templates/NAME.html
	// load returns the model: what the template shows and the JSON twin is. An error becomes a page
	// of its own.
	load func(*http.Request) (any, error)
}

// View is what templates get.
type View struct {
	M     any       // the model
	Farm  string    // the farm's title
	Path  string    // of the page, without the query
	Twin  string    // URL of the JSON twin; empty if there is none
	Now   time.Time // when the page was made
	Stale *Stale    // if the coordinator does not answer
	// Steering says that one can log in, Person who has, and Done what that person just did.
	Steering bool
	Person   *api.Caller
	Done     string
}

// May reports whether who looks may change a build from its page.
func (v *View) May(b *api.Build) bool { return mayChange(v.Person, b) }

// Operates reports whether who looks may change machines and the coordinator.
func (v *View) Operates() bool { return v.Person != nil && v.Person.Operates }

// Stale says that what is shown is old.
type Stale struct {
	Since time.Time `json:"since"` // from when it is
	Error string    `json:"error"`
}

// answerTime bounds what a page may take.
const answerTime = 20 * time.Second

// servePage answers with a page, or its JSON twin.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request, p *page, t *template.Template) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		s.fail(w, r, &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "too many look at the farm now; try again soon"})
		return
	}
	asJSON := wantsJSON(r)
	get := s.bodies.get
	if visitOf(r).own() {
		get = func(r *http.Request, _ bool, _ func() time.Time, produce func(*http.Request) (*answer, error)) (*answer, error) {
			return guarded(r, produce)
		}
	}
	a, err := get(r, asJSON, s.now, func(r *http.Request) (*answer, error) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		model, err := p.load(r.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		if asJSON {
			return jsonAnswer(model)
		}
		return s.htmlAnswer(r, t, model, http.StatusOK)
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	a.serve(w, r)
}

// redirect is returned by load where the page is elsewhere.
type redirect struct{ to string }

func (e *redirect) Error() string { return "see " + e.to }

func notFound(format string, args ...any) error {
	return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: fmt.Sprintf(format, args...)}
}

// fail answers with an error, as a page or as JSON.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var elsewhere *redirect
	if errors.As(err, &elsewhere) {
		http.Redirect(w, r, elsewhere.to, http.StatusFound)
		return
	}
	if r.Context().Err() != nil {
		return // nobody is there
	}
	e := s.asError(err)
	switch e.Status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Lighter-Login")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	}
	var a *answer
	if wantsJSON(r) {
		a, err = jsonAnswer(e)
	} else {
		a, err = s.htmlAnswer(r, pageTemplate("error"), e, e.Status)
	}
	if err != nil {
		s.log.Error("an error could not be shown", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	a.status = e.Status
	a.serve(w, r)
}

// show answers with a page that is for its visitor, and is not kept.
func (s *Server) show(w http.ResponseWriter, r *http.Request, name string, model any, status int) error {
	visitOf(r).alone = true
	a, err := s.htmlAnswer(r, pageTemplate(name), model, status)
	if err != nil {
		return err
	}
	a.cache = "no-store"
	a.serve(w, r)
	return nil
}

// asError says how an error is answered.
func (s *Server) asError(err error) *api.Error {
	var e *api.Error
	switch {
	case errors.As(err, &e) && e.Status >= http.StatusBadRequest:
		return e
	case errors.Is(err, api.ErrUnavailable):
		s.log.Info("the coordinator does not answer", "err", err) // the answer has no names of its files
		return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "the coordinator does not answer now"}
	case errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "the coordinator took too long to answer"}
	}
	s.log.Error("a page could not be made", "err", err)
	return &api.Error{Status: http.StatusInternalServerError, Code: api.CodeInternal, Message: "the page could not be made; the log of lighter web says why"}
}

// answer is a whole body, made once for all who ask for it within a second.
type answer struct {
	status int
	kind   string // Content-Type
	etag   string
	cache  string // Cache-Control, if it is not to be asked for each time
	body   []byte
}

func newAnswer(kind string, body []byte) *answer {
	sum := sha256.Sum256(body)
	return &answer{status: http.StatusOK, kind: kind, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`, body: body}
}

func jsonAnswer(model any) (*answer, error) {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetIndent("", "  ")
	if err := e.Encode(model); err != nil {
		return nil, err
	}
	return newAnswer("application/json", body.Bytes()), nil
}

func (s *Server) htmlAnswer(r *http.Request, t *template.Template, model any, status int) (*answer, error) {
	visit := visitOf(r)
	v := View{
		M: model, Farm: s.title, Path: r.URL.Path, Twin: twin(r), Now: s.now(), Stale: s.farm.stale(),
		Steering: s.steering != nil, Person: visit.caller, Done: visit.note,
	}
	if visit.alone {
		v.Twin = ""
	}
	var body bytes.Buffer
	if err := t.ExecuteTemplate(&body, "layout.html", &v); err != nil {
		return nil, err
	}
	// Templates escape markup; this is for what else could mislead a reader, in one place, so that nothing is forgotten.
	a := newAnswer("text/html; charset=utf-8", []byte(human.PrintableText(body.String())))
	a.status = status
	return a, nil
}

// serve answers a request: with 304 if the client has it.
func (a *answer) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Vary", "Accept, Cookie")
	keep := "no-cache" // keep it, but ask
	if visitOf(r).own() {
		keep = "private, no-cache"
	}
	h.Set("Cache-Control", cmp.Or(a.cache, keep))
	if a.status == http.StatusOK {
		h.Set("ETag", a.etag)
		if matches(r.Header.Values("If-None-Match"), a.etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	h.Set("Content-Type", a.kind)
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body) // the client may be gone
	}
}

// matches reports whether a header If-None-Match has a tag (RFC 9110, section 13.1.2).
func matches(header []string, etag string) bool {
	for _, tag := range strings.Split(strings.Join(header, ","), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == etag || tag == "*" {
			return true
		}
	}
	return false
}

// twinSuffix ends the path of a JSON twin; that of "/" is "/index.json".
const twinSuffix = ".json"

type twinKey struct{}

// jsonTwins answers for PATH.json as for PATH by who wants JSON.
func jsonTwins(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutSuffix(r.URL.Path, twinSuffix)
		if !ok || strings.HasPrefix(path, "/static/") {
			next.ServeHTTP(w, r)
			return
		}
		if path == "/index" {
			path = "/"
		}
		r2 := r.Clone(context.WithValue(r.Context(), twinKey{}, true))
		r2.URL.Path, r2.URL.RawPath = path, strings.TrimSuffix(r.URL.RawPath, twinSuffix)
		next.ServeHTTP(w, r2)
	})
}

// twin is the URL of a page's JSON twin.
func twin(r *http.Request) string {
	u := *r.URL
	if u.Path == "/" {
		u.Path = "/index"
	}
	u.Path += twinSuffix
	if u.RawPath != "" {
		u.RawPath += twinSuffix
	}
	return u.RequestURI()
}

// wantsJSON reports whether an answer is to be JSON: it is asked for by name, or liked better than HTML
// (RFC 9110, section 12.5.1).
func wantsJSON(r *http.Request) bool {
	if r.Context().Value(twinKey{}) != nil {
		return true
	}
	likes := map[string]float64{}
	for _, part := range strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if text, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		likes[kind] = q
	}
	return likes["application/json"] > max(likes["text/html"], likes["application/xhtml+xml"])
}

// Bounds of the answers that are kept for who asks the same.
const (
	answerAge   = time.Second
	maxAnswers  = 256
	maxKeptBody = 1 << 20 // bytes, of one
	maxKeptAll  = 32 << 20
)

// answers keeps answers for a second, and has each made once at a time.
type answers struct {
	mu    sync.Mutex
	known map[string]*kept
	size  int // bytes of bodies
}

// kept is an answer, or one that is being made.
type kept struct {
	ready  chan struct{} // closed when it is made
	answer *answer
	err    error
	at     time.Time // when it was begun
}

func newAnswers() *answers { return &answers{known: make(map[string]*kept)} }

// get returns the answer to a request: one of the last second, or a new one. What is made for several is
// not given up when the first of them goes.
func (a *answers) get(r *http.Request, asJSON bool, now func() time.Time, produce func(*http.Request) (*answer, error)) (*answer, error) {
	key := answerKey(r, asJSON)
	a.mu.Lock()
	k := a.known[key]
	if k == nil || now().Sub(k.at) >= answerAge && isClosed(k.ready) {
		if len(a.known) >= maxAnswers || a.size > maxKeptAll {
			a.drop(now())
		}
		k = &kept{ready: make(chan struct{}), at: now()}
		a.known[key] = k
		go a.produce(key, k, r.WithContext(context.WithoutCancel(r.Context())), produce)
	}
	a.mu.Unlock()
	select {
	case <-k.ready:
		return k.answer, k.err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func (a *answers) produce(key string, k *kept, r *http.Request, produce func(*http.Request) (*answer, error)) {
	defer close(k.ready)
	k.answer, k.err = guarded(r, produce)
	a.mu.Lock()
	defer a.mu.Unlock()
	if k.err != nil || len(k.answer.body) > maxKeptBody {
		if a.known[key] == k {
			delete(a.known, key)
		}
		return
	}
	a.size += len(k.answer.body)
}

// guarded makes an error of a panic, which would end the process here.
func guarded(r *http.Request, produce func(*http.Request) (*answer, error)) (a *answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return produce(r)
}

// drop forgets answers that are too old, or all that are made if none is.
func (a *answers) drop(now time.Time) {
	for _, all := range []bool{false, true} {
		for key, k := range a.known {
			if isClosed(k.ready) && (all || now.Sub(k.at) >= answerAge) {
				delete(a.known, key)
			}
		}
		a.size = 0
		for _, k := range a.known {
			if isClosed(k.ready) && k.answer != nil {
				a.size += len(k.answer.body)
			}
		}
		if len(a.known) < maxAnswers && a.size <= maxKeptAll {
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// answerKey tells apart what is answered differently.
func answerKey(r *http.Request, asJSON bool) string {
	return strconv.FormatBool(asJSON) + " " + r.URL.Path + "?" + r.URL.RawQuery
}
