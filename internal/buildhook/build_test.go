package buildhook

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/internal/testkit"
	"lighter/nar/signature"
	"lighter/store"
)

func TestBuild(t *testing.T) {
	for _, names := range [][]string{{"hello"}, {"hello", "hello-lib", "hello-doc"}} {
		t.Run(fmt.Sprint(len(names)), func(t *testing.T) {
			l := newLab(t, func(c *Config) { c.Timeout, c.MaxSilentTime = time.Hour, time.Minute })
			s, o := l.accepted(names...)
			if len(o.Inputs) != 2 || len(o.Outputs) != len(names) || o.Derivation != l.path("hello.drv") || o.Timeout != 3600 || o.MaxSilentTime != 60 || len(o.ID) != 36 {
				t.Errorf("got the order %+v", o)
			}
			s.state(api.Queued, 0, "")
			s.state(api.Placed, 1, "m1")
			s.send(hookapi.State, hookapi.Progress{State: api.Sending, Attempt: 1, Machine: "m1", Reason: "3 items"})
			for range 3 {
				s.state(api.Building, 1, "m1")
				s.sendLog("a line\n")
			}
			s.sendLog("\x00\xff, no end")
			s.state(api.Fetching, 1, "m1")
			reversed := append([]string(nil), names...)
			for i := range names {
				reversed[len(names)-1-i] = names[i]
			}
			if r := s.ship(1, l.good(reversed...)); r.Error != "" {
				t.Errorf("it was refused: %s", r.Error)
			}
			s.succeed()
			l.exit(ExitBuilt)
			for _, name := range names {
				l.wantTree(l.path(name), name)
			}
			if left := l.left(); len(left) != len(names) {
				t.Errorf("in the store is %v", left)
			}
			l.log.await(t, "no end")
			if got := l.log.String(); got != "a line\na line\na line\n\x00\xff, no end" {
				t.Errorf("got the log %q", got)
			}
			if n := l.out.count("@ build-remote " + string(l.path("hello.drv")) + " m1\n"); n != 1 {
				t.Errorf("said %d times where it is built:\n%s", n, l.out)
			}
			if !strings.Contains(l.out.String(), "sending 3 items to m1") {
				t.Errorf("it said:\n%s", l.out)
			}
		})
	}
}

func TestBuildRemoteOncePerAttempt(t *testing.T) {
	l := newLab(t, nil)
	s, _ := l.accepted("hello")
	s.state(api.Building, 1, "m1")
	s.send(hookapi.State, hookapi.Progress{State: api.Building, Attempt: 1, Machine: "m1", Reason: "link to m1 lost"})
	s.state(api.Building, 1, "m1")
	s.sendLog("one")
	s.send(hookapi.State, hookapi.Progress{State: api.Queued, Attempt: 1, Machine: "m1", Reason: "tried again elsewhere"})
	s.state(api.Building, 2, "m2")
	s.sendLog("two")
	l.log.await(t, "onetwo")
	s.conn.Close()
	s = l.session()
	var o hookapi.Order
	s.expect(hookapi.Build, &o)
	if o.LogAttempt != 2 || o.LogOffset != 3 {
		t.Errorf("it has %d bytes of attempt %d, it says", o.LogOffset, o.LogAttempt)
	}
	s.state(api.Building, 2, "m2")
	if r := s.ship(1, l.good("hello")); r.Error != "" {
		t.Error(r.Error)
	}
	s.succeed()
	l.exit(ExitBuilt)
	for _, line := range []string{"hello.drv m1\n", "hello.drv m2\n", "tried again elsewhere", "link to m1 lost"} {
		if n := l.out.count(line); n != 1 {
			t.Errorf("said %q %d times:\n%s", line, n, l.out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	derivation := func(kind string) *api.Failure {
		return &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Kind: kind, Message: "it \x1b[31mfailed\n@ build-succeeded /gnu -\n"}
	}
	for name, c := range map[string]struct {
		result hookapi.Result
		want   int
	}{
		"exit":     {hookapi.Result{State: api.Failed, Machine: "m1", Failure: derivation(string(store.FailedExit))}, ExitPermanent},
		"timeout":  {hookapi.Result{State: api.TimedOut, Machine: "m1", Failure: derivation(string(store.FailedTimeout))}, ExitTimedOut},
		"silence":  {hookapi.Result{State: api.TimedOut, Machine: "m1", Failure: derivation(string(store.FailedSilence))}, ExitTimedOut},
		"machine":  {hookapi.Result{State: api.Failed, Failure: &api.Failure{Culprit: api.CulpritMachine, Phase: api.Building, Message: "disk full"}}, ExitTransient},
		"canceled": {hookapi.Result{State: api.Canceled, Reason: "canceled by a client"}, ExitTransient},
		"nothing":  {hookapi.Result{}, ExitTransient},
		"lie":      {hookapi.Result{State: api.Succeeded}, ExitTransient}, // the output is not there
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			s, _ := l.accepted("hello")
			s.sendLog("x")
			s.send(hookapi.Final, c.result)
			l.exit(c.want)
			l.wantNothingLeft()
			text := l.out.String()
			if f := c.result.Failure; f != nil && f.Culprit == api.CulpritDerivation &&
				(!strings.Contains(text, "hello.drv' offloaded to 'm1' failed: it ?[31mfailed") || strings.Contains(text, "\n@")) {
				t.Errorf("it said:\n%s", text)
			}
			if c.result.Reason != "" && !strings.Contains(text, c.result.Reason) {
				t.Errorf("it said:\n%s", text)
			}
		})
	}
}

