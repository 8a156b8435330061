package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
)

// environment returns a lookup of "NAME=value" pairs.
func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if n, v, _ := strings.Cut(p, "="); n == name {
				return v
			}
		}
		return ""
	}
}

func TestMarks(t *testing.T) {
	const text = "a → b … │ ↑1 ↓2 é\n"
	for env, want := range map[string]string{
		"":                           text,
		"LANG=C":                     "a > b ~ | ^1 v2 é\n",
		"LC_ALL=POSIX LANG=C.UTF-8":  "a > b ~ | ^1 v2 é\n",
		"LC_CTYPE=C.utf8 LANG=C":     text,
		"LANG=de_DE.UTF-8":           text,
		"LANG=de_DE.ISO-8859-1":      "a > b ~ | ^1 v2 é\n",
		"LC_ALL=en_US.UTF-8 LANG=ru": text,
	} {
		var always, file bytes.Buffer
		getenv := environment(strings.Fields(env)...)
		fmt.Fprint(Marks(&always, getenv, true), text)
		fmt.Fprint(Marks(&file, getenv, false), text)
		if always.String() != want || file.String() != text {
			t.Errorf("%s: %q, in a file %q", env, always.String(), file.String())
		}
	}
	slave, _ := testkit.Terminal(t)
	if w := Marks(slave, environment("LANG=C"), false); Of(w) != slave || w == io.Writer(slave) {
		t.Errorf("on a terminal: %v", w)
	}
}

func TestKeys(t *testing.T) {
	slave, person := testkit.Terminal(t)
	modes := func() unix.Termios {
		m, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *m
	}
	before := modes()
	keys, stop := Keys(slave)
	if modes() == before {
		t.Error("the terminal still waits for Return")
	}
	fmt.Fprint(person, "jé\x1b[A\x1bOBq")
	for _, want := range []string{"j", "é", "up", "down", "q"} {
		if got := <-keys; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	fmt.Fprint(person, "unread")
	stop() // though nobody reads, and more may come
	if modes() != before {
		t.Error("the terminal is not as it was")
	}
	if keys, stop := Keys(strings.NewReader("q")); keys != nil {
		t.Error("keys of what is no terminal")
	} else {
		stop()
	}
}

func TestNextKey(t *testing.T) {
	for text, want := range map[string]string{"\x1b[5~x": "page-up", "\x1b[15~q": "escape", "\x1b": "escape", "\xffq": "\xff"} {
		if got, _ := nextKey([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// shown returns what a terminal has shown up to a text.
func shown(t *testing.T, person *os.File, until string) string {
	t.Helper()
	var got []byte
	for buffer := make([]byte, 256); !strings.Contains(string(got), until); {
		n, err := person.Read(buffer)
		if got = append(got, buffer[:n]...); err != nil {
			t.Fatalf("%q, %v; want %q", got, err, until)
		}
	}
	return string(got)
}

func TestPager(t *testing.T) {
	for env, want := range map[string]string{
		"LIGHTER_PAGER=tr\u00a0a-z\u00a0A-Z PAGER=false": "ONE\r\nTWO\r\nEND\r\n",
		"PAGER=sed\u00a0\"1s/^/$LESS\u00a0/\" LESS=":     "FRX one\r\ntwo\r\nend\r\n",
		"PAGER=cat":                           "one\r\ntwo\r\nend\r\n",
		"LIGHTER_PAGER=no-such-pager\u00a0-x": "the pager no-such-pager is not there\r\none\r\ntwo\r\nend\r\n",
	} {
		t.Setenv("LESS", "")
		os.Unsetenv("LESS")
		slave, person := testkit.Terminal(t)
		pairs := strings.Fields(strings.ReplaceAll(env, "\u00a0", "\x00"))
		for i := range pairs {
			pairs[i] = strings.ReplaceAll(pairs[i], "\x00", " ")
		}
		p := NewPager(slave, environment(pairs...))
		fmt.Fprintln(p, "one\ntwo")
		fmt.Fprintln(p, "end")
		if err := p.Close(); err != nil {
			t.Errorf("%s: %v", env, err)
		}
		if got := shown(t, person, want[len(want)-5:]); got != want {
			t.Errorf("%s: %q, want %q", env, got, want)
		}
	}
}

func TestPagerThatEnds(t *testing.T) {
	slave, _ := testkit.Terminal(t)
	p := NewPager(slave, environment("PAGER=read x; exit 0"))
	var err error
	for text := bytes.Repeat([]byte("x\n"), 1<<12); err == nil; {
		_, err = p.Write(text)
	}
	if !errors.Is(err, syscall.EPIPE) || p.Close() != nil {
		t.Errorf("error %v", err)
	}
	p = NewPager(slave, environment("PAGER=cat >/dev/null; no-such-program"))
	fmt.Fprintln(p, "text")
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "--no-pager") {
		t.Errorf("a pager that can't be run: %v", err)
	}
	p = NewPager(slave, environment("PAGER=cat >/dev/null; exec sleep 1000"))
	fmt.Fprintln(p, "text")
	p.Stop()
	if err := p.Close(); err != nil {
		t.Errorf("stopped: %v", err)
	}
	if err := NewPager(slave, environment()).Close(); err != nil {
		t.Errorf("without a text: %v", err)
	}
}
