package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/store"
)

// handler answers the requests of agentapi.
type handler struct {
	agent *Agent
	mux   *http.ServeMux
}

// answer is a handler that returns what to send as JSON, or nil if it has answered.
type answer func(w http.ResponseWriter, r *http.Request) (any, error)

func newHandler(a *Agent) handler {
	h := handler{a, http.NewServeMux()}
	for pattern, f := range map[string]answer{
		"GET /v1/machine":         h.getMachine,
		"GET /v1/builds":          h.getBuilds,
		"PUT /v1/builds/{id}":     h.putBuild,
		"GET /v1/builds/{id}":     h.getBuild,
		"GET /v1/builds/{id}/log": h.getLog,

		"GET /v1/builds/{id}/outputs/{name}": h.getOutput,

		"DELETE /v1/builds/{id}": h.deleteBuild,
		"POST /v1/missing":       h.missing,
		"POST /v1/closure":       h.closure,
		"POST /v1/import":        h.importArchive,
		"POST /v1/export":        h.exportArchive,
		"POST /v1/add-text":      h.addText,
		"POST /v1/gc":            h.collectGarbage,
		"/":                      h.unknown,
	} {
		h.mux.HandleFunc(pattern, h.guarded(f))
	}
	return h
}

// ServeHTTP implements http.Handler.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer a.request()()
	a.handler.mux.ServeHTTP(w, r)
}

// guarded writes what f returns, and keeps a mistake in one request from others.
func (h handler) guarded(f answer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p != http.ErrAbortHandler { //nolint:errorlint // it is a panic's value, never wrapped
				h.agent.log.Error("a request panicked", "request", r.Method+" "+r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler) // the connection is closed: whatever was sent is no answer
		}()
		v, err := f(w, r)
		switch {
		case err != nil:
			h.refuse(w, r, err)
		case v != nil:
			writeJSON(w, http.StatusOK, v)
		}
	}
}

