package peer

import (
	"context"
	"sync"

	"lighter/internal/coordinator/mailbox"
)

// Forgetter makes a machine's agent forget builds, which cancels those that run and releases what
// they root. If the machine cannot be reached the builds stay, and are found when it is back.
type Forgetter struct {
	peer *Peer

	mu     sync.Mutex
	queue  []string
	wanted map[string]bool          // those in queue that are still to be forgotten
	now    map[string]chan struct{} // those that are being forgotten; closed when that is over
	signal chan struct{}
}

func newForgetter(p *Peer) *Forgetter {
	return &Forgetter{
		peer: p, signal: make(chan struct{}, 1),
		wanted: make(map[string]bool), now: make(map[string]chan struct{}),
	}
}

// Forget has the agent forget a build, at some time.
func (f *Forgetter) Forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wanted[id] {
		return
	}
	f.wanted[id] = true
	f.queue = append(f.queue, id)
	mailbox.Signal(f.signal)
}

// Withdraw takes back a request to forget a build, and returns when none is under way, so that none
// can hit an attempt that starts afterwards, which replaces what the agent has anyway.
func (f *Forgetter) Withdraw(ctx context.Context, id string) error {
	f.mu.Lock()
	delete(f.wanted, id)
	underWay := f.now[id]
	f.mu.Unlock()
	if underWay == nil {
		return nil
	}
	select {
	case <-underWay:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Idle reports whether no request waits or is under way.
func (f *Forgetter) Idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wanted) == 0 && len(f.now) == 0
}

func (f *Forgetter) next() (id string, done func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) > 0 {
		id, f.queue = f.queue[0], f.queue[1:]
		if !f.wanted[id] {
			continue
		}
		delete(f.wanted, id)
		over := make(chan struct{})
		f.now[id] = over
		return id, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.now, id)
			close(over)
		}, true
	}
	return "", nil, false
}

// forgetAtOnce bounds how many builds an agent is made to forget at the same time.
const forgetAtOnce = 4

// run ends with ctx.
func (f *Forgetter) run(ctx context.Context) {
	slots := make(chan struct{}, forgetAtOnce)
	var group sync.WaitGroup
	defer group.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.signal:
		}
		for id, done, ok := f.next(); ok; id, done, ok = f.next() {
			slots <- struct{}{}
			group.Go(func() {
				f.tell(ctx, id)
				done()
				<-slots
			})
		}
	}
}

// maxTells bounds how often an agent is told the same while its link breaks.
const maxTells = 5

// tell has the agent forget a build. Where the link breaks, and the machine turns out to be there,
// it is told again: only of a machine that was away it is looked at later what its agent has.
func (f *Forgetter) tell(ctx context.Context, id string) {
	limited, cancel := context.WithTimeout(ctx, f.peer.config.Limits.ContactTimeout)
	defer cancel()
	var err error
	for range maxTells {
		err = f.peer.Contain("forgetting a build", func() error { return f.peer.Client.DeleteBuild(limited, id) })
		if !LinkFailed(err) || f.peer.Await(limited) != nil {
			break
		}
	}
	if err != nil && !UnknownBuild(err) && ctx.Err() == nil {
		f.peer.Poke() // if it is away, that is noticed soon, and what it has is compared when it is back
		f.peer.log.Info("the agent was not told to forget a build; it is told when it is reached again", "build", id, "err", err)
	}
}
