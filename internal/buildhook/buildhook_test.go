package buildhook

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/internal/testkit"
	"lighter/store"
)

const aDerivation = "/gnu/store/r24ph4wka0cdybig90b5w4fa0dvn52ry-hello.drv"

func TestParseQuestion(t *testing.T) {
	for line, want := range map[string]hookapi.Question{
		"1 x86_64-linux " + aDerivation + " ":                 {Derivation: aDerivation, System: "x86_64-linux", WantsLocal: true},
		"0 aarch64-linux " + aDerivation + " kvm":             {Derivation: aDerivation, System: "aarch64-linux", Features: []string{"kvm"}},
		"0 x86_64-linux " + aDerivation + " kvm,big-parallel": {Derivation: aDerivation, System: "x86_64-linux", Features: []string{"kvm", "big-parallel"}},
	} {
		got, err := parseQuestion(line, store.DefaultDir)
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if got.Derivation != want.Derivation || got.System != want.System || got.WantsLocal != want.WantsLocal || !slices.Equal(got.Features, want.Features) {
			t.Errorf("%q: got %+v, want %+v", line, got, want)
		}
	}
	for _, line := range []string{
		"", " ", "1", "1 x86_64-linux", "1 x86_64-linux " + aDerivation,
		"2 x86_64-linux " + aDerivation + " ", " x86_64-linux " + aDerivation + " ", "1  " + aDerivation + " ",
		"1 x86_64-linux " + aDerivation + " kvm big-parallel", "1 x86_64-linux " + aDerivation + "  ",
		"1 x86_64-linux " + strings.TrimSuffix(aDerivation, ".drv") + " ", "1 x86_64-linux /etc/passwd.drv ",
		"1 x86_64-linux /gnu/store/../x.drv ", "1 x86_64-linux hello.drv ", "1 x86_64-linux  ",
	} {
		if got, err := parseQuestion(line, store.DefaultDir); err == nil {
			t.Errorf("%q: got %+v, want an error", line, got)
		}
	}
}

// TestTranscripts reads what guix-daemon said to its own hook.
func TestTranscripts(t *testing.T) {
	said := regexp.MustCompile(`(?m)^ +[0-9.]+ daemon->hook (".*")$`)
	arguments := regexp.MustCompile(`\[([^\]]*)\]`)
	for name, want := range map[string]struct {
		question hookapi.Question
		outputs  int
	}{
		"01-success.txt":                      {hookapi.Question{System: "x86_64-linux", WantsLocal: true}, 1},
		"02-success-two-outputs-features.txt": {hookapi.Question{System: "x86_64-linux", WantsLocal: true, Features: []string{"kvm", "big-parallel"}}, 2},
		"03-decline-system.txt":               {hookapi.Question{System: "aarch64-linux", WantsLocal: true}, 0},
		"04-decline-features.txt":             {hookapi.Question{System: "x86_64-linux", WantsLocal: true, Features: []string{"kvm", "big-parallel"}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			_, start, _ := strings.Cut(string(text), "--- hook started: argv: ")
			start, _, _ = strings.Cut(start, "\n")
			var args []string
			for _, m := range arguments.FindAllStringSubmatch(start, -1) {
				args = append(args, m[1])
			}
			cfg, err := environment(args[1:], func(string) string { return "" })
			if err != nil || cfg.MaxSilentTime != time.Hour || cfg.Timeout != 24*time.Hour {
				t.Errorf("arguments %q: got %+v, %v", args, cfg, err)
			}
			var input strings.Builder
			for _, m := range said.FindAllStringSubmatch(string(text), -1) {
				line, err := strconv.Unquote(m[1])
				if err != nil {
					t.Fatal(err)
				}
				if line != "<EOF>" {
					input.WriteString(line)
				}
			}
			h := &hook{Config: Config{Dir: store.DefaultDir}, in: bufio.NewReader(strings.NewReader(input.String()))}
			line, err := h.line(maxQuestion)
			if err != nil {
				t.Fatal(err)
			}
			q, err := parseQuestion(line, store.DefaultDir)
			if err != nil {
				t.Fatal(err)
			}
			if q.System != want.question.System || q.WantsLocal != want.question.WantsLocal || !slices.Equal(q.Features, want.question.Features) {
				t.Errorf("got %+v, want %+v", q, want.question)
			}
			if want.outputs == 0 {
				return
			}
			b, err := h.newBuild(q)
			if err != nil {
				t.Fatal(err)
			}
			if len(b.order.Inputs) != 2 || b.order.Inputs[0] != q.Derivation || len(b.order.Outputs) != want.outputs {
				t.Errorf("got %+v", b.order)
			}
		})
	}
}

