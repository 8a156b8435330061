package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lighter/internal/agentapi"
)

// TestLogReconnect reads a log over connections that break, by several readers.
func TestLogReconnect(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	r.put("b", request(t, 1, "a", "log=one hold log=two log=three"))
	<-s.held
	var group sync.WaitGroup
	seen := make(chan struct{}, 3)
	for range 3 {
		group.Go(func() {
			var b bytes.Buffer
			first := &notify{w: &b, seen: seen}
			if _, err := r.client.Log(t.Context(), &agentapi.Asked{ID: "b"}, 0, first); err == nil {
				t.Error("a log that broke off has no error")
			}
			status, err := r.client.Log(t.Context(), &agentapi.Asked{ID: "b"}, int64(b.Len()), &b)
			if err != nil || b.String() != "one\ntwo\nthree\n" || status.LogSize != 14 {
				t.Errorf("got %q, %+v, %v", b.String(), status, err)
			}
		})
	}
	for range 3 {
		<-seen
	}
	r.cut()
	close(s.free)
	group.Wait()
	for offset, want := range map[int64]string{0: "one\ntwo\nthree\n", 5: "wo\nthree\n", 14: ""} {
		if text, _ := r.follow("b", offset); text != want {
			t.Errorf("from %d: %q, want %q", offset, text, want)
		}
	}
	for _, offset := range []int64{15, -1} {
		_, err := r.client.Log(t.Context(), &agentapi.Asked{ID: "b"}, offset, io.Discard)
		wantCode(t, err, 416, agentapi.CodeBadRequest)
	}
	_, err := r.client.Log(t.Context(), &agentapi.Asked{ID: "none"}, 0, io.Discard)
	wantCode(t, err, 404, agentapi.CodeUnknownBuild)
}

// notify says when something was written.
type notify struct {
	w    io.Writer
	seen chan<- struct{}
}

func (n *notify) Write(p []byte) (int, error) {
	n.seen <- struct{}{}
	return n.w.Write(p)
}

func TestLogOfRooted(t *testing.T) {
	r := start(t, newFakeStore(t))
	r.put("b", request(t, 1, "a", "", source(t, "absent")))
	_, err := r.client.Log(t.Context(), &agentapi.Asked{ID: "b"}, 0, io.Discard)
	wantCode(t, err, 409, "")
}

func TestLogIsCut(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s, func(o *Options) { o.MaxLog = 1 << 10 })
	long := strings.Repeat("x", 500)
	r.put("b", request(t, 1, "a", "log=first log="+long+" log="+long+" log="+long+" log=THE-REAL-ERROR"))
	text, status := r.follow("b", 0)

	if !strings.HasPrefix(text, "first\nxxx") || !strings.Contains(text, " bytes of the log are missing here: no more than 1024 are kept\n") || !strings.HasSuffix(text, "THE-REAL-ERROR\n") {
		t.Errorf("got %q", text)
	}
	if status.State != agentapi.Succeeded || status.LogSize != int64(len(text)) || len(text) > 1<<10 || status.Written != 6+3*501+15 {
		t.Errorf("%d bytes, %+v", len(text), status)
	}
}

// TestLogCannotBeWritten shows that a build goes on without its log.
func TestLogCannotBeWritten(t *testing.T) {
	l := newBuildLog(filepath.Join(t.TempDir(), "no", "folder"), 100, slog.New(slog.DiscardHandler))
	for range 2 {
		if n, err := l.Write([]byte("text")); n != 4 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
	}
	l.end()
	if err := l.follow(t.Context(), 0, func([]byte) error { return errors.New("there is nothing") }); err != nil {
		t.Error(err)
	}
}

// TestLogIsLost has a build fail whose log can't be written: the failure says so.
func TestLogIsLost(t *testing.T) {
	r := start(t, newFakeStore(t))
	if err := os.MkdirAll(r.buildFile(logName("b", 1)), 0o700); err != nil { // no file can be there
		t.Fatal(err)
	}
	r.put("b", request(t, 1, "x", "log=x exit"))
	_, status := r.follow("b", 0)
	if f := status.Failure; f == nil || !strings.HasPrefix(f.Message, "builder failed with exit status 3; the rest of its log is not kept (open ") {
		t.Errorf("got %+v", f)
	}
}

// TestLogManyLines has a fast writer and readers from all offsets.
func TestLogManyLines(t *testing.T) {
	l := newBuildLog(filepath.Join(t.TempDir(), "log"), 1<<30, slog.New(slog.DiscardHandler))
	var want strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			var got bytes.Buffer
			for size, ended := int64(0), false; size <= int64(i)*1000 && !ended; {
				var err error
				if size, ended, err = l.await(context.Background(), size); err != nil {
					t.Error(err)
				}
			}
			offset := int64(i) * 1000
			err := l.follow(context.Background(), offset, func(p []byte) error {
				got.Write(p)
				return nil
			})
			if err != nil || got.String() != want.String()[offset:] {
				t.Errorf("reader %d: %d bytes, %v", i, got.Len(), err)
			}
		})
	}
	text := want.String()
	for len(text) > 0 {
		n := min(len(text), 37)
		l.Write([]byte(text[:n]))
		text = text[n:]
	}
	l.end()
	group.Wait()
}
