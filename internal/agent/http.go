package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"syscall"

	"lighter/internal/agentapi"
	"lighter/store"
)

// maxRequest bounds the JSON of a request: a closure of 100,000 items fits.
const maxRequest = 64 << 20

// maxTrailer bounds the status that follows a log: net/http refuses trailers over its
// buffer. Where it is longer, the client asks for the build instead.
const maxTrailer = 32 << 10

func (a *Agent) routes() *http.ServeMux {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				a.answerError(w, r, err)
			}
		})
	}
	handle("GET /v1/machine", func(w http.ResponseWriter, _ *http.Request) error { return answer(w, a.machine()) })
	handle("GET /v1/builds", a.getBuilds)
	handle("PUT /v1/builds/{id}", a.putBuild)
	handle("GET /v1/builds/{id}", a.getBuild)
	handle("GET /v1/builds/{id}/log", a.getLog)
	handle("DELETE /v1/builds/{id}", a.deleteBuild)
	handle("POST /v1/missing", a.postMissing)
	handle("POST /v1/closure", a.postClosure)
	handle("POST /v1/import", a.postImport)
	handle("POST /v1/export", a.postExport)
	handle("POST /v1/gc", a.postGC)
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return &agentapi.Error{Status: http.StatusNotFound, Message: "no such operation: " + r.Method + " " + r.URL.Path}
	})
	return mux
}

func (a *Agent) getBuilds(w http.ResponseWriter, _ *http.Request) error {
	list := []agentapi.BuildStatus{}
	for _, b := range a.all() {
		list = append(list, b.snapshot())
	}
	return answer(w, list)
}

func (a *Agent) putBuild(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if err := checkID(id); err != nil {
		return err
	}
	req := new(agentapi.BuildRequest)
	if err := read(w, r, req); err != nil {
		return err
	}
	if err := a.checkRequest(req); err != nil {
		return err
	}
	status, err := a.Put(r.Context(), id, req)
	if err != nil {
		return err
	}
	return answer(w, status)
}

func (a *Agent) checkRequest(req *agentapi.BuildRequest) error {
	switch {
	case req.Attempt < 1:
		return badRequest("attempt %d: want 1 or more", req.Attempt)
	case !req.Derivation.IsDerivation():
		return badRequest("derivation %q: want the name of a .drv", req.Derivation)
	case req.Timeout < 0 || req.MaxSilentTime < 0 || req.Cores < 0:
		return badRequest("a time limit or number of cores is negative")
	}
	for _, list := range [][]store.Path{{req.Derivation}, req.Inputs, req.Outputs} {
		if err := a.checkPaths(list); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) checkPaths(paths []store.Path) error {
	dir := a.opts.Store.Dir()
	for _, p := range paths {
		if p.Dir() != dir || p == "" {
			return badRequest("store path %q: not in the store %s", p, dir)
		}
	}
	return nil
}

func (a *Agent) getBuild(w http.ResponseWriter, r *http.Request) error {
	b, err := a.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, b.snapshot())
}

