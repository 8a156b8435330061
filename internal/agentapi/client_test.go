package agentapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/testkit"
	"lighter/store"
)

// serve returns a client of a server that answers with h.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	testkit.CheckLeaks(t)
	l := listener{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: h}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	client := NewClient(func(ctx context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case l.conns <- there:
			return here, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-served
	})
	return client
}

type listener struct {
	conns chan net.Conn
	over  chan struct{}
}

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l listener) Close() error {
	close(l.over)
	return nil
}

func (listener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

const (
	item = store.Path("/gnu/store/00000000000000000000000000000000-x")
	drv  = store.Path("/gnu/store/00000000000000000000000000000000-x.drv")
	info = `{"path":"` + string(item) + `","narSize":120,"narHash":"1111111111111111111111111111111111111111111111111111111111111111"}`
)

// TestErrors has answers that are errors, and what callers see of them.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   Error
		is     error
	}{
		{"not valid", 404, `{"code":"not-valid","error":"x: not valid"}`, Error{404, CodeNotValid, "x: not valid"}, store.ErrNotValid},
		{"unauthorized", 403, `{"code":"unauthorized","error":"x"}`, Error{403, CodeUnauthorized, "x"}, store.ErrUnauthorized},
		{"corrupt", 422, `{"code":"corrupt","error":"x"}`, Error{422, CodeCorrupt, "x"}, store.ErrCorrupt},
		{"no JSON", 502, "<h1>Bad gateway</h1>\n", Error{502, "", "502 Bad Gateway: <h1>Bad gateway</h1>"}, nil},
		{"empty", 500, "", Error{500, "", "500 Internal Server Error: "}, nil},
		{"endless", 500, strings.Repeat("x", 10*maxError), Error{500, "", api.Cut("500 Internal Server Error: "+strings.Repeat("x", maxError), api.MaxMessage)}, nil},
		{"control characters", 500, `{"error":"a\u001b[31mb\nc\u202e"}`, Error{500, "", `a\x1b[31mb | c\u202e`}, nil},
		{"unknown code", 404, `{"code":"made-up","error":"x"}`, Error{404, "", "x"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := c.Closure(t.Context(), []store.Path{item})
			var got *Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v, which is no *Error", err)
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, target := range []error{store.ErrNotValid, store.ErrUnauthorized, store.ErrCorrupt} {
				if errors.Is(err, target) != (tt.is != nil && errors.Is(tt.is, target)) {
					t.Errorf("errors.Is(err, %v) is wrong", target)
				}
			}
		})
	}
}

func TestLogWithoutTrailer(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "text") })
	var b bytes.Buffer
	_, err := c.Log(t.Context(), &Asked{ID: "b"}, 0, &b)
	var answer *Error
	if !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &answer) || b.String() != "text" {
		t.Errorf("got %q, %v", b.String(), err)
	}
}

func TestLogBreaks(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "text")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	var b bytes.Buffer
	if _, err := c.Log(t.Context(), &Asked{ID: "b"}, 0, &b); err == nil || b.String() != "text" {
		t.Errorf("got %q, %v", b.String(), err)
	}
}

func TestLogWriterFails(t *testing.T) {
	full := errors.New("the disk is full")
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "text") })
	if _, err := c.Log(t.Context(), &Asked{ID: "b"}, 0, failing{full}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestPartialTrailer(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/log") {
			w.Header().Set("Trailer", LogTrailer)
			w.WriteHeader(http.StatusOK)
			w.Header().Set(LogTrailer, `{"id":"b","attempt":1,"derivation":"`+string(drv)+`","state":"succeeded","partial":true}`)
			return
		}
		_, _ = io.WriteString(w, `{"id":"b","attempt":1,"derivation":"`+string(drv)+`","state":"succeeded","outputs":{"out":`+info+`}}`)
	})
	status, err := c.Log(t.Context(), &Asked{ID: "b"}, 0, io.Discard)
	if err != nil || status.Partial || status.Outputs["out"].Path != item {
		t.Errorf("got %+v, %v", status, err)
	}
}

// TestCause shows that callers get the reason for which they ended the context.
func TestCause(t *testing.T) {
	reason := errors.New("the build was canceled")
	asked := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(reason)
	}()
	if _, err := c.Machine(ctx); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}

// TestDialFails shows that the way's failure is not mistaken for an answer.
func TestDialFails(t *testing.T) {
	down := errors.New("machine down")
	c := NewClient(func(context.Context) (net.Conn, error) { return nil, down })
	_, err := c.Machine(t.Context())
	var answer *Error
	if !errors.Is(err, down) || errors.As(err, &answer) {
		t.Errorf("got %v", err)
	}
}

// TestKeepAlive shows that requests share a stream.
func TestKeepAlive(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, info) })
	dial := c.transport.DialContext
	dials := 0
	c.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++
		return dial(ctx, network, addr)
	}
	for range 5 {
		if _, err := c.AddText(t.Context(), "x", nil); err != nil {
			t.Fatal(err)
		}
		if err := c.DeleteBuild(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
	}
	if dials != 1 {
		t.Errorf("%d streams for requests one after the other", dials)
	}
}
