package peer

import (
	"context"
	"errors"
	"net"
	"testing"
)

// TestOneDecidesWhenToConnect shows that while a machine is left alone nobody else tries it,
// until it is looked at again.
func TestOneDecidesWhenToConnect(t *testing.T) {
	link := &countingLink{}
	m := &Peer{link: link}
	m.contacts.init()
	down := errors.New("no route")
	for _, step := range []struct {
		shut error
		want int
	}{{nil, 1}, {down, 1}, {down, 1}, {nil, 2}} {
		m.setShut(step.shut)
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
