package buildhook

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

// TestMain is the program under test where a test starts itself as guix.
func TestMain(m *testing.M) {
	if os.Getenv("LIGHTER_TEST_MAIN") != "" {
		os.Exit(Main(os.Args))
	}
	testkit.InMemory()
	os.Exit(m.Run())
}

// patience bounds what a test waits for.
const patience = 20 * time.Second

// lab is a hook with guix-daemon and a coordinator, both played by the test.
type lab struct {
	t    testing.TB
	cfg  Config
	key  *signature.PrivateKey // that the hook trusts
	in   io.WriteCloser
	out  *output
	log  *output
	code chan int

	listener net.Listener
	sessions chan *session
	mute     func(conn net.Conn) bool // takes a connection that is not to be served
}

func newLab(t testing.TB, change func(*Config)) *lab {
	t.Helper()
	testkit.CheckLeaks(t)
	return newParallelLab(t, change)
}

// newParallelLab is newLab for tests that wait, and do so at the same time; the one that has
// them all looks for leaks.
func newParallelLab(t testing.TB, change func(*Config)) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "lighter") //nolint:usetesting // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nar.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	l := &lab{t: t, out: newOutput(), log: newOutput(), code: make(chan int, 1), sessions: make(chan *session, 100)}
	if l.key, err = signature.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	var acl signature.ACL
	acl.Add(l.key.Public())
	if err := os.WriteFile(filepath.Join(dir, "acl"), []byte(acl.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "store"), 0o755); err != nil {
		t.Fatal(err)
	}
	in, inWriter := io.Pipe()
	logReader, logWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l.in = inWriter
	l.cfg = Config{
		In: in, Out: l.out, Log: logWriter, Socket: filepath.Join(dir, "sock"), Dir: store.Dir(filepath.Join(dir, "store")),
		ACL: filepath.Join(dir, "acl"), Patience: patience, answerTimeout: patience,
	}
	if change != nil {
		change(&l.cfg)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		io.Copy(l.log, logReader)
	}()
	t.Cleanup(func() {
		inWriter.Close()
		l.stopServing()
		logWriter.Close()
		<-copied
		logReader.Close()
	})
	return l
}

// start starts the hook.
func (l *lab) start() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.code <- Run(l.cfg)
	}()
	l.t.Cleanup(func() {
		l.in.Close()
		l.stopServing()
		<-ended
	})
}

// exit waits for the end of the hook.
func (l *lab) exit(want int) {
	l.t.Helper()
	select {
	case got := <-l.code:
		if got != want {
			l.t.Errorf("exit code %d, want %d; it said:\n%s", got, want, l.out)
		}
	case <-time.After(patience):
		l.t.Fatalf("it does not end; it said:\n%s", l.out)
	}
}

func (l *lab) write(lines ...string) {
	l.t.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(l.in, line+"\n"); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) path(name string) store.Path {
	l.t.Helper()
	p, err := l.cfg.Dir.Path(strings.Repeat("a", store.HashPartLen) + "-" + name)
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// left returns what is in the store.
func (l *lab) left() []string {
	l.t.Helper()
	entries, err := os.ReadDir(string(l.cfg.Dir))
	if err != nil {
		l.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (l *lab) wantNothingLeft() {
	l.t.Helper()
	if left := l.left(); len(left) != 0 {
		l.t.Errorf("in the store is left: %v", left)
	}
}

// serve starts the coordinator.
func (l *lab) serve() {
	l.t.Helper()
	listener, err := net.Listen("unix", l.cfg.Socket)
	if err != nil {
		l.t.Fatal(err)
	}
	l.listener = listener
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.t.Cleanup(func() { conn.Close() })
			if l.mute != nil && l.mute(conn) {
				continue
			}
			r := bufio.NewReader(conn)
			for line := "x"; err == nil && strings.TrimSpace(line) != ""; {
				line, err = r.ReadString('\n')
			}
			if err == nil {
				_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
			}
			if err == nil {
				l.sessions <- &session{l: l, conn: conn, r: hookapi.NewReader(r)}
			}
		}
	}()
	l.t.Cleanup(func() {
		listener.Close()
		<-ended
	})
}

func (l *lab) stopServing() {
	if l.listener != nil {
		l.listener.Close()
	}
}

// session is a conversation, at the coordinator's end.
type session struct {
	l    *lab
	conn net.Conn
	r    *hookapi.Reader
	// hashes are what is said of the items of a shipment.
	hashes map[store.Path]store.Hash
}

func (l *lab) session() *session {
	l.t.Helper()
	select {
	case s := <-l.sessions:
		return s
	case <-time.After(patience):
		l.t.Fatalf("the hook does not come; it said:\n%s", l.out)
	}
	return nil
}

func (s *session) expect(kind hookapi.Kind, v any) {
	s.l.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.l.t.Fatal(err)
	}
	got, payload, err := s.r.Next()
	if err == nil && got != kind {
		err = fmt.Errorf("a frame %q %s, want %q", got, payload, kind)
	}
	if err == nil {
		err = hookapi.Decode(payload, v)
	}
	if err != nil {
		s.l.t.Fatalf("%v; the hook said:\n%s", err, s.l.out)
	}
}

func (s *session) send(kind hookapi.Kind, v any) {
	s.l.t.Helper()
	if err := hookapi.WriteJSON(s.conn, kind, v); err != nil {
		s.l.t.Fatalf("%v; the hook said:\n%s", err, s.l.out)
	}
}

func (s *session) sendLog(text string) {
	s.l.t.Helper()
	if err := hookapi.Write(s.conn, hookapi.Log, []byte(text)); err != nil {
		s.l.t.Fatal(err)
	}
}