// refuse answers with an error, unless there is nobody to answer to.
func (h handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil || errors.Is(err, errEnding) || errors.Is(err, errShutdown) {
		panic(http.ErrAbortHandler)
	}
	e := errorAnswer(err)
	if e.Status >= http.StatusInternalServerError {
		h.agent.log.Warn("request failed", "request", r.Method+" "+r.URL.Path, "err", err)
	}
	writeJSON(w, e.Status, e)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`)
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // who does not read it will ask again
}

// refuse makes the error that a request is answered with.
func refuse(status int, code, format string, args ...any) *agentapi.Error {
	return &agentapi.Error{Status: status, Code: code, Message: human.ValidText(fmt.Sprintf(format, args...))} // names of files need not be UTF-8
}

func badRequest(err error) *agentapi.Error {
	return refuse(http.StatusBadRequest, agentapi.CodeBadRequest, "bad request: %v", err)
}

// errorAnswer translates an error for the other side.
func errorAnswer(err error) *agentapi.Error {
	status, code := http.StatusInternalServerError, ""
	var e *agentapi.Error
	switch {
	case errors.As(err, &e):
		return e
	case diskFull(err):
		status, code = http.StatusInsufficientStorage, agentapi.CodeDiskFull
	case errors.Is(err, store.ErrUnauthorized):
		status, code = http.StatusForbidden, agentapi.CodeUnauthorized
	case errors.Is(err, store.ErrCorrupt):
		status, code = http.StatusUnprocessableEntity, agentapi.CodeCorrupt
	case errors.Is(err, store.ErrNotValid):
		status, code = http.StatusNotFound, agentapi.CodeNotValid
	}
	return refuse(status, code, "%s", shorten(err.Error()))
}

// readJSON reads a request's body.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("there is more after the end of the JSON")
	}
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return refuse(http.StatusRequestEntityTooLarge, agentapi.CodeBadRequest, "bad request: it has more than %d bytes", long.Limit)
	}
	return badRequest(fmt.Errorf("body: %w", err))
}

func (h handler) unknown(_ http.ResponseWriter, r *http.Request) (any, error) {
	return nil, refuse(http.StatusNotFound, "", "no such request: %s %s", r.Method, r.URL.Path)
}

func (h handler) getMachine(_ http.ResponseWriter, r *http.Request) (any, error) {
	m := h.agent.describe()
	m.ID, m.Offer = h.agent.machine.idFor(headOf(r)), h.agent.usable(headOf(r).offer())
	return m, nil
}

func (h handler) getBuilds(_ http.ResponseWriter, r *http.Request) (any, error) {
	return h.agent.list(headOf(r)), nil
}

// buildID returns the id in the request's path, as the agent knows it.
func buildID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if !validID(id) {
		return "", badRequest(fmt.Errorf("build id %q: want 1 to %d letters, digits, dots, dashes and underscores, and no dot at the start", shorten(id), maxIDLen))
	}
	return headOf(r).prefix() + id, nil
}

func (h handler) putBuild(w http.ResponseWriter, r *http.Request) (any, error) {
	id, err := buildID(r)
	if err != nil {
		return nil, err
	}
	req := new(agentapi.BuildRequest)
	if err := readJSON(w, r, req); err != nil {
		return nil, err
	}
	if err := headOf(r).limit(req); err != nil {
		return nil, err
	}
	status, err := h.agent.put(r.Context(), id, req)
	if err != nil {
		return nil, err
	}
	own, _ := headOf(r).own(*status)
	return own, nil
}

// answered keeps a nil pointer from becoming an answer that is not nil.
func answered[T any](v *T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (h handler) getBuild(_ http.ResponseWriter, r *http.Request) (any, error) {
	at, err := h.attempt(r)
	if err != nil {
		return nil, err
	}
	own, _ := headOf(r).own(at.snapshot())
	return own, nil
}

func (h handler) attempt(r *http.Request) (*attempt, error) {
	id, err := buildID(r)
	if err != nil {
		return nil, err
	}
	return h.agent.attempt(id)
}

func (h handler) deleteBuild(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := buildID(r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, h.agent.remove(r.Context(), id)
}

func (h handler) getLog(w http.ResponseWriter, r *http.Request) (any, error) {
	at, err := h.attempt(r)
	if err != nil {
		return nil, err
	}
	if at.state() == agentapi.Rooted {
		return nil, refuse(http.StatusConflict, "", "build %s: it was not started, there is no log", at.id)
	}
	var offset int64
	if text := r.URL.Query().Get("offset"); text != "" {
		if offset, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, badRequest(fmt.Errorf("offset %q: want a number of bytes", shorten(text)))
		}
	}
	if err := at.output.checkOffset(offset); err != nil {
		return nil, refuse(http.StatusRequestedRangeNotSatisfiable, agentapi.CodeBadRequest, "log of build %s: %v", at.id, err)
	}
	return nil, sendLog(w, r, at, offset)
}

// sendLog follows a log. An answer without its trailer is one that broke off.
func sendLog(w http.ResponseWriter, r *http.Request, at *attempt, offset int64) error {
	header := w.Header()
	header.Set("Content-Type", "text/plain")
	header.Set("Trailer", agentapi.LogTrailer)
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	if err := out.Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
	err := at.output.follow(r.Context(), offset, func(text []byte) error {
		if _, err := w.Write(text); err != nil {
			return err
		}
		return out.Flush()
	})
	var status agentapi.BuildStatus
	if err == nil {
		status, err = at.final(r.Context())
	}
	if err != nil {
		if r.Context().Err() == nil {
			at.log.Warn("the log of a build was not sent to its end", "err", err)
		}
		panic(http.ErrAbortHandler)
	}
	own, _ := headOf(r).own(status)
	header.Set(agentapi.LogTrailer, trailer(own))
	return nil
}

// trailer returns the state as the value of an HTTP field.
func trailer(status agentapi.BuildStatus) string {
	text, err := json.Marshal(status)
	if err != nil || len(text) > agentapi.MaxTrailer {
		text, err = json.Marshal(agentapi.BuildStatus{
			ID: status.ID, Attempt: status.Attempt, Derivation: status.Derivation, State: status.State,
			LogSize: status.LogSize, Partial: true,
		})
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	// Of what JSON lets through, DEL alone is not allowed in a field.
	return strings.ReplaceAll(string(text), "\x7f", `\u007f`)
}

// readPaths reads a body that names items of the store.
func (h handler) readPaths(w http.ResponseWriter, r *http.Request) ([]store.Path, error) {
	var body agentapi.Paths
	if err := readJSON(w, r, &body); err != nil {
		return nil, err
	}
	if err := checkPaths(h.agent.opts.Store.Dir(), body.Paths); err != nil {
		return nil, badRequest(err)
	}
	return body.Paths, nil
}

func (h handler) missing(w http.ResponseWriter, r *http.Request) (any, error) {
	paths, err := h.readPaths(w, r)
	if err != nil {
		return nil, err
	}
	missing, err := store.Missing(r.Context(), h.agent.opts.Store, paths)
	return agentapi.Paths{Paths: missing}, err
}

func (h handler) closure(w http.ResponseWriter, r *http.Request) (any, error) {
	paths, err := h.readPaths(w, r)
	if err != nil {
		return nil, err
	}
	infos, err := store.Closure(r.Context(), h.agent.opts.Store, paths)
	return agentapi.Infos{Infos: infos}, err
}

// archiveBuffer is the size of the buffers between streams and the store, in bytes.
const archiveBuffer = 256 << 10

var (
	archiveReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, archiveBuffer) }}
	archiveWriters = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, archiveBuffer) }}
)

func (h handler) importArchive(w http.ResponseWriter, r *http.Request) (any, error) {
	importer, ok := h.agent.opts.Store.(store.Importer)
	if !ok {
		return nil, refuse(http.StatusNotImplemented, "", "import: the store of this agent takes no archives")
	}
	out := http.NewResponseController(w)
	// Without this, an error would be sent only after some of the rest was read.
	_ = out.EnableFullDuplex() // every HTTP/1.1 server of Go can
	body := archiveReaders.Get().(*bufio.Reader)
	body.Reset(r.Body)
	defer func() {
		body.Reset(nil)
		archiveReaders.Put(body)
	}()
	infos, err := importer.Import(r.Context(), body, store.ImportOptions{})
	if err == nil {
		if _, err = body.ReadByte(); errors.Is(err, io.EOF) {
			return agentapi.Infos{Infos: infos}, nil
		} else if err == nil {
			err = fmt.Errorf("import: there is more after the end of the archive: %w", store.ErrCorrupt)
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) { // or its sender is gone, and reads no answer
		err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	w.Header().Set("Connection", "close")
	h.refuse(w, r, err)
	if out.Flush() == nil {
		drain(out, r.Body)
	}
	return nil, nil
}

// Limits on what is read of an unwanted body, so that its sender gets to
// read the answer before the connection is closed.
const (
	drainTime  = 10 * time.Second
	drainBytes = 1 << 30
)

// drain reads until the other side has noticed the answer, and closes.
func drain(out *http.ResponseController, body io.Reader) {
	if out.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, body, drainBytes)
}

func (h handler) exportArchive(w http.ResponseWriter, r *http.Request) (any, error) {
	exporter, ok := h.agent.opts.Store.(store.Exporter)
	if !ok {
		return nil, refuse(http.StatusNotImplemented, "", "export: the store of this agent writes no archives")
	}
	paths, err := h.readPaths(w, r)
	if err != nil {
		return nil, err
	}
	release, err := h.agent.hold(r.Context(), paths)
	if err != nil {
		return nil, err
	}
	defer release()
	missing, err := store.Missing(r.Context(), h.agent.opts.Store, paths)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, store.NotValid(missing[0])
	}
	out := archiveWriters.Get().(*bufio.Writer)
	started := &startedWriter{w: w}
	out.Reset(started)
	defer func() {
		out.Reset(nil)
		archiveWriters.Put(out)
	}()
	if err = exporter.Export(r.Context(), out, paths); err == nil {
		err = out.Flush()
	}
	if err != nil && started.yes {
		if r.Context().Err() == nil {
			h.agent.log.Warn("export broke off", "err", err)
		}
		panic(http.ErrAbortHandler) // so that the reader does not take it for the end
	}
	return nil, err
}

// addText adds a text for a trial of the store.
func (h handler) addText(w http.ResponseWriter, r *http.Request) (any, error) {
	adder, ok := h.agent.opts.Store.(store.Adder)
	if !ok {
		return nil, refuse(http.StatusNotImplemented, "", "add-text: the store of this agent takes no texts")
	}
	var req agentapi.AddTextRequest
	if err := readJSON(w, r, &req); err != nil {
		return nil, err
	}
	if len(req.Content) > agentapi.MaxText {
		return nil, badRequest(fmt.Errorf("a text of %d bytes, more than %d", len(req.Content), agentapi.MaxText))
	}
	if err := store.CheckName(req.Name); err != nil {
		return nil, badRequest(err)
	}
	path, err := adder.AddText(r.Context(), req.Name, req.Content, nil)
	if err != nil {
		return nil, err
	}
	return answered(h.agent.opts.Store.Info(r.Context(), path))
}

// hold protects items for the time of a request.
func (a *Agent) hold(ctx context.Context, paths []store.Path) (release func(), err error) {
	leaser, ok := a.opts.Store.(store.Leaser)
	if !ok {
		return func() {}, nil
	}
	lease, err := leaser.Lease(ctx, "export")
	if err != nil {
		return nil, err
	}
	release = func() {
		if err := lease.Release(); err != nil {
			a.log.Warn("the lease of an export was not released", "err", err)
		}
	}
	if err := lease.Add(ctx, paths...); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// startedWriter says that this is an archive before the first byte of it, and not
// before that, so that an error may still come instead.
type startedWriter struct {
	w   http.ResponseWriter
	yes bool
}

func (s *startedWriter) Write(p []byte) (int, error) {
	if !s.yes {
		s.yes = true
		s.w.Header().Set("Content-Type", agentapi.ArchiveType)
	}
	return s.w.Write(p)
}

func (h handler) collectGarbage(w http.ResponseWriter, r *http.Request) (any, error) {
	collector, ok := h.agent.opts.Store.(store.Collector)
	if !ok {
		return nil, refuse(http.StatusNotImplemented, "", "gc: the store of this agent collects no garbage")
	}
	if o := headOf(r).offer(); o != nil && !o.CollectGarbage {
		return nil, refuse(http.StatusForbidden, agentapi.CodeNotOffered, "gc: the machine's owner does not let heads collect garbage")
	}
	var req agentapi.GCRequest
	if err := readJSON(w, r, &req); err != nil {
		return nil, err
	}
	if req.MaxFreed < 0 || !(req.OlderThan >= 0 && req.OlderThan <= maxSeconds) {
		return nil, badRequest(errors.New("maxFreed and olderThan must not be negative"))
	}
	result, err := collector.CollectGarbage(r.Context(), store.GCOptions{
		MaxFreed: req.MaxFreed, OlderThan: req.OlderThan.Duration(), DryRun: req.DryRun, Keep: h.agent.opts.Keep,
	})
	if err != nil {
		return nil, err
	}
	h.agent.log.Info("garbage collected", "items", len(result.Deleted), "bytes", result.Freed, slog.Bool("dry", req.DryRun))
	for i := range result.Left {
		left := &result.Left[i]
		h.agent.log.Warn("garbage could not be deleted", "item", left.Path, "why", left.Problem)
		left.Problem = agentapi.Printable(left.Problem, api.MaxProblem)
	}
	return agentapi.GCResult{Deleted: result.Deleted, Freed: result.Freed, Left: result.Left, LeftMore: result.LeftMore}, nil
}
