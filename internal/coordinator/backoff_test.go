package coordinator

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"lighter/machines"
)

func TestBackoff(t *testing.T) {
	b := backoff{first: time.Second, most: time.Minute}
	for i, want := range []float64{1, 2, 4, 8, 16, 32, 60, 60} {
		if got := b.next(false, 0).Seconds(); got != want {
			t.Errorf("failure %d: got %g s, want %g s", i+1, got, want)
		}
	}
	if got := b.next(false, 0.999); got < 45*time.Second || got > 46*time.Second {
		t.Errorf("by chance: got %s", got)
	}
	b.failures = 0
	if got := b.next(true, 0); got != time.Minute {
		t.Errorf("what a person must mend: got %s", got)
	}
	if got := b.next(false, 0); got != 2*time.Second {
		t.Errorf("after that: got %s", got)
	}
}

// TestOneDecidesWhenToConnect shows that while a machine is left alone nobody else tries it,
// until it is looked at again.
func TestOneDecidesWhenToConnect(t *testing.T) {
	link := &countingLink{}
	m := &machine{Machine: machines.Machine{Name: "m"}, link: link}
	m.contacts.init()
	down := errors.New("no route")
	for _, step := range []struct {
		shut error
		want int
	}{{nil, 1}, {down, 1}, {down, 1}, {nil, 2}} {
		m.contacts.setShut(step.shut)
		if _, err := m.dial(t.Context()); link.dialled != step.want || step.shut != nil && !errors.Is(err, down) {
			t.Errorf("shut for %v: dialled %d times, %v", step.shut, link.dialled, err)
		}
	}
}

// countingLink leads nowhere.
type countingLink struct{ dialled int }

func (l *countingLink) DialAgent(context.Context) (net.Conn, error) {
	l.dialled++
	return nil, net.ErrClosed
}

func (l *countingLink) Close() error { return nil }
