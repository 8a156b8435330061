package display_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/cli/display"
)

func draw(t *testing.T, s *display.Screen, above, frame []string) {
	t.Helper()
	if err := s.Draw(above, frame); err != nil {
		t.Fatal(err)
	}
}

func TestScreenReplacesItsFrame(t *testing.T) {
	term := newFakeTerminal(t, 40, 10)
	s := display.NewScreen(term, term.size)
	draw(t, s, nil, []string{"one", "two, longer", "three"})
	draw(t, s, []string{"done: one"}, []string{"two", "three"})
	draw(t, s, []string{"done: two"}, []string{"three", "four", "five", "six"})
	draw(t, s, nil, []string{"six"})
	if diff := cmp.Diff("done: one\ndone: two\nsix\n", term.text()); diff != "" {
		t.Errorf("screen (-want +got):\n%s", diff)
	}
	if err := s.Close([]string{"finished"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("done: one\ndone: two\nfinished\n\n", term.text()); diff != "" {
		t.Errorf("screen after Close (-want +got):\n%s", diff)
	}
}

func TestScreenSurvivesResize(t *testing.T) {
	wide := []string{strings.Repeat("a", 35), strings.Repeat("b", 10), strings.Repeat("c", 30)}
	for _, columns := range []int{60, 39, 30, 15, 10, 7} {
		term := newFakeTerminal(t, 40, 10)
		s := display.NewScreen(term, term.size)
		draw(t, s, []string{"before"}, wide)
		term.resize(columns, 20)
		draw(t, s, []string{"after"}, []string{"x", "y"})
		if diff := cmp.Diff("before\nafter\nx\ny\n", term.text()); diff != "" {
			t.Errorf("%d columns (-want +got):\n%s", columns, diff)
		}
	}
}

func TestScreenDrawsNothingWhenNothingChanged(t *testing.T) {
	term := newFakeTerminal(t, 40, 10)
	counter := &writeCounter{w: term}
	s := display.NewScreen(counter, term.size)
	for range 3 {
		draw(t, s, nil, []string{"same", "frame"})
	}
	if counter.n != 1 {
		t.Errorf("%d writes, want 1", counter.n)
	}
}

type writeCounter struct {
	w *fakeTerminal
	n int
}

func (c *writeCounter) Write(p []byte) (int, error) {
	c.n++
	return c.w.Write(p)
}
