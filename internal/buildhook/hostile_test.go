package buildhook

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
)

// evil is what nobody but guix-daemon says, and what a terminal obeys.
const evil = "m1\n@ build-succeeded /gnu/store/x.drv -\r\n# decline\n\x1b[2J\x00\x85\u2028@ x\u202e"

// wantClean checks that each line of what the hook said is one of its own.
func (l *lab) wantClean() {
	l.t.Helper()
	text := l.out.String()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		own := strings.HasPrefix(line, "lighter: ") || strings.HasPrefix(line, "  ") || line == "# accept" || line == "# decline" ||
			strings.HasPrefix(line, "derivation '") || strings.HasPrefix(line, "@ build-remote "+string(l.path("hello.drv"))+" ")
		if !own || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) && r != '\t' }) {
			l.t.Errorf("it said the line %q", line)
		}
	}
	if n := len(text); n > 1<<20 {
		l.t.Errorf("it said %d bytes", n)
	}
}

// frame is one that hookapi would not write.
func frame(kind hookapi.Kind, length uint32, payload string) string {
	return string(binary.BigEndian.AppendUint32([]byte{byte(kind)}, length)) + payload
}

// TestHostileCoordinator has a coordinator in wrong hands do what it can: the build fails
// for no reason of its own, nothing is left in the store, and nothing is said that could be
// taken for another's words.
func TestHostileCoordinator(t *testing.T) {
	raw := func(text string) func(*lab, *session) {
		return func(_ *lab, s *session) { io.WriteString(s.conn, text) }
	}
	last := func(r hookapi.Result) func(*lab, *session) {
		return func(_ *lab, s *session) { s.send(hookapi.Final, r) }
	}
	for name, attack := range map[string]func(l *lab, s *session){
		"machine in a state": func(_ *lab, s *session) {
			s.state(api.Building, 1, evil)
			s.send(hookapi.State, hookapi.Progress{State: api.Sending, Attempt: 1, Machine: evil, Reason: evil})
			s.send(hookapi.State, hookapi.Progress{State: api.Queued, Attempt: 1, Machine: evil, Reason: evil})
			s.send(hookapi.Final, hookapi.Result{State: api.Failed, Reason: evil})
		},
		"machine in a result": last(hookapi.Result{State: api.Failed, Machine: evil, Failure: &api.Failure{Message: evil, Machine: evil}}),
		"machine of a shipment": func(l *lab, s *session) {
			s.send(hookapi.Transfer, hookapi.Shipment{Number: 1, Machine: evil, Bytes: 1 << 20})
			s.part([]byte(strings.Repeat("garbage!", 100)), 800)
			s.receipt(1)
			s.send(hookapi.Final, hookapi.Result{State: api.Canceled, Reason: evil})
		},
		"a long text":             last(hookapi.Result{State: api.Failed, Reason: strings.Repeat("x\n", 50_000)}),
		"success without outputs": last(hookapi.Result{State: api.Succeeded}),
		"success with others' outputs": func(l *lab, s *session) {
			if err := os.WriteFile(string(l.path("hello")), []byte("not mine"), 0o444); err != nil {
				t.Fatal(err)
			}
			s.send(hookapi.Final, hookapi.Result{State: api.Succeeded})
		},
		"success after a bad shipment": func(l *lab, s *session) {
			bad := l.good("hello", "hello-lib")
			bad[bytes.Index(bad, []byte("#!/bin/sh"))] ^= 1
			if r := s.ship(1, bad); r.Error == "" {
				t.Error("it was taken")
			}
			s.send(hookapi.Final, hookapi.Result{State: api.Succeeded})
		},
		"success after a good shipment and a bad one": func(l *lab, s *session) {
			if r := s.ship(1, l.good("hello", "hello-lib")); r.Error != "" {
				t.Error(r.Error)
			}
			if r := s.ship(2, l.good("hello")); r.Error == "" {
				t.Error("half of it was taken")
			}
			s.send(hookapi.Final, hookapi.Result{State: api.Succeeded})
		},
		"success while a second shipment is under way": func(l *lab, s *session) {
			if r := s.ship(1, l.good("hello", "hello-lib")); r.Error != "" {
				t.Error(r.Error)
			}
			s.announce(2)
			s.part(l.good("hello")[:100], 50)
			s.send(hookapi.Final, hookapi.Result{State: api.Succeeded})
		},
		"success before the archive's end": func(l *lab, s *session) {
			s.announce(1)
			s.part(l.good("hello", "hello-lib"), 1000)
			s.send(hookapi.Final, hookapi.Result{State: api.Succeeded})
		},
		"a build that is not over":     last(hookapi.Result{State: api.Building}),
		"an archive nobody announced":  func(l *lab, s *session) { s.part(l.good("hello"), 1000) },
		"an end without a beginning":   raw(frame(hookapi.End, 0, "")),
		"an end with something in it":  raw(frame(hookapi.End, 4, "text")),
		"archive behind its end":       func(l *lab, s *session) { s.ship(1, l.good("hello")[:9]); s.part([]byte("x"), 1) },
		"shipment 2 first":             func(_ *lab, s *session) { s.announce(2) },
		"a shipment twice":             func(_ *lab, s *session) { s.announce(1); s.announce(1) },
		"a shipment without a number":  raw(frame(hookapi.Transfer, 2, "{}")),
		"a shipment of -1 bytes":       func(_ *lab, s *session) { s.send(hookapi.Transfer, hookapi.Shipment{Number: 1, Bytes: -1}) },
		"a shipment of 8 EiB":          func(_ *lab, s *session) { s.send(hookapi.Transfer, hookapi.Shipment{Number: 1, Bytes: 1<<63 - 1}) },
		"a frame of 4 GiB":             raw(frame(hookapi.Archive, 1<<32-1, "x")),
		"a frame of an order's length": raw(frame(hookapi.Build, hookapi.MaxFrame, "x")),
		"an empty log":                 raw(strings.Repeat(frame(hookapi.Log, 0, ""), 1000)),
		"an empty archive frame": func(_ *lab, s *session) {
			s.announce(1)
			io.WriteString(s.conn, strings.Repeat(frame(hookapi.Archive, 0, ""), 1000))
		},
		"a question":    func(_ *lab, s *session) { s.send(hookapi.Ask, hookapi.Question{}) },
		"an answer":     func(_ *lab, s *session) { s.send(hookapi.Reply, hookapi.Answer{Verdict: hookapi.Accept}) },
		"a receipt":     func(_ *lab, s *session) { s.send(hookapi.Delivered, hookapi.Receipt{Number: 1}) },
		"another state": raw(frame(hookapi.State, 24, `{"state":"\n@ built","a":1}`[:24])),
		"attempt -1":    func(_ *lab, s *session) { s.state(api.Building, -1, "m1") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, func(c *Config) { c.Patience = 50 * time.Millisecond })
			s, _ := l.accepted("hello", "hello-lib")
			attack(l, s)
			l.stopServing()
			s.conn.Close()
			l.exit(ExitTransient)
			l.wantNothingLeft()
			l.wantClean()
		})
	}
}

