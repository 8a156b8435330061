package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// How connections to an agent are kept. Each is a stream of an SSH connection that is
// there anyway, so keeping some costs little.
const (
	idleStreams       = 32
	idleStreamTimeout = time.Minute
	streamBuffer      = 64 << 10 // bytes, each way
)

// Client talks to one agent. Its methods may be called from several goroutines at the
// same time. What they return is bounded and checked; see gate.go. An error that the agent
// answered with is an *Error; what it may not answer, or does not in time, a *Fault; any
// other means that the way to it failed, or that the context ended.
type Client struct {
	transport *http.Transport
	http      *http.Client
	limits    Limits
}

// NewClient returns a client that reaches the agent by dial. It connects when it is
// first used.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	t := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost:    idleStreams,
		IdleConnTimeout:        idleStreamTimeout,
		DisableCompression:     true,
		ReadBufferSize:         streamBuffer,
		WriteBufferSize:        streamBuffer,
		MaxResponseHeaderBytes: maxHeader,
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{transport: t, http: &http.Client{Transport: t, CheckRedirect: stay}, limits: Limits{}.withDefaults()}
}

// SetLimits says how long the client waits. It is called before it is used.
func (c *Client) SetLimits(l Limits) { c.limits = l.withDefaults() }

// Close ends the streams that are not in use.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Machine asks what the machine is. Of an agent that speaks another protocol nothing is
// known but its version.
func (c *Client) Machine(ctx context.Context) (*Machine, error) {
	m := new(Machine)
	return m, c.get(ctx, request{method: http.MethodGet, path: "/v1/machine"}, maxMachine, m, m.check)
}

// Builds lists builds that the agent knows: those of which known says what to expect. It is
// asked about each of them; nil means that the build is another head's, and is left out.
// If known is nil all are listed.
func (c *Client) Builds(ctx context.Context, known func(id string) (*Asked, error)) ([]BuildStatus, error) {
	a, err := c.do(ctx, request{method: http.MethodGet, path: "/v1/builds"})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if known == nil {
		known = func(id string) (*Asked, error) { return &Asked{ID: id}, nil }
	}
	l := listing{known: known, ids: make(map[string]bool)}
	err = listReader{element: maxStatus, most: maxBuilds, each: l.add}.read(a)
	switch {
	case l.err != nil:
		return nil, l.err
	case err != nil:
		return nil, a.failure(err)
	}
	return l.builds, nil
}

// listing is what is kept of a list of builds.
type listing struct {
	known  func(id string) (*Asked, error)
	err    error // of known
	builds []BuildStatus
	ids    map[string]bool
	size   int // bytes that were kept
}

func (l *listing) add(text json.RawMessage) error {
	var head struct{ ID string }
	if err := unmarshal(text, &head); err != nil {
		return err
	}
	if len(head.ID) > api.MaxID {
		return errors.New("an id is too long")
	}
	asked, err := l.known(head.ID)
	if err != nil {
		l.err = err
		return err
	}
	if asked == nil {
		return nil
	}
	var s BuildStatus
	if err := unmarshal(text, &s); err != nil {
		return err
	}
	if err := s.check(asked); err != nil {
		return err
	}
	if l.ids[s.ID] {
		return fmt.Errorf("build %s appears twice", s.ID)
	}
	l.ids[s.ID] = true
	l.builds = append(l.builds, s)
	if l.size += len(text); l.size > keptListing+keptBuild*len(l.builds) {
		return fmt.Errorf("it says more than %d bytes of %d builds", l.size, len(l.builds))
	}
	return nil
}

// PutBuild has the agent root the inputs of a build and start it if none is missing.
func (c *Client) PutBuild(ctx context.Context, asked *Asked, req *BuildRequest) (*BuildStatus, error) {
	text, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	this := *asked
	this.Attempt, this.Derivation, this.Check = req.Attempt, req.Derivation, req.Check
	r := request{method: http.MethodPut, path: buildPath(this.ID), contentType: jsonType, body: bytes.NewReader(text)}
	if len(req.SubstituteURLs) > 0 {
		r.extra = c.limits.Substitutes
	}
	s := new(BuildStatus)
	return s, c.get(ctx, r, maxStatus+int64(len(req.Inputs))*maxPath, s, func() error {
		if err := s.check(&this); err != nil {
			return err
		}
		return checkMissing(s.Missing, req.Inputs, []store.Path{req.Derivation})
	})
}

// Build returns the state of a build.
func (c *Client) Build(ctx context.Context, asked *Asked) (*BuildStatus, error) {
	s := new(BuildStatus)
	// It may say what is missing, which is not read here.
	limit := int64(maxStatus + maxInfo)
	return s, c.get(ctx, request{method: http.MethodGet, path: buildPath(asked.ID)}, limit, s, func() error {
		s.Missing = nil
		return s.check(asked)
	})
}