func TestNoQuestion(t *testing.T) {
	l := newLab(t, nil)
	l.start()
	l.in.Close()
	l.exit(ExitBuilt)
	if l.out.String() != "" {
		t.Errorf("it said %q", l.out)
	}
}

// TestInputEnds ends guix-daemon's words at every byte.
func TestInputEnds(t *testing.T) {
	question := "0 x86_64-linux " + aDerivation + " \n"
	lists := "/gnu/store/r24ph4wka0cdybig90b5w4fa0dvn52ry-in \n/gnu/store/r24ph4wka0cdybig90b5w4fa0dvn52ry-out \n"
	for n := range len(question) {
		out := newOutput()
		want := ExitTransient
		if n == 0 {
			want = ExitBuilt
		}
		if got := Run(Config{In: strings.NewReader(question[:n]), Out: out, Dir: store.DefaultDir}); got != want {
			t.Errorf("after %q: exit code %d, want %d; it said %s", question[:n], got, want, out)
		}
	}
	for n := range len(lists) {
		h := &hook{Config: Config{Dir: store.DefaultDir}, in: bufio.NewReader(strings.NewReader(lists[:n]))}
		if _, err := h.newBuild(&hookapi.Question{}); err == nil {
			t.Errorf("after %q: no error", lists[:n])
		}
	}
}

func TestLists(t *testing.T) {
	for _, lists := range []string{
		" \n \n", "\n\n", "/etc/passwd \n" + aDerivation + " \n", aDerivation + " \n/gnu/store/../etc \n",
		aDerivation + " \nrelative\n",
	} {
		h := &hook{Config: Config{Dir: store.DefaultDir}, in: bufio.NewReader(strings.NewReader(lists))}
		if b, err := h.newBuild(&hookapi.Question{}); err == nil {
			t.Errorf("%q: got %+v", lists, b.order)
		}
	}
	// A closure has no limit that guix-daemon knows.
	many := strings.Repeat(aDerivation+" ", 100_000)
	h := &hook{Config: Config{Dir: store.DefaultDir}, in: bufio.NewReader(strings.NewReader(many + "\n" + aDerivation + " \n"))}
	if b, err := h.newBuild(&hookapi.Question{}); err != nil || len(b.order.Inputs) != 100_000 {
		t.Errorf("a long list: %v", err)
	}
}

// TestBadLists has guix-daemon name what is not an output after the build was accepted.
func TestBadLists(t *testing.T) {
	l := newLab(t, nil)
	l.serve()
	l.start()
	l.write("0 x86_64-linux " + string(l.path("hello.drv")) + " ")
	l.session().reply(hookapi.Accept, "")
	l.write(string(l.path("hello.drv"))+" ", "/etc/passwd ")
	l.exit(ExitTransient)
	l.out.await(t, "guix-daemon's list of outputs: store path \"/etc/passwd\"")
}

func TestLongQuestion(t *testing.T) {
	out := newOutput()
	cfg := Config{In: strings.NewReader(strings.Repeat("x", maxQuestion+1) + "\n"), Out: out, Dir: store.DefaultDir}
	if got := Run(cfg); got != ExitTransient || !strings.Contains(out.String(), "a line of more than 65536 bytes") {
		t.Errorf("exit code %d, it said %s", got, out)
	}
}

