package coordinator

import (
	"cmp"
	"context"

	"lighter/internal/coordinator/stage"
	"lighter/internal/coordinator/turns"
)

// shares.go is for whom tasks count. Package turns keeps the account of what was used.

// SetShares replaces the rules by which the machines are divided. What was used stays.
func (c *Coordinator) SetShares(ctx context.Context, r turns.Rules) error {
	return c.do(ctx, func(l *loop) { //nolint:contextcheck // streams live as long as their lane
		c.rules.Store(&r)
		if l.account.SetRules(r, l.now()) {
			for _, t := range l.tasks {
				t.shares = t.ownShares(l)
			}
			for _, t := range l.tasks {
				t.passShares(l)
			}
			l.machinesChanged() // it has queued tasks line up again
		}
		l.placing = true
	})
}

// ownShares returns the shares that a task counts for because of its builds alone.
func (t *task) ownShares(l *loop) (shares []string) {
	for _, lb := range t.builds {
		if lb.Parent == "" || t.dependants.Size() == 0 {
			shares = turns.Union(shares, l.account.Of(&lb.Build))
		}
	}
	return shares
}

// passShares has what a task needs count for its shares too.
func (t *task) passShares(l *loop) {
	for work := []*task{t}; len(work) > 0; {
		x := work[len(work)-1]
		work = work[:len(work)-1]
		for in := range x.inputs.All() {
			if all := turns.Union(in.shares, x.shares); len(all) > len(in.shares) {
				in.shares = all
				work = append(work, in)
			}
		}
	}
}

// doubt notes that a task may have lost one of those for whom it counts; see settleShares.
func (t *task) doubt(l *loop) {
	if len(t.shares) > 1 && !t.stage.Available() {
		l.doubtful[t] = true
	}
}

// settleShares looks again at the tasks in doubt. They come together, as many do where much is
// canceled.
func (l *loop) settleShares() {
	for len(l.doubtful) > 0 {
		for t := range l.doubtful {
			delete(l.doubtful, t)
			shares := t.ownShares(l)
			for d := range t.dependants.All() {
				shares = turns.Union(shares, d.shares)
			}
			if len(shares) == 0 || len(shares) == len(t.shares) {
				continue
			}
			t.shares = shares
			t.moveInQueue(l)
			for in := range t.inputs.All() {
				in.doubt(l)
			}
		}
	}
}

// lineUp puts a task into the queue. It counts for the one of its shares that was served least.
func (t *task) lineUp(l *loop) {
	b := t.schedulerBuild(l)
	t.share = b.Share
	l.account.Wait(t.share, 1)
	l.queue.Push(b)
}

// leaveLine takes it out.
func (t *task) leaveLine(l *loop) {
	l.account.Wait(t.share, -1)
	l.queue.Remove(t.id)
}

// moveInQueue tells the queue how urgent a task is now, and for whom it is, if it is in the queue.
func (t *task) moveInQueue(l *loop) {
	if t.stage == stage.Queued && l.account.Served(t.shares, l.now()) != t.share {
		l.account.Wait(t.share, -1)
		t.lineUp(l)
		l.placing = true
	}
	l.queue.Reprioritise(t.id, t.priority, t.rank, t.needers())
}

// hold notes what takes a slot with an attempt, what is reserved for it, and for whom.
func (a *attempt) hold(l *loop) {
	b := a.task.schedulerBuild(l)
	b.Share = cmp.Or(a.task.share, b.Share)
	a.build = &b
	for _, lb := range a.task.builds {
		lb.Share, lb.ReservedMemory = b.Share, b.Memory
	}
	if limit := a.machine.MemoryLimit; limit > 0 {
		a.Options.MemoryLimit = max(limit, b.Memory)
	}
	l.account.Hold(b.Share, 1, l.now())
}
