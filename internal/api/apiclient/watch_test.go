package apiclient

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/internal/api"
)

// impatient makes a client look at once.
func impatient(c *Client) *Client {
	c.quietTime, c.aliveTime = 10*time.Millisecond, 200*time.Millisecond
	return c
}

// listenForever is the variable with the socket on which this program listens, as another
// process, and says nothing.
const listenForever = "LIGHTER_TEST_LISTEN"

func TestMain(m *testing.M) {
	if name := os.Getenv(listenForever); name != "" {
		if _, err := net.Listen("unix", name); err != nil {
			os.Exit(1)
		}
		os.Stdout.Write([]byte("x"))
		select {}
	}
	os.Exit(m.Run())
}

func TestStoppedCoordinator(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), listenForever+"="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c := impatient(NewClient(name))
	c.aliveTime = time.Minute // what is stopped need not be waited for
	defer c.Close()
	for _, ask := range []func() error{
		func() error { _, err := c.Status(t.Context()); return err },
		func() error { return c.Attach(t.Context(), "x") },
		func() error { return c.Follow(t.Context(), 0, func(*api.Event) error { return nil }) },
	} {
		if err := ask(); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "is stopped; kill -CONT ") {
			t.Errorf("got %v", err)
		}
	}
}

// serve serves a handler on a socket, and returns a client of it.
func serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }}
	over := make(chan struct{})
	go func() {
		defer close(over)
		server.Serve(l)
	}()
	c := impatient(NewClient(l.Addr().String()))
	t.Cleanup(func() {
		c.Close()
		cancel()
		server.Close()
		<-over
	})
	return c
}

func TestSilentCoordinator(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := c.Status(ctx); !errors.Is(err, why) {
		t.Errorf("after the caller's end: %v", err)
	}
}

// TestQuietStream has a coordinator that lives say nothing on a stream for several looks.
func TestQuietStream(t *testing.T) {
	looked := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/version", func(w http.ResponseWriter, r *http.Request) {
		select {
		case looked <- struct{}{}:
		case <-r.Context().Done():
		}
		json.NewEncoder(w).Encode(api.Version{})
	})
	mux.HandleFunc("/v1/events", func(w http.ResponseWriter, _ *http.Request) {
		http.NewResponseController(w).Flush()
		for range 3 {
			<-looked
		}
		json.NewEncoder(w).Encode(api.Event{Seq: 7})
	})
	c := serve(t, mux)
	c.aliveTime = time.Minute
	enough := errors.New("enough")
	err := c.Follow(t.Context(), 0, func(ev *api.Event) error {
		if ev.Seq != 7 {
			t.Errorf("got event %d", ev.Seq)
		}
		return enough
	})
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}