// TestWrongArchives ships an archive that is not to be taken, and then a good one.
func TestWrongArchives(t *testing.T) {
	other, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	flip := func(l *lab, what string) []byte {
		a := l.good("hello", "hello-lib")
		i := strings.Index(string(a), what)
		if i < 0 {
			t.Fatalf("no %q in the archive", what)
		}
		a[i] ^= 1
		return a
	}
	for name, c := range map[string]struct {
		archive func(l *lab) []byte
		want    string
	}{
		"tampered contents": {func(l *lab) []byte { return flip(l, "#!/bin/sh") }, "hello"},
		"tampered second item": {func(l *lab) []byte {
			a := l.good("hello-lib", "hello")
			a[strings.LastIndex(string(a), "#!/bin/sh")] ^= 1
			return a
		}, "hello"},
		"wrong signature": {func(l *lab) []byte { return flip(l, "sig-val") }, "hello"},
		"another key": {func(l *lab) []byte {
			return l.archive(item{l.path("hello"), l.tree("x"), l.key}, item{l.path("hello-lib"), l.tree("x"), other})
		}, "hello-lib"},
		"unsigned":       {func(l *lab) []byte { return l.archive(item{l.path("hello"), l.tree("x"), nil}) }, "not signed"},
		"not asked for":  {func(l *lab) []byte { return l.good("hello", "evil") }, "evil was not asked for"},
		"twice":          {func(l *lab) []byte { return l.good("hello", "hello") }, "hello was not asked for"},
		"output missing": {func(l *lab) []byte { return l.good("hello-lib") }, "hello is not in the archive"},
		"empty":          {func(l *lab) []byte { return l.archive() }, "hello is not in the archive"},
		"one more":       {func(l *lab) []byte { return l.good("hello", "hello-lib", "evil") }, "more in the archive"},
		"cut in the middle": {func(l *lab) []byte {
			a := l.good("hello", "hello-lib")
			return a[:len(a)/2]
		}, "unexpected EOF"},
		"cut before the end": {func(l *lab) []byte {
			a := l.good("hello", "hello-lib")
			return a[:len(a)-8]
		}, "unexpected EOF"},
		"nothing": {func(l *lab) []byte { return nil }, "unexpected EOF"},
		"garbage": {func(l *lab) []byte { return []byte(strings.Repeat("garbage!", 1000)) }, ""},
		"climbs": {func(l *lab) []byte {
			return []byte(strings.ReplaceAll(string(l.good("hello", "hello-lib")), "\x03\x00\x00\x00\x00\x00\x00\x00bin\x00", "\x02\x00\x00\x00\x00\x00\x00\x00..\x00\x00"))
		}, `".."`},
		"has a slash": {func(l *lab) []byte {
			return []byte(strings.ReplaceAll(string(l.good("hello", "hello-lib")), "\x03\x00\x00\x00\x00\x00\x00\x00bin\x00", "\x03\x00\x00\x00\x00\x00\x00\x00b/n\x00"))
		}, "slash"},
		"same name twice": {func(l *lab) []byte {
			return []byte(strings.ReplaceAll(string(l.good("hello", "hello-lib")), "\x04\x00\x00\x00\x00\x00\x00\x00text", "\x04\x00\x00\x00\x00\x00\x00\x00link"))
		}, ""},
		"another store": {func(l *lab) []byte {
			p, err := store.DefaultDir.Path(l.path("hello").Base())
			if err != nil {
				t.Fatal(err)
			}
			return l.archive(item{p, l.tree("x"), l.key})
		}, "not in the store"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			s, _ := l.accepted("hello", "hello-lib")
			r := s.ship(1, c.archive(l))
			if r.Error == "" || !strings.Contains(r.Error, c.want) || r.Local {
				t.Errorf("got %+v, want an error with %q that blames the machine", r, c.want)
			}
			l.wantNothingLeft()
			l.out.await(t, "outputs from m1: ")
			if r := s.ship(2, l.good("hello", "hello-lib")); r.Error != "" {
				t.Errorf("the good one was refused: %+v", r)
			}
			s.succeed()
			l.exit(ExitBuilt)
			l.wantTree(l.path("hello"), "hello")
			l.wantTree(l.path("hello-lib"), "hello-lib")
		})
	}
}