func TestBadQuestion(t *testing.T) {
	l := newLab(t, nil)
	l.start()
	l.write("what?")
	l.out.await(t, "# decline\n")
	l.in.Close()
	l.exit(ExitBuilt)
}

// TestNoCoordinator has nobody answer: guix-daemon builds by itself, and the user is told
// once why.
func TestNoCoordinator(t *testing.T) {
	l := newLab(t, nil)
	l.start()
	for n := range 3 {
		l.write("1 x86_64-linux " + string(l.path("hello.drv")) + " ")
		l.out.awaitTimes(t, "# decline\n", n+1)
	}
	if n := l.out.count("no coordinator answers"); n != 1 {
		t.Errorf("it said %d times why:\n%s", n, l.out)
	}
	l.in.Close()
	l.exit(ExitBuilt)
}

// TestNoCoordinatorAndNoSlot has guix-daemon wait, but not forever, where it can't build by itself now: the
// coordinator may just be restarting.
func TestNoCoordinatorAndNoSlot(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Patience = time.Hour })
	l.start()
	question := "0 x86_64-linux " + string(l.path("hello.drv")) + " "
	for n := range 2 {
		l.write(question)
		l.out.awaitTimes(t, "# postpone\n", n+1)
	}
	if n := l.out.count("waiting up to 1h0m0s for it"); n != 1 {
		t.Errorf("it said %d times that it waits:\n%s", n, l.out)
	}
	l.serve()
	l.write(question)
	l.session().reply(hookapi.Accept, "")
	l.out.await(t, "# accept\n")
	l.in.Close()
	l.exit(ExitTransient)
}

// TestNoCoordinatorForTooLong has guix-daemon wait no longer than a build that was accepted would.
func TestNoCoordinatorForTooLong(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Patience = time.Nanosecond })
	l.start()
	l.write("0 x86_64-linux " + string(l.path("hello.drv")) + " ")
	l.out.await(t, "# decline\n")
	if n := l.out.count("is not offloaded"); n != 1 {
		t.Errorf("it said:\n%s", l.out)
	}
	l.in.Close()
	l.exit(ExitBuilt)
}

func TestNoListOfKeys(t *testing.T) {
	l := newLab(t, nil)
	if err := os.Remove(l.cfg.ACL); err != nil {
		t.Fatal(err)
	}
	l.serve()
	l.start()
	l.write("1 x86_64-linux " + string(l.path("hello.drv")) + " ")
	l.out.await(t, "# decline\n")
	if !strings.Contains(l.out.String(), l.cfg.ACL) {
		t.Errorf("it said %s", l.out)
	}
}

// TestCoordinatorHangs has a coordinator take up the conversation and say nothing.
func TestCoordinatorHangs(t *testing.T) {
	l := newLab(t, func(c *Config) { c.answerTimeout = 50 * time.Millisecond })
	l.serve()
	l.start()
	began := time.Now()
	l.write("1 x86_64-linux " + string(l.path("hello.drv")) + " ")
	l.out.await(t, "# decline\n")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if n := len(l.sessions); n != 1 {
		t.Errorf("it began %d conversations", n)
	}
	if !strings.Contains(l.out.String(), "timeout") {
		t.Errorf("it said %s", l.out)
	}
}

func TestCoordinatorIsSomethingElse(t *testing.T) {
	l := newLab(t, nil)
	l.mute = func(conn net.Conn) bool {
		_, _ = conn.Read(make([]byte, 4096))
		io.WriteString(conn, "HTTP/1.1 404 Not Found\r\n\r\n")
		conn.Close()
		return true
	}
	l.serve()
	l.start()
	l.write("1 x86_64-linux " + string(l.path("hello.drv")) + " ")
	l.out.await(t, "# decline\n")
	if !strings.Contains(l.out.String(), "404 Not Found") {
		t.Errorf("it said %s", l.out)
	}
}

