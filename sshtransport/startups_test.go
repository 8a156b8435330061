package sshtransport_test

import (
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"lighter/internal/testkit"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
)

// front passes connections on to a server, but for the first ones, which it drops as an sshd does
// that has too many others.
func front(t *testing.T, server string, drop int) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for n := 0; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if n < drop {
				io.WriteString(conn, "Exceeded MaxStartups\r\n")
				conn.Close()
				continue
			}
			serving.Go(func() { pass(t, conn, server) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

func pass(t *testing.T, conn net.Conn, server string) {
	defer conn.Close()
	there, err := net.Dial("tcp", server)
	if err != nil {
		t.Error(err)
		return
	}
	defer there.Close()
	go func() {
		io.Copy(there, conn)
		there.Close()
	}()
	io.Copy(conn, there)
}

func TestDroppedStartups(t *testing.T) {
	bothWays(t, func(t *testing.T, openssh bool) {
		testkit.CheckLeaks(t)
		f := newFarm(t)
		s, cfg := startTestServer(t, f, sshtest.Options{})
		cfg.Addr = front(t, s.Addr, 3)
		byProgram(t, &cfg, openssh)
		c := newClient(t, cfg)
		mustGet(t, httpClient(t, c), "/pid")
		c.Close()
	})
}

// A server that closes what is not used is no news each time.
func TestClosedUnused(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	s, cfg := startTestServer(t, f, sshtest.Options{})
	var log lines
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	c := newClient(t, cfg)
	dial := func() {
		conn, err := c.DialAgent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	for range 3 {
		dial()
		s.CutAll()
		sshtransport.AwaitLoss(c)
	}
	if text := log.String(); strings.Count(text, "closes connections that are not used") != 1 ||
		strings.Count(text, "msg=connected") != 1 || strings.Contains(text, "level=WARN") {
		t.Errorf("log:\n%s", text)
	}
	conn, err := c.DialAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.CutAll()
	sshtransport.AwaitLoss(c)
	if text := log.String(); strings.Count(text, "connection lost") != 1 {
		t.Errorf("log:\n%s", text)
	}
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
