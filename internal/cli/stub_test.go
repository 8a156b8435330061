package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lighter/internal/api"
	"lighter/internal/cli/command"
)

// stub is a coordinator that answers what a test says, on a socket of its own. It keeps
// what it was asked.
type stub struct {
	t      *testing.T
	folder string
	mux    *http.ServeMux
	socket string

	mu    sync.Mutex
	asked []string // "METHOD PATH?QUERY BODY"
}

func newStub(t *testing.T) *stub {
	t.Helper()
	folder := t.TempDir()
	s := &stub{t: t, folder: folder, mux: http.NewServeMux(), socket: filepath.Join(folder, "s")}
	s.start()
	return s
}

// start serves until the test ends or stop is called.
func (s *stub) start() (stop func()) {
	listener, err := new(net.ListenConfig).Listen(s.t.Context(), "unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	stop = sync.OnceFunc(func() {
		server.Close()
		<-done
	})
	s.t.Cleanup(stop)
	return stop
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	text := r.Method + " " + r.URL.String()
	if len(body) > 0 {
		text += " " + string(body)
	}
	s.mu.Lock()
	s.asked = append(s.asked, text)
	s.mu.Unlock()
	s.mux.ServeHTTP(w, r)
}

// answer makes it answer what comes to a pattern with a value.
func (s *stub) answer(pattern string, v any) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
}

// refuse makes it answer with an error.
func (s *stub) refuse(pattern string, e *api.Error) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(e.Status)
		_ = json.NewEncoder(w).Encode(e)
	})
}

// requests returns what it was asked that starts so, and forgets all.
func (s *stub) requests(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for _, text := range s.asked {
		if strings.HasPrefix(text, prefix) {
			found = append(found, text)
		}
	}
	s.asked = nil
	return found
}

// result is what a command line left.
type result struct {
	code     int
	out, err string
}

// run runs a command line, with what standard input has.
func (s *stub) run(input string, args ...string) result {
	s.t.Helper()
	return s.runContext(s.t.Context(), strings.NewReader(input), args...)
}

func (s *stub) runContext(ctx context.Context, in io.Reader, args ...string) result {
	s.t.Helper()
	var out, errs bytes.Buffer
	getenv := func(name string) string {
		return map[string]string{
			"LIGHTER_SOCKET": s.socket, "LIGHTER_STATE": filepath.Join(s.folder, "state"), "LIGHTER_CONFIG": filepath.Join(s.folder, "config"), "HOME": s.folder,
		}[name]
	}
	code := Run(ctx, args, command.Process{In: in, Out: &out, Err: &errs, Getenv: getenv})
	return result{code, out.String(), errs.String()}
}

// want checks code and, as parts, output and errors of a command line.
func (r result) want(t *testing.T, code int, out, errs string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.out, out) || !strings.Contains(r.err, errs) {
		t.Errorf("exit code %d, want %d\noutput %q, want %q\nerrors %q, want %q", r.code, code, r.out, out, r.err, errs)
	}
	for _, text := range []string{r.out, r.err} {
		if strings.ContainsAny(text, "\x1b\x07\r") {
			t.Errorf("control characters in %q", text)
		}
	}
}