func TestBadAnswers(t *testing.T) {
	for name, answer := range map[string]func(s *session){
		"another frame":   func(s *session) { s.send(hookapi.Final, hookapi.Result{}) },
		"no JSON":         func(s *session) { _ = hookapi.Write(s.conn, hookapi.Reply, []byte("yes")) },
		"another verdict": func(s *session) { s.send(hookapi.Reply, hookapi.Answer{Verdict: "accept\n# accept"}) },
		"end":             func(s *session) { s.conn.Close() },
		"garbage":         func(s *session) { fmt.Fprint(s.conn, "garbage") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			l.serve()
			l.start()
			l.write("1 x86_64-linux " + string(l.path("hello.drv")) + " ")
			answer(l.session())
			l.out.await(t, "# decline\n")
			if l.out.count("# ") != 1 {
				t.Errorf("it said %s", l.out)
			}
		})
	}
}

// TestAskedAgain asks one hook several times, as guix-daemon does after postpone, with the
// coordinator started again between two of them.
func TestAskedAgain(t *testing.T) {
	l := newLab(t, nil)
	l.serve()
	l.start()
	ask := func(n int, s *session, verdict, reason string) *session {
		l.write("0 x86_64-linux " + string(l.path("hello.drv")) + " kvm")
		if s == nil {
			s = l.session()
		}
		if q := s.reply(verdict, reason); q.Derivation != l.path("hello.drv") || !slices.Equal(q.Features, []string{"kvm"}) || q.WantsLocal {
			t.Errorf("got %+v", q)
		}
		l.out.awaitTimes(t, "# "+verdict+"\n", n)
		return s
	}
	s := ask(1, nil, hookapi.Postpone, "all slots are taken")
	s = ask(2, s, hookapi.Postpone, "all slots are taken")
	ask(1, s, hookapi.Decline, "no machine")
	l.stopServing()
	s.conn.Close()
	l.serve()
	s = ask(3, nil, hookapi.Postpone, "all slots are taken")
	ask(1, s, hookapi.Accept, "")
	l.write(string(l.path("hello.drv"))+" ", string(l.path("hello"))+" ")
	var o hookapi.Order
	s.expect(hookapi.Build, &o)
	s.ship(1, l.good("hello"))
	s.succeed()
	l.exit(ExitBuilt)
	want := "lighter: HELLO waits: all slots are taken\n# postpone\n# postpone\n" +
		"lighter: HELLO is not offloaded: no machine\n# decline\n" +
		"lighter: HELLO waits: all slots are taken\n# postpone\n# accept\n"
	if got := strings.ReplaceAll(l.out.String(), l.path("hello.drv").Base(), "HELLO"); got != want {
		t.Errorf("it said:\n%swant:\n%s", got, want)
	}
}

