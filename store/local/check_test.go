package local

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
)

// made keeps what checks make.
type made struct {
	mu   sync.Mutex
	nars map[string]*bytes.Buffer
	open int
	fail error // of each write
}

func (m *made) writer(output string) (io.WriteCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nars == nil {
		m.nars = make(map[string]*bytes.Buffer)
	}
	m.nars[output] = new(bytes.Buffer)
	m.open++
	return &madeWriter{m, output}, nil
}

type madeWriter struct {
	of     *made
	output string
}

func (w *madeWriter) Write(p []byte) (int, error) {
	if w.of.fail != nil {
		return 0, w.of.fail
	}
	return w.of.nars[w.output].Write(p)
}

func (w *madeWriter) Close() error {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	w.of.open--
	return nil
}

// checkRequest asks for a check of a recipe.
func checkRequest(t *testing.T, s *Store, r *recipe, m *made) *store.BuildRequest {
	t.Helper()
	req := r.request(t, s)
	req.Check = true
	if m != nil {
		req.Made = m.writer
	}
	return req
}

func TestCheck(t *testing.T) {
	needBuilds(t)
	testkit.CheckLeaks(t)
	s := openTestStore(t)
	r := &recipe{name: "random", outputs: []string{"doc", "out"}, script: "echo $doc > $out; echo docs > $doc; cat /proc/sys/kernel/random/uuid >> $out; echo built"}
	if log := r.mustBuild(t, s); log != "built\n" {
		t.Fatalf("log: %q", log)
	}
	before, err := s.Info(t.Context(), r.out("out"))
	if err != nil {
		t.Fatal(err)
	}
	was := contents(t, s, r.out("out"), "")

	var m made
	var log bytes.Buffer
	req := checkRequest(t, s, r, &m)
	req.Log = &log
	result, err := s.Build(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	out, doc := result.Outputs["out"], result.Outputs["doc"]
	if result.AlreadyValid || len(result.Outputs) != 2 || log.String() != "built\n" {
		t.Errorf("result: %+v, log %q", result, &log)
	}
	if out.NARHash == before.NARHash || !out.Registered.IsZero() {
		t.Errorf("the check made the same, or registered it: %+v", out)
	}
	if diff := cmp.Diff([]store.Path{r.out("doc")}, out.References); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
	if known, err := s.Info(t.Context(), r.out("doc")); err != nil || known.NARHash != doc.NARHash {
		t.Errorf("doc: made %+v, known %+v, %v", doc, known, err)
	}
	for name, info := range result.Outputs {
		var h nar.Hasher
		_, _ = h.Write(m.nars[name].Bytes())
		if h.Sum() != info.NARHash || h.Size() != info.NARSize {
			t.Errorf("%s: what was handed over is not what was made", name)
		}
	}
	after, err := s.Info(t.Context(), r.out("out"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" || contents(t, s, r.out("out"), "") != was {
		t.Errorf("the check changed what is valid:\n%s", diff)
	}
	if m.open != 0 {
		t.Errorf("%d outputs were not closed", m.open)
	}
	wantClean(t, s)
}

func TestCheckOfWhatIsNotValid(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "fresh", script: "echo hi > $out"}
	result, err := s.Build(t.Context(), checkRequest(t, s, r, nil))
	if err != nil || result.Outputs["out"] == nil {
		t.Fatalf("got %+v, %v", result, err)
	}
	if _, err := s.Info(t.Context(), r.out("out")); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("what a check made is valid: %v", err)
	}
	if _, err := s.OpenLog(r.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the log of a check was kept: %v", err)
	}
	wantClean(t, s)
}

func TestCheckFails(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "fails", script: "echo no; exit 4"}
	var failed *store.BuildError
	if _, err := s.Build(t.Context(), checkRequest(t, s, r, new(made))); !errors.As(err, &failed) || failed.Failure != store.FailedExit || failed.ExitCode != 4 {
		t.Errorf("got %v", err)
	}
	full := &made{fail: errors.New("the disk of the test is full")}
	good := &recipe{name: "good", script: "echo hi > $out"}
	if _, err := s.Build(t.Context(), checkRequest(t, s, good, full)); !errors.Is(err, full.fail) || errors.As(err, new(*store.BuildError)) || full.open != 0 {
		t.Errorf("with a full disk: got %v, %d open", err, full.open)
	}
	refused := errors.New("there is no place")
	req := checkRequest(t, s, good, nil)
	req.Made = func(string) (io.WriteCloser, error) { return nil, refused }
	if _, err := s.Build(t.Context(), req); !errors.Is(err, refused) {
		t.Errorf("without a place: got %v", err)
	}
	wantClean(t, s)
}

// TestCheckWaitsForNobody checks while the same derivation is being built.
func TestCheckWaitsForNobody(t *testing.T) {
	needBuilds(t)
	testkit.CheckLeaks(t)
	s := openTestStore(t)
	folder := scratch(t)
	fifo := folder + "/fifo"
	r := &recipe{name: "once", script: "if [ -e /go ]; then echo checked; else echo waits; read line < /fifo/fifo; fi; echo hi > $out"}
	if err := errors.Join(unix.Mkfifo(fifo, 0o666), os.Chmod(fifo, 0o666), os.Chmod(folder, 0o755)); err != nil {
		t.Fatal(err)
	}
	req := r.request(t, s)
	req.SandboxPaths = append(req.SandboxPaths, "/fifo="+folder)
	waits, once := make(chan struct{}), new(sync.Once)
	req.Log = logFunc(func(text string) {
		if strings.Contains(text, "waits") {
			once.Do(func() { close(waits) })
		}
	})
	over := make(chan error, 1)
	go func() {
		_, err := s.Build(t.Context(), req)
		over <- err
	}()
	select {
	case <-waits:
	case err := <-over:
		t.Fatalf("the build ended: %v", err)
	}
	check := checkRequest(t, s, r, nil)
	var log bytes.Buffer
	check.Log = &log
	check.SandboxPaths = append(check.SandboxPaths, "/go=/etc/hostname")
	if _, err := s.Build(t.Context(), check); err != nil || log.String() != "checked\n" {
		t.Errorf("check: %v, log %q", err, &log)
	}
	// Opened for reading too, it opens even if nobody is there.
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("go\n"); err != nil {
		t.Error(err)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	wantClean(t, s)
}

type logFunc func(text string)

func (f logFunc) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}
