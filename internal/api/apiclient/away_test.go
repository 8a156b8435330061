package apiclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
)

func TestWhileAway(t *testing.T) {
	gone := fmt.Errorf("%w at /socket", api.ErrUnavailable)
	stopping := &api.Error{Status: 503, Code: api.CodeUnavailable, Message: "the coordinator stops"}
	full := &api.Error{Status: 507, Code: api.CodeDiskFull, Message: "full"}
	ended := errors.New("interrupted")
	for name, c := range map[string]struct {
		fails    []error       // one after the other; the last one forever
		backIn   time.Duration // 0 means never
		patience time.Duration
		want     error
		took     time.Duration // at most; at least what it waits for
		waits    int           // how often it says so
	}{
		"there":         {patience: time.Minute},
		"comes back":    {fails: []error{io.ErrUnexpectedEOF, stopping, gone}, backIn: time.Minute, patience: time.Hour, took: time.Minute + 2*time.Second, waits: 1},
		"stays away":    {fails: []error{gone}, patience: time.Minute, want: gone, took: time.Minute + 2*time.Second, waits: 1},
		"answers no":    {fails: []error{full}, patience: time.Minute, want: full},
		"answers later": {fails: []error{gone, full}, patience: time.Minute, want: full, took: time.Second, waits: 1},
		"no patience":   {fails: []error{gone}, want: gone},
		"interrupted":   {fails: []error{gone}, patience: 2 * time.Hour, want: ended, took: time.Hour, waits: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, ended)
				defer cancel()
				start, waits, calls := time.Now(), 0, 0
				err := WhileAway(ctx, c.patience, func(error) { waits++ }, func() error {
					if len(c.fails) == 0 || c.backIn > 0 && time.Since(start) >= c.backIn {
						return nil
					}
					calls++
					return c.fails[min(calls, len(c.fails))-1]
				})
				took := time.Since(start)
				if !errors.Is(err, c.want) || waits != c.waits || took > c.took || errors.Is(err, gone) && took < c.patience {
					t.Errorf("%v after %v, said %d times that it waits", err, took, waits)
				}
			})
		})
	}
}

// TestConnectionOfBefore has a coordinator end in the midst of a request: that there is none any
// more is said however the connection ends, orderly or with a reset.
func TestConnectionOfBefore(t *testing.T) {
	for name, read := range map[string]func(net.Conn){
		"orderly": func(conn net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(conn)) },
		"reset":   func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }, // the rest is never read
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "socket")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			asked := make(chan struct{})
			go func() {
				defer close(asked)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				read(conn)
				l.Close()
				conn.Close()
			}()
			c := NewClient(socket)
			defer c.Close()
			if _, err := c.Submit(t.Context(), api.Request{}); !errors.Is(err, api.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			<-asked
		})
	}
}