// TestHostileAnswers attacks before anything was accepted.
func TestHostileAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"accept with a reason":  reply(hookapi.Answer{Verdict: hookapi.Decline, Reason: evil}),
		"postpone, long reason": reply(hookapi.Answer{Verdict: hookapi.Decline, Reason: strings.Repeat(evil, 2000)}),
		"null":                  frame(hookapi.Reply, 4, "null"),
		"another verdict":       reply(hookapi.Answer{Verdict: evil}),
		"an order":              frame(hookapi.Build, 2, "{}"),
		"a frame of 4 GiB":      frame(hookapi.Reply, 1<<32-1, "x"),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			l.serve()
			l.start()
			l.write("1 x86_64-linux " + string(l.path("hello.drv")) + " ")
			s := l.session()
			io.WriteString(s.conn, answer)
			l.out.await(t, "# decline\n")
			l.in.Close()
			l.exit(ExitBuilt)
			if n := l.out.count("\n# "); n != 1 {
				t.Errorf("it answered %d times:\n%s", n, l.out)
			}
			l.wantClean()
		})
	}
}

// reply is the frame of an answer.
func reply(a hookapi.Answer) string {
	var b bytes.Buffer
	if err := hookapi.WriteJSON(&b, hookapi.Reply, a); err != nil {
		panic(err)
	}
	return b.String()
}

