//go:build guixlab

package guixlab

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"lighter/internal/api"
)

// forger stands between a machine's SSH server and its agent, and changes one word in what
// the agent sends.
type forger struct {
	honest   atomic.Bool
	forged   atomic.Int64
	listener net.Listener
}

// Two words of the same length.
const (
	genuine    = "the genuine result"
	counterfit = "the forged! result"
)

// newForger takes the place of the agent's socket until the test ends.
func newForger(t *testing.T, m Machine) *forger {
	t.Helper()
	root, err := m.Root()
	if err != nil {
		t.Fatal(err)
	}
	// In /proc/PID/root names are short enough for a socket's address.
	found, err := m.Run(t.Context(), "ls -t /tmp/lighter-*/agent-*.sock | head -n 1") // the newest agent's
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(root, strings.TrimSpace(found))
	hidden := socket + "-"
	if err := os.Rename(socket, hidden); err != nil {
		t.Fatal(err)
	}
	f := &forger{}
	if f.listener, err = net.Listen("unix", socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.listener.Close()
		if err := os.Rename(hidden, socket); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	go f.serve(hidden)
	return f
}

func (f *forger) serve(agent string) {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", agent)
		if err != nil {
			client.Close()
			continue
		}
		go func() {
			_, _ = io.Copy(server, client)
			server.Close()
		}()
		go func() {
			_, _ = io.Copy(forgery{f, client}, server)
			client.Close()
		}()
	}
}

// forgery is a writer that forges. The word is short, and in one piece.
type forgery struct {
	f *forger
	w io.Writer
}

func (w forgery) Write(p []byte) (int, error) {
	if !w.f.honest.Load() && bytes.Contains(p, []byte(genuine)) {
		p = bytes.ReplaceAll(p, []byte(genuine), []byte(counterfit))
		w.f.forged.Add(1)
	}
	return w.w.Write(p)
}

func TestTampered(t *testing.T) {
	f := newFarmAuthorized(t, entry("plain"))
	forger := newForger(t, Machine{"plain"})
	f.stop() // its connections to the agent go past the forger
	f.start()
	f.awaitUp(1)
	// The word is not in the derivation in one piece.
	drv := f.add(Recipe{Name: unique("forged"), Script: `a="the genuine"; echo "$a result" > $out`})
	r := f.guix("build", string(drv))
	await(t, func() string {
		b := f.buildOf(drv)
		if b == nil || b.Failure == nil {
			return "nothing was refused"
		}
		contains(t, b.Failure.Message, "refused")
		return ""
	})
	if forger.forged.Load() == 0 {
		t.Error("nothing was forged")
	}
	f.absent(f.Output(drv, "out"))
	forger.honest.Store(true)
	if code := r.code(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, r.text.String())
	}
	contains(t, r.text.String(), "outputs from plain", "hash mismatch")
	f.content(f.Output(drv, "out"), genuine+"\n")
	if b := f.awaitState(drv, api.Succeeded); b.Attempt < 2 {
		t.Errorf("it took %d attempts", b.Attempt)
	}
}