// TestTruncatedArchive cuts an archive at many places, before, in and after each word.
func TestTruncatedArchive(t *testing.T) {
	l := newLab(t, nil)
	s, _ := l.accepted("hello")
	a := l.good("hello")
	number := 0
	for n := 0; n < len(a); n += 3 {
		number++
		if r := s.ship(number, a[:n]); r.Error == "" || r.Local || len(l.left()) != 0 {
			t.Fatalf("%d of %d bytes: got %+v, in the store is %v", n, len(a), r, l.left())
		}
	}
	if r := s.ship(number+1, a); r.Error != "" {
		t.Error(r.Error)
	}
	s.succeed()
	l.exit(ExitBuilt)
}

func TestLocalErrors(t *testing.T) {
	for name, spoil := range map[string]func(l *lab){
		"no store": func(l *lab) {
			if err := os.Remove(string(l.cfg.Dir)); err != nil {
				t.Fatal(err)
			}
		},
		"store is a file": func(l *lab) {
			if err := os.Remove(string(l.cfg.Dir)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(string(l.cfg.Dir), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"no list of keys": func(l *lab) {
			if err := os.Remove(l.cfg.ACL); err != nil {
				t.Fatal(err)
			}
		},
		"bad list of keys": func(l *lab) {
			if err := os.WriteFile(l.cfg.ACL, []byte("(acl"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			s, _ := l.accepted("hello")
			spoil(l)
			if r := s.ship(1, l.good("hello")); !r.Local || r.Error == "" {
				t.Errorf("got %+v, want the blame taken", r)
			}
			l.exit(ExitTransient)
			l.out.await(t, "outputs from m1: ")
		})
	}
}

// TestWhatWasThere has outputs of a failed attempt in the store.
func TestWhatWasThere(t *testing.T) {
	l := newLab(t, nil)
	s, _ := l.accepted("hello")
	if err := os.MkdirAll(string(l.path("hello"))+"/old/er", 0o500); err != nil {
		t.Fatal(err)
	}
	if r := s.ship(1, l.good("hello")); r.Error != "" {
		t.Error(r.Error)
	}
	s.succeed()
	l.exit(ExitBuilt)
	l.wantTree(l.path("hello"), "hello")
	if _, err := os.Lstat(string(l.path("hello")) + "/old"); err == nil {
		t.Error("what was there is still there")
	}
}

// TestTransferIsBegunAnew interrupts an archive at many places with the next shipment.
func TestTransferIsBegunAnew(t *testing.T) {
	l := newLab(t, nil)
	s, _ := l.accepted("hello", "hello-lib")
	a := l.good("hello", "hello-lib")
	number := 0
	for n := 0; n < len(a)-8; n += 97 { // a whole archive would be answered
		number++
		s.announce(number)
		s.part(a[:n], 50)
		s.sendLog(".")
	}
	if r := s.ship(number+1, a); r.Error != "" {
		t.Error(r.Error)
	}
	s.succeed()
	l.exit(ExitBuilt)
	l.wantTree(l.path("hello"), "hello")
	l.log.await(t, strings.Repeat(".", number))
}

func TestFinalInTheMiddleOfAnArchive(t *testing.T) {
	for _, state := range []api.State{api.Canceled, api.Succeeded} {
		t.Run(string(state), func(t *testing.T) {
			l := newLab(t, nil)
			s, _ := l.accepted("hello")
			a := l.good("hello")
			s.announce(1)
			s.part(a[:len(a)*3/4], 100)
			s.send(hookapi.Final, hookapi.Result{State: state})
			l.exit(ExitTransient)
			l.wantNothingLeft()
		})
	}
}

// TestCoordinatorGone ends the conversation in each of its parts.
func TestCoordinatorGone(t *testing.T) {
	testkit.CheckLeaks(t)
	for name, until := range map[string]func(l *lab, s *session){
		"waiting": func(l *lab, s *session) {},
		"in the middle of a frame": func(l *lab, s *session) {
			fmt.Fprint(s.conn, "l\x00\x00\x00\x09half")
		},
		"in the middle of an archive": func(l *lab, s *session) {
			a := l.good("hello")
			s.announce(1)
			s.part(a[:len(a)*3/4], 100)
		},
		"after the receipt": func(l *lab, s *session) {
			if r := s.ship(1, l.good("hello")); r.Error != "" {
				t.Error(r.Error)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newParallelLab(t, nil)
			s, o := l.accepted("hello")
			s.state(api.Building, 1, "m1")
			s.sendLog("first ")
			l.log.await(t, "first ")
			until(l, s)
			l.stopServing()
			s.conn.Close()
			l.out.await(t, "the coordinator is gone (")
			l.serve()
			s = l.session()
			var again hookapi.Order
			s.expect(hookapi.Build, &again)
			if again.ID != o.ID || again.LogAttempt != 1 || again.LogOffset != 6 {
				t.Errorf("got %+v after %+v", again, o)
			}
			s.state(api.Building, 1, "m1")
			l.out.await(t, "the coordinator is back")
			s.sendLog("second")
			if name == "after the receipt" {
				l.wantTree(l.path("hello"), "hello") // the coordinator may have noted that it arrived
			} else if r := s.ship(1, l.good("hello")); r.Error != "" {
				t.Error(r.Error)
			}
			s.succeed()
			l.exit(ExitBuilt)
			l.log.await(t, "first second")
			if n := l.out.count("is gone"); n != 1 || l.out.count("is back") != 1 {
				t.Errorf("it said:\n%s", l.out)
			}
			l.wantTree(l.path("hello"), "hello")
		})
	}
}

func TestPatience(t *testing.T) {
	testkit.CheckLeaks(t)
	for name, spoil := range map[string]func(l *lab){
		"nobody": func(l *lab) { l.stopServing() },
		"takes the order and says nothing": func(l *lab) {
			go func() {
				for s := range l.sessions {
					if s == nil {
						return
					}
					s.conn.Close()
				}
			}()
			l.t.Cleanup(func() { l.sessions <- nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newParallelLab(t, func(c *Config) { c.Patience = 500 * time.Millisecond })
			s, _ := l.accepted("hello")
			a := l.good("hello")
			s.announce(1)
			s.part(a[:len(a)*3/4], 100)
			spoil(l)
			s.conn.Close()
			l.exit(ExitTransient)
			l.wantNothingLeft()
			if n := l.out.count("\n"); n > 6 || l.out.count("did not come back in 500ms") != 1 || l.out.count("is gone") != 1 {
				t.Errorf("it said:\n%s", l.out)
			}
		})
	}
}

func TestRulesBroken(t *testing.T) {
	for name, write := range map[string]func(s *session){
		"unknown kind": func(s *session) { fmt.Fprint(s.conn, "?\x00\x00\x00\x00") },
		"reply":        func(s *session) { s.send(hookapi.Reply, hookapi.Answer{}) },
		"too long":     func(s *session) { fmt.Fprint(s.conn, "l\xff\xff\xff\xff") },
		"bad state":    func(s *session) { _ = hookapi.Write(s.conn, hookapi.State, []byte("x")) },
		"bad transfer": func(s *session) { _ = hookapi.Write(s.conn, hookapi.Transfer, []byte("x")) },
		"bad final":    func(s *session) { _ = hookapi.Write(s.conn, hookapi.Final, []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			s, _ := l.accepted("hello")
			write(s)
			l.exit(ExitTransient)
			l.out.await(t, hookapi.ErrFrame.Error())
		})
	}
}

func TestLogCannotBeWritten(t *testing.T) {
	l := newLab(t, nil)
	l.cfg.Log.Close()
	s, _ := l.accepted("hello")
	s.sendLog("x")
	l.exit(ExitTransient)
	l.out.await(t, "write the log: ")
}