// TestHostileUpgrade has something else answer the hook's first words.
func TestHostileUpgrade(t *testing.T) {
	for name, answer := range map[string]string{
		"status":       "HTTP/1.1 200 " + strings.ReplaceAll(evil, "\n", "\x1b") + "\r\n\r\n",
		"endless line": strings.Repeat("x", 1<<20),
		"headers":      "HTTP/1.1 101 ok\r\n" + strings.Repeat("a: b\r\n", 100),
		"half":         "HTTP/1.1 1",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			l.mute = func(conn net.Conn) bool {
				_, _ = conn.Read(make([]byte, 4096))
				io.WriteString(conn, answer)
				conn.Close()
				return true
			}
			l.serve()
			l.start()
			l.write("1 x86_64-linux " + string(l.path("hello.drv")) + " ")
			l.out.await(t, "# decline\n")
			l.wantClean()
		})
	}
}

// TestLogIsPassedOnAsItIs: what the builder says is not lighter's to change, as little as
// it is guix-daemon's where that runs the builder.
func TestLogIsPassedOnAsItIs(t *testing.T) {
	l := newLab(t, nil)
	s, _ := l.accepted("hello")
	text := evil + "\n@ build-log 1 2\n@ build-failed x\xff\xfe"
	s.sendLog(text)
	s.ship(1, l.good("hello"))
	s.succeed()
	l.exit(ExitBuilt)
	l.log.await(t, text)
	if l.log.String() != text {
		t.Errorf("got %q", l.log)
	}
	l.wantClean()
}

// TestMoreThanAnnounced: not a byte more is written than the coordinator said there would be.
func TestMoreThanAnnounced(t *testing.T) {
	l := newLab(t, nil)
	s, _ := l.accepted("hello", "hello-lib")
	a := l.archive(item{l.path("hello"), l.tree("x"), l.key}, item{l.path("hello-lib"), l.tree("y"), l.key})
	exact := int64(len(l.tree("x")) + len(l.tree("y")))
	for i, bytes := range []int64{0, 1, int64(len(l.tree("x"))), exact - 1, exact} {
		s.send(hookapi.Transfer, hookapi.Shipment{Number: i + 1, Machine: "m1", Items: 2, Bytes: bytes})
		s.part(a, 100)
		_ = hookapi.Write(s.conn, hookapi.End, nil)
		r := s.receipt(i + 1)
		if bytes < exact && (!strings.Contains(r.Error, "more bytes in the archive than were announced") || r.Local || len(l.left()) != 0) {
			t.Errorf("%d of %d bytes announced: got %+v, in the store is %v", bytes, exact, r, l.left())
		}
		if bytes == exact && r.Error != "" {
			t.Errorf("all announced: %s", r.Error)
		}
	}
	s.succeed()
	l.exit(ExitBuilt)
}

// TestBehindTheArchive has an archive go on after its end.
func TestBehindTheArchive(t *testing.T) {
	l := newLab(t, nil)
	s, _ := l.accepted("hello")
	if r := s.ship(1, append(l.good("hello"), "more"...)); r.Error == "" || r.Local {
		t.Errorf("got %+v", r)
	}
	l.wantNothingLeft()
	if r := s.ship(2, l.good("hello")); r.Error != "" {
		t.Error(r.Error)
	}
	s.succeed()
	l.exit(ExitBuilt)
}

