package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/machines"
	"lighter/store"
)

// fakeServer serves a fakeAgent over HTTP, as an agent does, on pipes that break when
// the link of the fakeAgent is cut, in the middle of whatever they carry.
type fakeServer struct {
	agent  *fakeAgent
	server *http.Server
	conns  chan net.Conn
	over   chan struct{}
	once   sync.Once
}

func newFakeServer(a *fakeAgent) *fakeServer {
	s := &fakeServer{agent: a, conns: make(chan net.Conn), over: make(chan struct{})}
	s.server = &http.Server{Handler: s.handler()}
	return s
}

// Accept, Close and Addr make it a net.Listener.
func (s *fakeServer) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.over:
		return nil, net.ErrClosed
	}
}

func (s *fakeServer) Close() error {
	s.once.Do(func() { close(s.over) })
	return nil
}

func (s *fakeServer) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// DialAgent makes it a Link.
func (s *fakeServer) DialAgent(ctx context.Context) (net.Conn, error) {
	s.agent.mu.Lock()
	down, cut := s.agent.down, s.agent.cut
	s.agent.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	select {
	case s.conns <- there:
	case <-s.over:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	conn := &cutConn{Conn: here, closed: make(chan struct{})}
	go func() {
		select {
		case <-cut:
			conn.Close()
		case <-s.over:
			conn.Close()
		case <-conn.closed:
		}
	}()
	return conn, nil
}

type cutConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *cutConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (s *fakeServer) handler() http.Handler {
	mux := http.NewServeMux()
	a := s.agent
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(w, r)
			var answer *agentapi.Error
			switch {
			case errors.As(err, &answer):
				text := s.twisted(r, "error", answer)
				w.WriteHeader(answer.Status)
				_, _ = w.Write(text)
			case err != nil:
				panic(http.ErrAbortHandler)
			case v != nil:
				_, _ = w.Write(s.twisted(r, pattern, v))
			}
		})
	}
	handle("GET /v1/machine", func(_ http.ResponseWriter, r *http.Request) (any, error) { return a.Machine(r.Context()) })
	handle("GET /v1/builds", func(_ http.ResponseWriter, r *http.Request) (any, error) { return a.Builds(r.Context(), nil) })
	handle("GET /v1/builds/{id}", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return a.Build(r.Context(), askedID(r))
	})
	handle("PUT /v1/builds/{id}", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var req agentapi.BuildRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		return a.PutBuild(r.Context(), askedID(r), &req)
	})
	handle("DELETE /v1/builds/{id}", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return struct{}{}, a.DeleteBuild(r.Context(), r.PathValue("id"))
	})
	handle("GET /v1/builds/{id}/log", func(w http.ResponseWriter, r *http.Request) (any, error) {
		offset, _ := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
		if _, err := a.Build(r.Context(), askedID(r)); err != nil {
			return nil, err
		}
		w.Header().Set("Trailer", agentapi.LogTrailer)
		w.WriteHeader(http.StatusOK)
		status, err := a.Log(r.Context(), askedID(r), offset, flushing{w})
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set(agentapi.LogTrailer, string(s.twisted(r, "trailer", status)))
		return nil, nil
	})
	handle("POST /v1/closure", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		infos, err := a.Closure(r.Context(), readPaths(r))
		return agentapi.Infos{Infos: infos}, err
	})
	handle("POST /v1/import", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		infos, err := a.Import(r.Context(), r.Body)
		return agentapi.Infos{Infos: infos}, err
	})
	handle("POST /v1/add-text", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var req agentapi.AddTextRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		return a.AddText(r.Context(), req.Name, req.Content)
	})
	handle("POST /v1/gc", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return a.CollectGarbage(r.Context(), &agentapi.GCRequest{})
	})
	handle("POST /v1/export", func(w http.ResponseWriter, r *http.Request) (any, error) {
		archive, err := a.Export(r.Context(), readPaths(r))
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(w, archive)
		return nil, err
	})
	return mux
}

// twisted returns the text of an answer as the agent's twist makes it.
func (s *fakeServer) twisted(r *http.Request, what string, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is one of ours
	}
	s.agent.mu.Lock()
	twist := s.agent.twist
	s.agent.answers[what]++
	s.agent.mu.Unlock()
	if twist == nil {
		return text
	}
	if text = twist(what, text); text == nil {
		select {
		case <-r.Context().Done(): // not seen to end before all of the body is read
		case <-s.over:
		}
		panic(http.ErrAbortHandler)
	}
	return text
}

func askedID(r *http.Request) *agentapi.Asked { return &agentapi.Asked{ID: r.PathValue("id")} }

func readPaths(r *http.Request) []store.Path {
	var paths agentapi.Paths
	if err := json.NewDecoder(r.Body).Decode(&paths); err != nil {
		panic(http.ErrAbortHandler)
	}
	return paths.Paths
}

type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.w.(http.Flusher).Flush()
	return n, err
}

// overHTTP makes a farm's coordinator reach its agents by HTTP on pipes.
func overHTTP(f *farm) func(*Config) {
	return func(c *Config) {
		c.NewAgent = nil
		c.NewLink = func(m machines.Machine) (peer.Link, error) {
			s := newFakeServer(f.agents[m.Name])
			over := make(chan struct{})
			go func() {
				defer close(over)
				s.server.Serve(s)
			}()
			return httpLink{s, over}, nil
		}
	}
}

type httpLink struct {
	*fakeServer
	served chan struct{}
}

func (l httpLink) Close() error {
	err := errors.Join(l.fakeServer.Close(), l.server.Close())
	<-l.served
	return err
}

func TestOverHTTP(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	f.shutDown()
	overHTTP(f)(&f.config)
	f.start()
	base := f.drv("base", "log=base")
	top := f.drv("top", "log=one hold log=two", base)
	id := f.submit(top)[0]
	b := f.awaitState(id, api.Building)
	a := f.agents[b.Machine]
	<-a.held
	a.cutLink(true)
	f.await(id, func(b *api.Build) bool { return b.Reason != "" })
	a.release("top")
	a.up()
	if b := f.awaitState(id, api.Succeeded); b.Attempt != 1 || b.LogSize != 8 {
		t.Errorf("got attempt %d and a log of %d bytes", b.Attempt, b.LogSize)
	}
	bad := f.awaitState(f.submit(f.drv("bad", "fail log=x"))[0], api.Failed)
	if bad.Failure.ExitCode != 1 || bad.LogSize != 2 {
		t.Errorf("got %+v, a log of %d bytes", bad.Failure, bad.LogSize)
	}
	f.idle()
}
