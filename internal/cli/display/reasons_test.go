package display_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// TestReason has no store path in front of what happened, and the last line of the log behind it.
func TestReason(t *testing.T) {
	const item = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-hello-2.12"
	for _, c := range []struct{ message, text, reason string }{
		{"builder for `" + item + ".drv' failed with exit code 2", "the builder failed with exit code 2", "exit code 2"},
		{"the builder failed with exit code 2; its last lines were:\nmaking\nerror: no\n", "the builder failed with exit code 2", "exit code 2: error: no"},
		{"the builder failed with exit code 2; its last lines were: making | error: no", "the builder failed with exit code 2", "exit code 2: error: no"},
		{"the builder failed to produce the output path " + item, "the builder failed to produce the output path hello-2.12", "no output hello-2.12"},
		{"build " + item + ".drv: start the builder /bin/sh: no such file", "start the builder /bin/sh: no such file", "start the builder /bin/sh: no such file"},
		{"timed out after 3s", "timed out after 3s", "timed out after 3s"},
	} {
		b := &api.Build{State: api.Failed, Failure: &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: c.message}}
		if got := display.FailureText(b); got != c.text {
			t.Errorf("%q: text %q, want %q", c.message, got, c.text)
		}
		if got := display.Reason(b); got != c.reason {
			t.Errorf("%q: reason %q, want %q", c.message, got, c.reason)
		}
	}
}

// TestFailuresAreBounded lists 20 failures, and says how to see the others.
func TestFailuresAreBounded(t *testing.T) {
	at := time.Date(2026, 11, 20, 14, 30, 5, 0, time.Local)
	m := display.NewModel(at)
	for i := range 30 {
		b := build(fmt.Sprintf("%08d-1", i), fmt.Sprint("p", i), api.Failed, "")
		stopped := at.Add(time.Duration(i) * time.Second)
		b.Submitted, b.Stopped, b.Dependents = at, &stopped, i
		m.Want(b, at)
	}
	lines := m.Failures("", display.Style{})
	if len(lines) != 41 || !strings.HasPrefix(lines[0], "failed    p0") || lines[5] != "          lighter builds show 00000002  + 2 that need it" {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	if want := "and 10 more: lighter builds list --limit 0 --state failed,timed-out --since '2026-11-20 14:30'"; lines[40] != want {
		t.Errorf("got %q, want %q", lines[40], want)
	}
}

// TestTableAt80 keeps the start of the last column, and leaves out what a narrow terminal has no room for.
func TestTableAt80(t *testing.T) {
	var out bytes.Buffer
	s := display.TableStream{W: &out, Width: 80, State: 1, Heading: []string{"ID", "STATE", "NAME", "MACHINE", "SUBMITTED", "TOOK", "WHY"}, Optional: []int{3, 5}}
	// A state that comes later may be wider than all before it.
	if err := s.Write([][]string{
		{"36d8c8ef", "failed", "texlive-bin-spring-2026.7", "builder1", "30m ago", "1m00s", "exit code 2: error: undefined reference to main"},
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([][]string{
		{"36d8c8f0", "dependency-failed", "gtk", "-", "30m ago", "-", "needs texlive-bin-spring-2026.7, which failed"},
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([][]string{{"36d8c8f1", "dependency-failed", "texlive-bin-spring-2026.7", "-", "30m ago", "-", "needs texlive-bin-spring-2026.7, which failed"}}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "  dependency-failed  "); n != 2 {
		t.Errorf("a state is cut:\n%s", out.String())
	}
	for line := range strings.Lines(out.String()) {
		if w := human.Width(strings.TrimSuffix(line, "\n")); w > 80 {
			t.Errorf("%d wide: %q", w, line)
		}
	}
	if text := out.String(); !strings.Contains(text, "exit code 2: error: und") || strings.Contains(text, "builder1") {
		t.Errorf("got\n%s", text)
	}
}

// TestTableWithEnds leaves out when builds will be done before anything else.
func TestTableWithEnds(t *testing.T) {
	for width, want := range map[int]bool{80: false, 130: true, 0: true} {
		var out bytes.Buffer
		s := display.TableStream{W: &out, Width: width, State: 1, Heading: []string{"ID", "STATE", "NAME", "MACHINE", "SUBMITTED", "TOOK", "END", "WHY"}, Optional: []int{6, 3, 5}}
		if err := s.Write([][]string{{"36d8c8ef", "building", "texlive", "alpha", "30m ago", "1m00s", "14:20-15:10", "it finishes earliest there"}}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "14:20"); got != want || !strings.Contains(out.String(), "alpha") || !strings.Contains(out.String(), "1m00s") {
			t.Errorf("%d wide:\n%s", width, out.String())
		}
	}
}