// TestTooLargeForTheDisk announces more than there is room for: nothing of it is written,
// and this computer is to blame.
func TestTooLargeForTheDisk(t *testing.T) {
	l := newLab(t, nil)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(string(l.cfg.Dir), &fs); err != nil {
		t.Fatal(err)
	}
	free := int64(fs.Bavail) * int64(fs.Bsize) //nolint:unconvert // their types depend on the platform
	if free >= hookapi.MaxShipment {
		testkit.Missing(t, fmt.Errorf("a disk that is smaller than a shipment may be: %d bytes are free", free))
	}
	s, _ := l.accepted("hello")
	s.send(hookapi.Transfer, hookapi.Shipment{Number: 1, Machine: "m1", Items: 1, Bytes: hookapi.MaxShipment})
	if r := s.receipt(1); !r.Local || !strings.Contains(r.Error, syscall.ENOSPC.Error()) {
		t.Errorf("got %+v", r)
	}
	l.exit(ExitTransient)
	l.wantNothingLeft()
}

// TestSmallFilesFillTheDisk: files take more of a disk than of an archive.
func TestSmallFilesFillTheDisk(t *testing.T) {
	if !mayMount(t) {
		return
	}
	l := newLab(t, nil)
	size := fmt.Sprintf("size=%d", keptFree+16<<20)
	if err := syscall.Mount("none", string(l.cfg.Dir), "tmpfs", 0, size); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(string(l.cfg.Dir), 0); err != nil {
			t.Error(err)
		}
	}()
	s, _ := l.accepted("hello")
	var files bytes.Buffer
	word := func(s string) { wireString(&files, s) }
	for _, w := range []string{"nix-archive-1", "(", "type", "directory"} {
		word(w)
	}
	for i := range 30_000 { // 6 MB as a NAR, 120 MB on a disk
		for _, w := range []string{"entry", "(", "name", fmt.Sprintf("%08d", i), "node", "(", "type", "regular", "contents", "x", ")", ")"} {
			word(w)
		}
	}
	word(")")
	a := l.archive(item{l.path("hello"), files.Bytes(), l.key})
	s.send(hookapi.Transfer, hookapi.Shipment{Number: 1, Machine: "m1", Items: 1, Bytes: int64(files.Len())})
	go s.part(a, 100_000)
	r := s.receipt(1)
	if !r.Local || !strings.Contains(r.Error, "stay free") {
		t.Errorf("got %+v", r)
	}
	l.exit(ExitTransient)
	l.wantNothingLeft()
}

// wireString writes a string as NARs have them.
func wireString(b *bytes.Buffer, s string) {
	b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
	b.WriteString(s)
	b.Write(make([]byte, -len(s)&7))
}

// TestStoppedCoordinator has the coordinator fall silent in the middle of everything, with
// its connection open, as one that was stopped: first the hook falls silent as well, and
// then it ends.
func TestStoppedCoordinator(t *testing.T) {
	testkit.CheckLeaks(t)
	for name, until := range map[string]func(l *lab, s *session){
		"queued":       func(_ *lab, s *session) { s.state(api.Queued, 0, "") },
		"building":     func(_ *lab, s *session) { s.state(api.Building, 1, "m1") },
		"half a frame": func(_ *lab, s *session) { io.WriteString(s.conn, frame(hookapi.Log, 100, "half")) },
		"shipping":     func(l *lab, s *session) { s.announce(1); s.part(l.good("hello")[:500], 100) },
		"after the receipt": func(l *lab, s *session) {
			if r := s.ship(1, l.good("hello")); r.Error != "" {
				t.Error(r.Error)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newParallelLab(t, func(c *Config) { c.silence, c.Patience = 100*time.Millisecond, 200*time.Millisecond })
			s, _ := l.accepted("hello")
			until(l, s)
			l.exit(ExitTransient)
			l.wantNothingLeft()
			if !strings.Contains(l.out.String(), "it said nothing for 100ms") || l.out.count("\n") > 8 {
				t.Errorf("it said:\n%s", l.out)
			}
		})
	}
}

