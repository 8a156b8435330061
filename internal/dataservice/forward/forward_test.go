package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lighter/internal/testkit"
)

// coordinator has a socket that tells what it is asked.
func coordinator(t *testing.T) func(context.Context) (net.Conn, error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization")+r.Header.Get("Cookie")+r.Header.Get("X-Forwarded-For")+r.Header.Get("If-None-Match"))
	}))
	t.Cleanup(server.Close)
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
}

func TestForward(t *testing.T) {
	h := Handler(coordinator(t), nil)
	for uri, want := range map[string]string{
		"/repositories": "GET /v1/data-service/repositories ",
		"/repository/1/branch/a%2Fb.json?limit=3":     "GET /v1/data-service/repository/1/branch/a%2Fb.json?limit=3 ",
		"/revision/x/package/c%2B%2B/1?field=a&all=%": "",
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, uri, nil)
		r.Header.Set("Authorization", "Bearer x")
		r.Header.Set("Cookie", "a=b")
		r.Header.Set("If-None-Match", "tag")
		h.ServeHTTP(w, r)
		if want != "" && w.Body.String() != want+"tag" {
			t.Errorf("%s: the coordinator is asked %q, want %q", uri, w.Body, want+"tag")
		}
	}
}

// Nothing else of the socket can be reached, whatever the path.
func TestNothingElse(t *testing.T) {
	server := httptest.NewServer(Handler(coordinator(t), nil))
	defer server.Close()
	for _, uri := range []string{"/../pause", "/../../v1/builds", "/%2e%2e/pause", "//x/../../status"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET "+uri+" HTTP/1.0\r\n\r\n")
		text, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(text), "HTTP/1.0 404 ") {
			t.Errorf("%s: answered %q", uri, text)
		}
	}
	w := httptest.NewRecorder()
	Handler(coordinator(t), nil).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/repositories", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", w.Code)
	}
}

func TestCoordinatorAway(t *testing.T) {
	h := Handler(func(context.Context) (net.Conn, error) { return nil, errors.New("no socket") }, nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/repositories", nil))
	if w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), "the coordinator does not answer") {
		t.Errorf("status %d, %s", w.Code, w.Body)
	}
}

func TestServeEnds(t *testing.T) {
	testkit.CheckLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, http.NotFoundHandler()) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