func (s *session) state(state api.State, attempt int, machine string) {
	s.l.t.Helper()
	s.send(hookapi.State, hookapi.Progress{State: state, Attempt: attempt, Machine: machine})
}

// reply answers a question.
func (s *session) reply(verdict, reason string) *hookapi.Question {
	s.l.t.Helper()
	var q hookapi.Question
	s.expect(hookapi.Ask, &q)
	s.send(hookapi.Reply, hookapi.Answer{Verdict: verdict, Reason: reason})
	return &q
}

// announce begins a shipment.
func (s *session) announce(number int) {
	s.l.t.Helper()
	s.send(hookapi.Transfer, hookapi.Shipment{Number: number, Machine: "m1", Items: 1, Bytes: 1 << 20, NARHashes: s.hashes})
}

// part sends a part of an archive, cut into frames of that many bytes.
func (s *session) part(archive []byte, size int) {
	for chunk := range slices.Chunk(archive, size) {
		if hookapi.Write(s.conn, hookapi.Archive, chunk) != nil {
			return // a hook that refused it may be gone
		}
	}
}

// ship sends an archive and returns what the hook says of it.
func (s *session) ship(number int, archive []byte) hookapi.Receipt {
	s.l.t.Helper()
	s.announce(number)
	s.part(archive, 1000)
	_ = hookapi.Write(s.conn, hookapi.End, nil)
	return s.receipt(number)
}

func (s *session) receipt(number int) hookapi.Receipt {
	s.l.t.Helper()
	var r hookapi.Receipt
	s.expect(hookapi.Delivered, &r)
	if r.Number != number {
		s.l.t.Errorf("got a receipt for shipment %d, want %d", r.Number, number)
	}
	return r
}

func (s *session) succeed() {
	s.l.t.Helper()
	s.send(hookapi.Final, hookapi.Result{State: api.Succeeded, Machine: "m1"})
}

// accepted starts a hook, and has it take a build with outputs of these names.
func (l *lab) accepted(names ...string) (*session, hookapi.Order) {
	l.t.Helper()
	l.serve()
	l.start()
	drv := l.path("hello.drv")
	l.write("0 x86_64-linux " + string(drv) + " ")
	s := l.session()
	s.reply(hookapi.Accept, "")
	l.out.await(l.t, "# accept\n")
	var outputs strings.Builder
	for _, name := range names {
		outputs.WriteString(string(l.path(name)) + " ")
	}
	l.write(string(drv)+" "+string(l.path("input"))+" ", outputs.String())
	var o hookapi.Order
	s.expect(hookapi.Build, &o)
	return s, o
}

// output is what a process wrote.
type output struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	close(o.changed)
	o.changed = make(chan struct{})
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

func (o *output) count(text string) int { return strings.Count(o.String(), text) }

// await waits until a text was written.
func (o *output) await(t testing.TB, text string) { o.awaitTimes(t, text, 1) }

func (o *output) awaitTimes(t testing.TB, text string, times int) {
	t.Helper()
	limit := time.After(patience)
	for {
		o.mu.Lock()
		n, changed := strings.Count(string(o.text), text), o.changed
		o.mu.Unlock()
		if n >= times {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("waited in vain for %q in:\n%s", text, o)
		}
	}
}

// item is one of an archive.
type item struct {
	path store.Path
	nar  []byte
	key  *signature.PrivateKey // nil is no signature
}

// tree is the NAR of a folder that has some of everything, and a text.
func (l *lab) tree(text string) []byte {
	l.t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	file := func(h *nar.Header, content string) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			l.t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			l.t.Fatal(err)
		}
	}
	file(&nar.Header{Kind: nar.Directory}, "")
	file(&nar.Header{Path: "bin", Kind: nar.Directory}, "")
	file(&nar.Header{Path: "bin/prog", Kind: nar.Regular, Executable: true}, "#!/bin/sh\n")
	file(&nar.Header{Path: "link", Kind: nar.Symlink, Target: "bin/prog"}, "")
	file(&nar.Header{Path: "text", Kind: nar.Regular}, text)
	if err := w.Close(); err != nil {
		l.t.Fatal(err)
	}
	return b.Bytes()
}

func (l *lab) wantTree(p store.Path, text string) {
	l.t.Helper()
	for name, mode := range map[string]fs.FileMode{
		"": fs.ModeDir | 0o555, "/bin": fs.ModeDir | 0o555, "/bin/prog": 0o555, "/text": 0o444,
	} {
		if info, err := os.Lstat(string(p) + name); err != nil || info.Mode() != mode {
			l.t.Errorf("%s%s: got %v, %v, want %v", p, name, info, err, mode)
		}
	}
	if got, err := os.ReadFile(string(p) + "/text"); err != nil || string(got) != text {
		l.t.Errorf("%s/text: got %q, %v, want %q", p, got, err, text)
	}
	if got, err := os.Readlink(string(p) + "/link"); err != nil || got != "bin/prog" {
		l.t.Errorf("%s/link: got %q, %v", p, got, err)
	}
}

func (l *lab) archive(items ...item) []byte {
	l.t.Helper()
	var b bytes.Buffer
	w := nar.NewArchiveWriter(&b)
	for _, it := range items {
		var sign func(store.Hash) (string, error)
		if it.key != nil {
			sign = it.key.Sign
		}
		err := w.WriteItem(&nar.Item{Path: it.path}, func(out io.Writer) error {
			_, err := out.Write(it.nar)
			return err
		}, sign)
		if err != nil {
			l.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		l.t.Fatal(err)
	}
	return b.Bytes()
}

// good is an archive of trees with these names, each with its name as text.
func (l *lab) good(names ...string) []byte {
	l.t.Helper()
	var items []item
	for _, name := range names {
		items = append(items, item{l.path(name), l.tree(name), l.key})
	}
	return l.archive(items...)
}