func (a *Agent) getLog(w http.ResponseWriter, r *http.Request) error {
	b, err := a.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if r.URL.Query().Get("offset") == "" {
		offset, err = 0, nil
	}
	if err != nil || offset < 0 {
		return badRequest("offset %q: want a number of bytes", r.URL.Query().Get("offset"))
	}
	b.mu.Lock()
	log := b.log
	b.mu.Unlock()
	if log == nil {
		return badRequest("build %s: it was not started yet", b.id)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", agentapi.LogTrailer)
	w.WriteHeader(http.StatusOK)
	flusher := http.NewResponseController(w)
	err = log.Copy(r.Context(), w, offset, func() { _ = flusher.Flush() })
	if err == nil {
		select {
		case <-b.done:
		case <-r.Context().Done():
			err = r.Context().Err()
		}
	}
	if err != nil {
		a.abort(r, err)
	}
	text, err := json.Marshal(b.snapshot())
	if err != nil {
		a.abort(r, err)
	}
	if len(text) <= maxTrailer {
		w.Header().Set(agentapi.LogTrailer, string(text))
	}
	return nil
}

// abort breaks the answer off, so that its reader cannot take it for complete.
func (a *Agent) abort(r *http.Request, err error) {
	a.log.Debug("an answer is broken off", "operation", r.URL.Path, "error", err)
	panic(http.ErrAbortHandler)
}

func (a *Agent) deleteBuild(w http.ResponseWriter, r *http.Request) error {
	if err := a.Delete(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *Agent) readPaths(w http.ResponseWriter, r *http.Request) ([]store.Path, error) {
	var req agentapi.Paths
	if err := read(w, r, &req); err != nil {
		return nil, err
	}
	return req.Paths, a.checkPaths(req.Paths)
}

func (a *Agent) postMissing(w http.ResponseWriter, r *http.Request) error {
	paths, err := a.readPaths(w, r)
	if err != nil {
		return err
	}
	missing, err := store.Missing(r.Context(), a.opts.Store, paths)
	if err != nil {
		return err
	}
	return answer(w, agentapi.Paths{Paths: missing})
}

func (a *Agent) postClosure(w http.ResponseWriter, r *http.Request) error {
	paths, err := a.readPaths(w, r)
	if err != nil {
		return err
	}
	infos, err := store.Closure(r.Context(), a.opts.Store, paths)
	if err != nil {
		return err
	}
	return answer(w, agentapi.Infos{Infos: infos})
}

func (a *Agent) postImport(w http.ResponseWriter, r *http.Request) error {
	infos, err := a.opts.Store.Import(r.Context(), r.Body, store.ImportOptions{})
	if err != nil {
		return err
	}
	return answer(w, agentapi.Infos{Infos: infos})
}

func (a *Agent) postExport(w http.ResponseWriter, r *http.Request) error {
	paths, err := a.readPaths(w, r)
	if err != nil {
		return err
	}
	valid, err := store.ValidPaths(r.Context(), a.opts.Store, paths)
	if err != nil {
		return err
	}
	if len(valid) < len(paths) {
		missing, err := store.Missing(r.Context(), a.opts.Store, paths)
		if err != nil || len(missing) == 0 {
			return errors.Join(err, badRequest("an item is named twice"))
		}
		return store.NotValid(missing[0])
	}
	w.Header().Set("Content-Type", agentapi.ArchiveType)
	out := &countingWriter{w: w}
	if err := a.opts.Store.Export(r.Context(), out, paths); err != nil {
		if out.n == 0 {
			return err
		}
		a.abort(r, err)
	}
	return nil
}

// countingWriter counts, to know whether an answer has begun.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (a *Agent) postGC(w http.ResponseWriter, r *http.Request) error {
	collector, ok := a.opts.Store.(store.Collector)
	if !ok {
		return &agentapi.Error{Status: http.StatusNotImplemented, Message: "this store collects no garbage"}
	}
	var req agentapi.GCRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	result, err := collector.CollectGarbage(r.Context(), store.GCOptions{MaxFreed: req.MaxFreed, DryRun: req.DryRun, OlderThan: req.OlderThan.Duration()})
	if err != nil {
		return err
	}
	return answer(w, agentapi.GCResult{Deleted: result.Deleted, Freed: result.Freed})
}

// read decodes a request's JSON.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	if err := d.Decode(into); err != nil {
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			return &agentapi.Error{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("the request has more than %d bytes", maxRequest)}
		}
		return badRequest("the request's JSON: %v", err)
	}
	return nil
}

func answer(w http.ResponseWriter, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = io.Copy(w, bytes.NewReader(text))
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	return nil
}

func badRequest(format string, args ...any) error {
	return &agentapi.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

func (a *Agent) answerError(w http.ResponseWriter, r *http.Request, err error) {
	var e *agentapi.Error
	if !errors.As(err, &e) {
		e = &agentapi.Error{Status: http.StatusInternalServerError, Message: err.Error()}
		switch {
		case errors.Is(err, store.ErrUnauthorized):
			e.Status, e.Code = http.StatusForbidden, agentapi.CodeUnauthorized
		case errors.Is(err, store.ErrCorrupt):
			e.Status, e.Code = http.StatusUnprocessableEntity, agentapi.CodeCorrupt
		case errors.Is(err, store.ErrNotValid):
			e.Status, e.Code = http.StatusNotFound, agentapi.CodeNotValid
		case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
			e.Status, e.Code = http.StatusInsufficientStorage, agentapi.CodeDiskFull
		}
	}
	a.log.Debug("refused", "operation", r.Method+" "+r.URL.Path, "error", err)
	text, err := json.Marshal(e)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Del("Trailer")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_, _ = w.Write(text) // a client that is gone needs no answer
}

// checkID accepts what is safe as the name of a folder.
func checkID(id string) error {
	ok := len(id) >= 1 && len(id) <= 64 && id[0] != '.'
	for i := range len(id) {
		c := id[i]
		ok = ok && ('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if !ok {
		return badRequest("build id %q: want 1 to 64 of A-Z a-z 0-9 . _ -", id)
	}
	return nil
}