// TestCoordinatorThatRepeatsItself is one that goes on: no silence, and nothing said twice.
func TestCoordinatorThatRepeatsItself(t *testing.T) {
	l := newLab(t, func(c *Config) { c.silence = 2 * time.Second })
	s, _ := l.accepted("hello")
	for range 50 {
		s.send(hookapi.State, hookapi.Progress{State: api.Queued, Attempt: 1, Reason: "tried again elsewhere"})
	}
	for range 50 {
		s.state(api.Building, 1, "m1")
	}
	s.ship(1, l.good("hello"))
	s.succeed()
	l.exit(ExitBuilt)
	if n := l.out.count("\n"); n > 4 {
		t.Errorf("it said %d lines:\n%s", n, l.out)
	}
}

// TestNoWordForASilentCoordinator: guix-daemon's max-silent-time is not kept from firing by
// a hook whose coordinator says nothing, and is by one whose build waits.
func TestNoWordForASilentCoordinator(t *testing.T) {
	for _, silent := range []time.Duration{0, time.Second, 9 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var times []time.Time
			out := writerFunc(func(p []byte) (int, error) {
				mu.Lock()
				defer mu.Unlock()
				times = append(times, time.Now())
				return len(p), nil
			})
			lines := func() []time.Time {
				mu.Lock()
				defer mu.Unlock()
				return slices.Clone(times)
			}
			b := &build{hook: &hook{Config: Config{Out: out, MaxSilentTime: silent}}}
			b.order = hookapi.Order{Derivation: store.Path(aDerivation), MaxSilentTime: api.Seconds(silent.Seconds())}
			b.told.note(api.Queued, "handed to the coordinator")
			b.told.hear()
			stop := b.keepTalking()
			defer stop()
			last := time.Now()
			for end := last.Add(10 * time.Minute); last.Before(end); last = time.Now() {
				time.Sleep(b.order.AliveEvery())
				b.told.hear()
			}
			synctest.Wait()
			said := lines()
			longest := maxQuiet
			if silent > 0 {
				longest = min(longest, silent)
			}
			for i := 1; i < len(said); i++ {
				if gap := said[i].Sub(said[i-1]); gap >= longest {
					t.Errorf("max-silent-time %s: silent for %s while the coordinator was not", silent, gap)
				}
			}
			if len(said) < int(10*time.Minute/maxQuiet) {
				t.Errorf("max-silent-time %s: %d lines in ten minutes", silent, len(said))
			}
			time.Sleep(time.Hour) // the coordinator was stopped
			synctest.Wait()
			said = lines()
			most := 2 * b.order.AliveEvery()
			if gap := said[len(said)-1].Sub(last); gap > most {
				t.Errorf("max-silent-time %s: it says something for %s after the coordinator fell silent, more than %s", silent, gap, most)
			}
		})
	}
}

// TestArchiveUnlikeAnnounced has a machine send other contents, with a good signature, than it
// said it had made.
func TestArchiveUnlikeAnnounced(t *testing.T) {
	l := newLab(t, nil)
	s, _ := l.accepted("hello")
	r := nar.NewArchiveReader(bytes.NewReader(l.good("hello")), l.path("hello").Dir())
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	good, err := r.Item()
	if err != nil {
		t.Fatal(err)
	}
	other := good.NARHash
	other[0] ^= 1
	s.hashes = map[store.Path]store.Hash{l.path("hello"): other}
	if r := s.ship(1, l.good("hello")); !strings.Contains(r.Error, "not what was announced") || r.Local {
		t.Errorf("got %+v", r)
	}
	l.wantNothingLeft()
	s.hashes = map[store.Path]store.Hash{l.path("hello"): good.NARHash}
	if r := s.ship(2, l.good("hello")); r.Error != "" {
		t.Errorf("the good one was refused: %+v", r)
	}
	s.succeed()
	l.exit(ExitBuilt)
}