// DeleteBuild cancels a build if it runs, and has the agent forget it.
func (c *Client) DeleteBuild(ctx context.Context, id string) error {
	a, err := c.do(ctx, request{method: http.MethodDelete, path: buildPath(id)})
	if err != nil {
		return err
	}
	defer a.Close()
	// What is read to its end leaves the stream for the next request.
	_, err = io.Copy(io.Discard, io.LimitReader(a, maxError))
	return err
}

// Output returns what a check made, as a NAR that ends in an error if it was not sent
// completely. The caller closes it.
func (c *Client) Output(ctx context.Context, id, output string) (io.ReadCloser, error) {
	return c.stream(ctx, request{method: http.MethodGet, path: buildPath(id) + "/outputs/" + url.PathEscape(output)})
}

func buildPath(id string) string { return "/v1/builds/" + url.PathEscape(id) }

// Missing returns those of the items that the agent's store lacks.
func (c *Client) Missing(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	a, err := c.post(ctx, "/v1/missing", Paths{paths})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	var missing []store.Path
	err = listReader{field: "paths", element: maxPath, most: len(paths), each: appendPath(&missing)}.read(a)
	if err == nil {
		err = checkMissing(missing, paths)
	}
	if err != nil {
		return nil, a.failure(err)
	}
	return missing, nil
}

func appendPath(list *[]store.Path) func(json.RawMessage) error {
	return func(text json.RawMessage) error {
		var p store.Path
		if err := unmarshal(text, &p); err != nil {
			return err
		}
		*list = append(*list, p)
		return nil
	}
}

// Closure returns what the agent's store knows of the items and all that they refer to: no
// item twice, and each of those asked for. What of it may be believed is the caller's to decide.
func (c *Client) Closure(ctx context.Context, paths []store.Path) ([]*store.Info, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	a, err := c.post(ctx, "/v1/closure", Paths{paths})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	l := closureReader{dir: paths[0].Dir(), seen: make(map[store.Path]bool)}
	err = listReader{field: "infos", element: maxInfo, most: maxInfos, each: l.add}.read(a)
	for _, p := range paths {
		if err == nil && !l.seen[p] {
			err = fmt.Errorf("it lacks %s", p)
		}
	}
	if err != nil {
		return nil, a.failure(err)
	}
	return l.infos, nil
}

type closureReader struct {
	dir   store.Dir
	infos []*store.Info
	seen  map[store.Path]bool
	size  int   // bytes of the answer
	sum   int64 // of the NARs
}

func (l *closureReader) add(text json.RawMessage) error {
	info := new(store.Info)
	if err := unmarshal(text, info); err != nil {
		return err
	}
	if err := checkInfo(info, l.dir); err != nil {
		return err
	}
	if l.seen[info.Path] {
		return fmt.Errorf("%s appears twice", info.Path)
	}
	l.seen[info.Path] = true
	l.infos = append(l.infos, info)
	l.size += len(text)
	if l.sum += info.NARSize; l.sum > maxNARSize || l.size > maxClosure {
		return errors.New("it is about too much")
	}
	return nil
}

// Import sends an archive. It reads archive while it runs, and perhaps for a moment after it
// returned with an error; it does not close it. What the agent says that it held must be
// items, but is of no use beyond that.
func (c *Client) Import(ctx context.Context, archive io.Reader) ([]*store.Info, error) {
	a, err := c.do(ctx, request{method: http.MethodPost, path: "/v1/import", contentType: ArchiveType, body: archive, long: true})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	var infos []*store.Info
	size := 0
	err = listReader{field: "infos", element: maxInfo, most: maxInfos, each: func(text json.RawMessage) error {
		info := new(store.Info)
		if err := unmarshal(text, info); err != nil {
			return err
		}
		if size += len(text); size > maxClosure {
			return errors.New("it is about too much")
		}
		infos = append(infos, info)
		return checkInfo(info, info.Path.Dir())
	}}.read(a)
	if err != nil {
		return nil, a.failure(err)
	}
	return infos, nil
}

// Export asks for an archive of items, references first. The caller closes it.
func (c *Client) Export(ctx context.Context, paths []store.Path) (io.ReadCloser, error) {
	text, err := json.Marshal(Paths{paths})
	if err != nil {
		return nil, err
	}
	return c.stream(ctx, request{method: http.MethodPost, path: "/v1/export", contentType: jsonType, body: bytes.NewReader(text)})
}

// AddText adds a file with the given contents to the agent's store. Nothing roots it.
func (c *Client) AddText(ctx context.Context, name string, content []byte) (*store.Info, error) {
	text, err := json.Marshal(AddTextRequest{name, content})
	if err != nil {
		return nil, err
	}
	info := new(store.Info)
	r := request{method: http.MethodPost, path: "/v1/add-text", contentType: jsonType, body: bytes.NewReader(text)}
	return info, c.get(ctx, r, maxInfo, info, func() error {
		if info.Path.Name() != name {
			return fmt.Errorf("it added %q instead of %s", info.Path, name)
		}
		return checkInfo(info, info.Path.Dir())
	})
}

