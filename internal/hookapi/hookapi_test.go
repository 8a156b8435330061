package hookapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/testkit"
)

var kinds = []Kind{Ask, Build, Delivered, Reply, State, Log, Transfer, Archive, End, Final}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	sizes := []int{0, 1, 4095, 4096, MaxChunk}
	for _, k := range kinds {
		for _, n := range sizes {
			if n > limit(k) {
				continue
			}
			if err := Write(&b, k, bytes.Repeat([]byte{byte(k)}, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, way := range []func(io.Reader) io.Reader{
		func(r io.Reader) io.Reader { return r }, iotest.HalfReader, iotest.DataErrReader,
	} {
		r := NewReader(way(bytes.NewReader(b.Bytes())))
		for _, k := range kinds {
			for _, n := range sizes {
				if n > limit(k) {
					continue
				}
				kind, payload, err := r.Next()
				if err != nil || kind != k || len(payload) != n || !bytes.Equal(payload, bytes.Repeat([]byte{byte(k)}, n)) {
					t.Fatalf("%q of %d bytes: got %q, %d bytes, %v", k, n, kind, len(payload), err)
				}
			}
		}
		if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestLimits(t *testing.T) {
	for k := range 256 {
		kind := Kind(k)
		most := limit(kind)
		if bytes.ContainsRune([]byte("abdrsltcef"), rune(k)) != (most >= 0) {
			t.Errorf("%q: limit %d", kind, most)
		}
		if most < MaxFrame {
			if err := Write(io.Discard, kind, make([]byte, most+1)); !errors.Is(err, ErrFrame) {
				t.Errorf("write %q of %d bytes: %v", kind, most+1, err)
			}
		}
		for _, n := range []uint32{uint32(most + 1), 1 << 31, 1<<31 + 1, 1<<32 - 1} {
			frame := binary.BigEndian.AppendUint32([]byte{byte(k)}, n)
			if _, _, err := NewReader(bytes.NewReader(frame)).Next(); !errors.Is(err, ErrFrame) {
				t.Errorf("read %q of %d bytes: %v", kind, n, err)
			}
		}
	}
	if MaxFrame <= MaxChunk || limit(Build) != MaxFrame {
		t.Errorf("limit(Build) = %d", limit(Build))
	}
}

// TestLongFrameIsNotKept has a reader take the one long frame of a conversation.
func TestLongFrameIsNotKept(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, Build, make([]byte, MaxFrame)); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&b)
	if _, payload, err := r.Next(); err != nil || len(payload) != MaxFrame {
		t.Fatalf("%d bytes, %v", len(payload), err)
	}
	if cap(r.buf) > MaxChunk {
		t.Errorf("the reader keeps %d bytes", cap(r.buf))
	}
	runtime.KeepAlive(r)
}

func TestTruncated(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, Log, []byte("a line of a log\n")); err != nil {
		t.Fatal(err)
	}
	for n := range b.Len() {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if _, _, err := NewReader(bytes.NewReader(b.Bytes()[:n])).Next(); !errors.Is(err, want) {
			t.Errorf("%d bytes: got %v, want %v", n, err, want)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, v := range []any{
		&Question{Derivation: "/gnu/store/r24ph4wka0cdybig90b5w4fa0dvn52ry-x.drv", System: "x86_64-linux", Features: []string{"kvm"}, WantsLocal: true},
		&Answer{Verdict: Postpone, Reason: "later"},
		&Order{ID: "id", Derivation: "/gnu/store/r24ph4wka0cdybig90b5w4fa0dvn52ry-x.drv", Timeout: 1.5, LogAttempt: 1, LogOffset: 1 << 40},
		&Progress{State: api.Building, Attempt: 2, Machine: "m", Reason: "r"},
		&Shipment{Number: 3, Machine: "m", Items: 2, Bytes: 1 << 40},
		&Receipt{Number: 3, Error: "e", Local: true},
		&Result{State: api.Failed, Machine: "m", Reason: "r", Failure: &api.Failure{Message: "m", ExitCode: 1}},
	} {
		var b bytes.Buffer
		if err := WriteJSON(&b, Ask, v); err != nil {
			t.Fatal(err)
		}
		_, payload, err := NewReader(&b).Next()
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		if err := Decode(payload, got); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("got %+v, %v, want %+v", got, err, v)
		}
	}
	if err := WriteJSON(io.Discard, Ask, func() {}); err == nil {
		t.Error("a function was written as JSON")
	}
	for _, bad := range []string{
		"", "{", "[]", "1", `{"derivation":1}`, `{"derivation":"/etc/passwd"}`, `{"derivation":"/gnu/store/../x"}`,
		`{"derivation":"/gnu/store/r24ph4wka0cdybig90b5w4fa0dvn52ry-a/b"}`, `{} {}`,
	} {
		if err := Decode([]byte(bad), new(Question)); !errors.Is(err, ErrFrame) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// listen serves one connection.
func listen(t *testing.T, serve func(conn net.Conn)) (socket string) {
	t.Helper()
	testkit.CheckLeaks(t)
	dir, err := os.MkdirTemp("", "lighter") //nolint:usetesting // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn)
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return socket
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + Protocol + "\r\n\r\n"

func TestDial(t *testing.T) {
	request := make(chan string, 1)
	socket := listen(t, func(conn net.Conn) {
		b := make([]byte, 4096)
		n, _ := conn.Read(b)
		request <- string(b[:n])
		var answer bytes.Buffer
		answer.WriteString(switching)
		_ = Write(&answer, Log, []byte("at once")) // in the same packet
		_, _ = conn.Write(answer.Bytes())
		_, _ = io.Copy(io.Discard, conn)
	})
	conn, r, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, want := <-request, "GET /v1/offload HTTP/1.1\r\nHost: lighter\r\nConnection: Upgrade\r\nUpgrade: lighter-offload/1\r\n\r\n"; got != want {
		t.Errorf("asked %q", got)
	}
	if kind, payload, err := r.Next(); kind != Log || string(payload) != "at once" || err != nil {
		t.Errorf("got %q %q, %v", kind, payload, err)
	}
}

func TestDialErrors(t *testing.T) {
	if _, _, err := Dial("/nonexistent/sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody: %v", err)
	}
	for name, c := range map[string]struct {
		answer string
		want   error
		text   string
	}{
		"not found":        {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", ErrFrame, "404 Not Found"},
		"HTTP/1.0":         {"HTTP/1.0 101 x\r\n\r\n", ErrFrame, "HTTP/1.0"},
		"nothing":          {"", io.ErrUnexpectedEOF, ""},
		"half a line":      {"HTTP/1.1 101 Sw", io.ErrUnexpectedEOF, ""},
		"half the headers": {"HTTP/1.1 101 x\r\nA: b\r\n", io.ErrUnexpectedEOF, ""},
		"garbage":          {"SSH-2.0-OpenSSH\r\n", ErrFrame, "SSH-2.0"},
		"control":          {"\x1b[2J\r\n", ErrFrame, `\x1b[2J`},
		"many headers":     {"HTTP/1.1 101 x\r\n" + strings.Repeat("A: b\r\n", maxHeaders+1), ErrFrame, "64 headers"},
		"long status":      {strings.Repeat("x", 100<<10), ErrFrame, "65536 bytes"},
		"long header":      {"HTTP/1.1 101 x\r\nA: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", ErrFrame, "65536 bytes"},
		"long, but a line": {strings.Repeat("x", 60<<10) + "\r\n", ErrFrame, "xxx"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := listen(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = io.WriteString(conn, c.answer)
			})
			conn, _, err := Dial(socket)
			if err == nil {
				conn.Close()
				t.Fatal("no error")
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), socket) || len(err.Error()) > 500 {
				t.Errorf("got %.600v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

// TestHandshakeTime has a coordinator that says nothing, or so slowly that it never ends.
func TestHandshakeTime(t *testing.T) {
	for name, every := range map[string]time.Duration{"nothing": time.Hour, "slowly": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				var group sync.WaitGroup
				group.Go(func() { _, _ = io.Copy(io.Discard, there) })
				group.Go(func() {
					for range 100 {
						time.Sleep(every)
						if _, err := io.WriteString(there, "x"); err != nil {
							return
						}
					}
				})
				began := time.Now()
				_, err := handshake(here)
				if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != handshakeTimeout {
					t.Errorf("after %s: %v", took, err)
				}
				here.Close()
				there.Close()
				group.Wait()
			})
		})
	}
	// A conversation that began has no such limit.
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer here.Close()
		go func() {
			defer there.Close()
			_, _ = there.Read(make([]byte, 4096))
			_, _ = io.WriteString(there, switching)
			time.Sleep(time.Hour)
			_ = Write(there, Log, []byte("late"))
		}()
		r, err := handshake(here)
		if err != nil {
			t.Fatal(err)
		}
		if _, payload, err := r.Next(); err != nil || string(payload) != "late" {
			t.Errorf("got %q, %v", payload, err)
		}
	})
}

func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	for _, k := range kinds {
		_ = Write(&b, k, nil)
	}
	_ = WriteJSON(&b, Build, Order{ID: "x"})
	f.Add(b.Bytes())
	f.Add([]byte("c\x00\x00\x00\x01"))
	f.Add([]byte("b\x04\x00\x00\x00"))
	f.Add([]byte("a\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream))
		var again bytes.Buffer
		for {
			kind, payload, err := r.Next()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrFrame) {
					t.Fatal(err)
				}
				break
			}
			if err := Write(&again, kind, payload); err != nil {
				t.Fatalf("what was read can't be written: %v", err)
			}
			var o Order
			if err := Decode(payload, &o); err == nil {
				_ = fmt.Sprint(o)
			}
		}
		if !bytes.HasPrefix(stream, again.Bytes()) {
			t.Fatal("it is not written as it was read")
		}
	})
}
