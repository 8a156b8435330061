package peer

import (
	"context"
	"fmt"
	"sync"

	"lighter/internal/coordinator/mailbox"
)

// contacts is what calls to a machine share: they end when it does not answer the supervisor, and
// whoever lost it hears when it is reached again.
type contacts struct {
	mu      sync.Mutex
	count   uint64        // of times that it was reached
	changed chan struct{} // closed, and replaced, each time
	calls   map[*context.CancelCauseFunc]struct{}
	shut    error         // why calls may not connect until the machine is looked at again, or nil
	poked   chan struct{} // has room for one: look at the machine, if it was up
	woken   chan struct{} // has room for one: look at the machine in any case
}

func (x *contacts) init() {
	x.changed, x.calls = make(chan struct{}), make(map[*context.CancelCauseFunc]struct{})
	x.poked, x.woken = make(chan struct{}, 1), make(chan struct{}, 1)
}

func (x *contacts) reached() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.count++
	close(x.changed)
	x.changed = make(chan struct{})
}

// setShut makes calls that would connect to the machine fail at once; nil lets them connect.
func (x *contacts) setShut(why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shut = why
}

// lost ends all calls that are under way.
func (x *contacts) lost(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for cancel := range x.calls {
		(*cancel)(fmt.Errorf("the machine does not answer: %w", err))
	}
}

// With calls f with a context that also ends when the machine does not answer the supervisor.
func (x *contacts) With(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.mu.Lock()
	x.calls[&cancel] = struct{}{}
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.calls, &cancel)
	}()
	err := f(ctx)
	if lost := context.Cause(ctx); err != nil && lost != nil {
		return lost
	}
	return err
}

// Unshut lets calls connect to the machine again.
func (x *contacts) Unshut() { x.setShut(nil) }

// isShut returns why calls may not connect, or nil.
func (x *contacts) isShut() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shut
}

// seen returns how often the machine was reached, and a channel that is closed the next time.
func (x *contacts) seen() (uint64, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.count, x.changed
}

// Poke has the supervisor look at the machine now, if the machine is believed to be up.
func (x *contacts) Poke() { mailbox.Signal(x.poked) }

// Wake has the supervisor look at the machine now in any case. The result is closed when the machine
// was reached.
func (x *contacts) Wake() (looked <-chan struct{}) {
	_, looked = x.seen()
	mailbox.Signal(x.woken)
	return looked
}

// Await pokes the supervisor, and returns nil once the machine has been reached, or the cause of
// ctx's end.
func (x *contacts) Await(ctx context.Context) error {
	before, changed := x.seen()
	x.Poke()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var now uint64
		if now, changed = x.seen(); now > before {
			return nil
		}
	}
}