// TestKeepTalking checks how often something is said, and that nothing is while it is the
// builder's to say something.
func TestKeepTalking(t *testing.T) {
	for _, silent := range []time.Duration{0, time.Second, 3 * time.Second, time.Hour} {
		t.Run(silent.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said []time.Time
				out := writerFunc(func(p []byte) (int, error) {
					said = append(said, time.Now())
					return len(p), nil
				})
				b := &build{hook: &hook{Config: Config{Out: out, MaxSilentTime: silent}}}
				b.order.Derivation = aDerivation
				b.told.note(api.Sending, "sending")
				longest := maxQuiet
				if silent > 0 {
					longest = max(minQuiet, min(maxQuiet, silent/3))
				}
				stop := b.keepTalking()
				const a = 3 * time.Minute
				last := time.Now()
				time.Sleep(a)
				synctest.Wait()
				for _, at := range append(said, time.Now()) {
					if at.Sub(last) > longest {
						t.Errorf("silent for %s, want %s at most", at.Sub(last), longest)
					}
					last = at
				}
				if most := int(a/longest)*2 + 2; len(said) > most {
					t.Errorf("said something %d times, more than %d", len(said), most)
				}
				b.told.note(api.Building, "building")
				before := len(said)
				time.Sleep(a)
				synctest.Wait()
				if len(said) != before {
					t.Errorf("said something %d times while it was built", len(said)-before)
				}
				b.told.note(api.Fetching, "retrieving")
				for range 100 { // what is said anyway is enough
					time.Sleep(longest / 4)
					b.told.touch()
				}
				synctest.Wait()
				if len(said) > before+1 {
					t.Errorf("said something %d times though others did", len(said)-before)
				}
				stop()
				before = len(said)
				time.Sleep(a)
				if len(said) != before {
					t.Error("said something after the end")
				}
			})
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAwaitReader(t *testing.T) {
	testkit.CheckLeaks(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.Write(make([]byte, 2*lastRead+1)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		awaitReader(w)
	}()
	waits := func() bool {
		select {
		case <-done:
			return false
		case <-time.After(3 * maxPause):
			return true
		}
	}
	if !waits() {
		t.Error("it does not wait for what is unread")
	}
	if _, err := io.ReadFull(r, make([]byte, lastRead)); err != nil {
		t.Fatal(err)
	}
	if !waits() {
		t.Error("it does not wait for more than guix-daemon reads at the end")
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("it waits for what guix-daemon reads anyway")
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	awaitReader(file) // no pipe: nothing to wait for
}

// logs keeps the files of descriptor 4, which is another's here, from being closed.
var logs []*os.File

func environment(args []string, getenv func(string) string) (Config, error) {
	cfg, err := Environment(args, getenv)
	logs = append(logs, cfg.Log)
	return cfg, err
}

func TestEnvironment(t *testing.T) {
	env := func(list ...string) func(string) string {
		return func(name string) string {
			for _, kv := range list {
				if value, ok := strings.CutPrefix(kv, name+"="); ok {
					return value
				}
			}
			return ""
		}
	}
	args := []string{"x86_64-linux", "3600", "true", "0"}
	cfg, err := environment(args, env())
	if err != nil || cfg.Dir != store.DefaultDir || cfg.ACL != "/etc/guix/acl" || cfg.Socket != "/var/lib/lighter/coordinator.sock" ||
		cfg.MaxSilentTime != time.Hour || cfg.Timeout != 0 || cfg.In != os.Stdin || cfg.Out != os.Stderr || cfg.Log == nil {
		t.Errorf("got %+v, %v", cfg, err)
	}
	cfg, err = environment(args, env("NIX_STORE_DIR=/x/store", "GUIX_CONFIGURATION_DIRECTORY=/x/etc", "LIGHTER_STATE=/x/state"))
	if err != nil || cfg.Dir != "/x/store" || cfg.ACL != "/x/etc/acl" || cfg.Socket != "/x/state/coordinator.sock" {
		t.Errorf("got %+v, %v", cfg, err)
	}
	if got := socketOf(env("LIGHTER_SOCKET=/x/sock", "LIGHTER_STATE=/x/state")); got != "/x/sock" {
		t.Errorf("got the socket %s", got)
	}
	for _, bad := range [][]string{
		nil, args[:3], append(slices.Clone(args), "x"),
		{"x86_64-linux", "-1", "true", "0"},
		{"x86_64-linux", "", "true", "0"},
		{"x86_64-linux", "1h", "true", "0"},
		{"x86_64-linux", "0", "true", "2147483648"},
		{"x86_64-linux", "0", "true", "99999999999999999999"},
	} {
		if cfg, err := environment(bad, env()); err == nil {
			t.Errorf("%q: got %+v", bad, cfg)
		}
	}
	for _, dir := range []string{"relative", "/x/../y", "/x/"} {
		if cfg, err := environment(args, env("NIX_STORE_DIR="+dir)); err == nil || !strings.Contains(err.Error(), "NIX_STORE_DIR") {
			t.Errorf("%s: got %+v, %v", dir, cfg, err)
		}
	}
}

// TestReadOnlyStore has a store where nothing can be made, not even by root.
func TestReadOnlyStore(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Dir = "/proc" })
	s, _ := l.accepted("hello")
	if r := s.ship(1, l.good("hello")); !r.Local {
		t.Errorf("got %+v, want the blame taken", r)
	}
	l.exit(ExitTransient)
}
