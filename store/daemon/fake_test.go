package daemon

import (
	"bytes"
	"context"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lighter/store"
)

// enc encodes integers, strings, lists of strings, and raw bytes.
func enc(words ...any) []byte {
	var b []byte
	for _, w := range words {
		switch w := w.(type) {
		case int:
			b = binary.LittleEndian.AppendUint64(b, uint64(w))
		case uint64:
			b = binary.LittleEndian.AppendUint64(b, w)
		case opcode:
			b = binary.LittleEndian.AppendUint64(b, uint64(w))
		case string:
			b = binary.LittleEndian.AppendUint64(b, uint64(len(w)))
			b = append(append(b, w...), make([]byte, -len(w)&7)...)
		case store.Path:
			b = append(b, enc(string(w))...)
		case []string:
			b = append(b, enc(len(w))...)
			for _, s := range w {
				b = append(b, enc(s)...)
			}
		case []byte:
			b = append(b, w...)
		default:
			panic("a word of what kind?")
		}
	}
	return b
}

// step is one exchange: the bytes that the client has to send, and the answer.
type step struct{ want, answer []byte }

// fake is a daemon that says what it is told to.
type fake struct {
	t       testing.TB
	socket  string
	version uint64
	// serve is called for each connection, from 1 on, after the handshake. The
	// connection is closed when it returns.
	serve func(n int, c net.Conn)
	conns atomic.Int64
}

// startFake starts a daemon that plays the steps on each of its connections; when they are
// over it waits for the client to close.
func startFake(t testing.TB, serve func(n int, c net.Conn)) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake") //nolint:usetesting // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, socket: filepath.Join(dir, "s"), version: 0x164, serve: serve}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				if f.handshake(c) {
					f.serve(int(f.conns.Add(1)), c)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		group.Wait()
		os.RemoveAll(dir)
	})
	return f
}

func (f *fake) handshake(c net.Conn) bool {
	if !expect(f.t, c, enc(clientMagic)) {
		return false
	}
	if _, err := c.Write(enc(daemonMagic, f.version)); err != nil {
		return false
	}
	announced := make([]byte, 24)
	if _, err := io.ReadFull(c, announced); err != nil {
		return false
	}
	if want := enc(min(f.version, 0x164), 0, 1); !bytes.Equal(announced, want) {
		f.t.Errorf("handshake: got %x, want %x", announced, want)
	}
	_, err := c.Write(enc(replyLast))
	return err == nil
}

// expect reads what the client has to send. It reports false at the end of the connection.
func expect(t testing.TB, c net.Conn, want []byte) bool {
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil && n == 0 {
		return false
	}
	if !bytes.Equal(got[:n], want) {
		t.Errorf("the client sent\n%q, want\n%q", got[:n], want)
		return false
	}
	return err == nil
}

// play returns a serve function.
func play(t testing.TB, steps ...step) func(int, net.Conn) {
	return func(_ int, c net.Conn) {
		for _, s := range steps {
			if !expect(t, c, s.want) {
				return
			}
			if _, err := c.Write(s.answer); err != nil {
				return
			}
		}
		if rest, _ := io.ReadAll(c); len(rest) > 0 {
			t.Errorf("after all the client sent %q", rest)
		}
	}
}

func (f *fake) open(change ...func(*Options)) *Store {
	f.t.Helper()
	opts := Options{Socket: f.socket, ConfigDir: filepath.Dir(f.socket), Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&opts)
	}
	return open(f.t, opts)
}

//go:embed testdata/*.json
var transcripts embed.FS

// transcript returns the exchanges of a recorded connection, without the handshake.
func transcript(name string) []step {
	text, err := transcripts.ReadFile("testdata/" + name + ".json")
	if err != nil {
		panic(err)
	}
	var conns [][]struct{ From, Hex string }
	if err := json.Unmarshal(text, &conns); err != nil {
		panic(err)
	}
	var steps []step
	for _, piece := range conns[0][4:] {
		b, err := hex.DecodeString(piece.Hex)
		if err != nil {
			panic(err)
		}
		if piece.From == "client" {
			steps = append(steps, step{want: b})
		} else {
			steps[len(steps)-1].answer = b
		}
	}
	return steps
}

// recorded returns the first exchange that begins with an opcode, and what follows it.
func recorded(name string, op opcode) []step {
	steps := transcript(name)
	for i, s := range steps {
		if bytes.HasPrefix(s.want, enc(op)) {
			return steps[i:]
		}
	}
	panic(name + " has no such request")
}

// soon returns a context for what must not take long.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errors.New("it hangs"))
	t.Cleanup(cancel)
	return ctx
}

// open returns a store and has it closed.
func open(t testing.TB, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