// CollectGarbage deletes what nothing needs from the agent's store. It may take as long as
// the context does.
func (c *Client) CollectGarbage(ctx context.Context, req *GCRequest) (*GCResult, error) {
	text, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	a, err := c.do(ctx, request{
		method: http.MethodPost, path: "/v1/gc", contentType: jsonType, body: bytes.NewReader(text), extra: maxWait,
	})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	result := new(GCResult)
	err = listReader{
		field: "deleted", element: maxLeft, most: maxDeleted, each: appendPath(&result.Deleted),
		other: func(name string, text json.RawMessage) error {
			switch name {
			case "freed":
				return unmarshal(text, &result.Freed)
			case "left":
				return unmarshal(text, &result.Left)
			case "leftMore":
				return unmarshal(text, &result.LeftMore)
			}
			return nil
		},
	}.read(a)
	if err == nil && (len(result.Left) > store.MaxGCLeft || result.LeftMore < 0) {
		err = fmt.Errorf("it lists %d that it could not delete, and %d more", len(result.Left), result.LeftMore)
	}
	for i := range result.Left {
		result.Left[i].Problem = Printable(result.Left[i].Problem, api.MaxProblem)
	}
	if err == nil && (result.Freed < 0 || result.Freed > maxSize) {
		err = fmt.Errorf("it freed %d bytes", result.Freed)
	}
	if err == nil && slices.Contains(result.Deleted, "") {
		err = errors.New("it deleted an item without a name")
	}
	if err != nil {
		return nil, a.failure(err)
	}
	return result, nil
}

const jsonType = "application/json"

// request is what a client asks for.
type request struct {
	method, path, contentType string
	body                      io.Reader // nil is none
	long                      bool      // the body comes from somewhere else, and takes time
	extra                     time.Duration
}

func (r *request) String() string { return r.method + " " + r.path }

// maxWait is how long an answer may take for callers that set the limit themselves.
const maxWait = 24 * time.Hour

// get reads an answer of at most limit bytes into value, and checks it.
func (c *Client) get(ctx context.Context, r request, limit int64, value any, check func() error) error {
	a, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer a.Close()
	err = decodeOne(a, limit, value)
	if err == nil {
		err = check()
	}
	if err != nil {
		return a.failure(err)
	}
	return nil
}

func (c *Client) post(ctx context.Context, path string, body any) (*answer, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return c.do(ctx, request{method: http.MethodPost, path: path, contentType: jsonType, body: bytes.NewReader(text)})
}

func (c *Client) stream(ctx context.Context, r request) (io.ReadCloser, error) {
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err // and no nil of a type
	}
	return a, nil
}

// do returns an answer with a good status, which the caller closes.
func (c *Client) do(ctx context.Context, r request) (a *answer, err error) {
	ctx, end := context.WithCancelCause(ctx)
	w := newWatch(r.String(), c.limits, r.extra, end)
	defer func() {
		if err != nil {
			w.close()
			end(nil)
		}
	}()
	if r.long {
		r.body = &requestBody{r.body, w}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://agent"+r.path, r.body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := c.http.Do(req) //nolint:bodyclose // the answer does
	if err != nil {
		return nil, linkFailure(ctx, err)
	}
	w.answered()
	a = &answer{request: r.String(), header: resp, body: resp.Body, ctx: ctx, watch: w, end: end}
	if resp.StatusCode < http.StatusMultipleChoices {
		return a, nil
	}
	defer a.Close()
	return nil, a.readError()
}

// linkError is the failure of the way to an agent. Its text may have parts that the agent sent.
type linkError struct{ err error }

func (e *linkError) Error() string { return Printable(e.err.Error(), api.MaxProblem) }
func (e *linkError) Unwrap() error { return e.err }

// linkFailure returns why the context ended, if it did, instead of what that led to.
func linkFailure(ctx context.Context, err error) error {
	if ended := context.Cause(ctx); ended != nil {
		return ended
	}
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err // without the URL that means nothing to people
	}
	return &linkError{err}
}

func (a *answer) readError() error {
	text, err := io.ReadAll(io.LimitReader(a, maxError))
	if err != nil {
		return err
	}
	if a.header.StatusCode < http.StatusBadRequest {
		return fault(a.request, fmt.Errorf("it answers with status %d", a.header.StatusCode))
	}
	e := &Error{}
	if unmarshal(text, e) != nil || e.Message == "" {
		*e = Error{Message: fmt.Sprintf("%s: %s", a.header.Status, strings.TrimSpace(string(text)))}
	}
	e.Status = a.header.StatusCode
	e.check()
	return e
}
