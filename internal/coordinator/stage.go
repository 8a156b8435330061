package coordinator

import "lighter/internal/coordinator/stage"

// enter takes a task to another stage, which nothing else does: out of the collection for its old stage and into that for
// the new one, if they have one.
func (t *task) enter(l *loop, to stage.Stage) {
	from := t.stage
	if from == to {
		return
	}
	if !from.LeadsTo(to) {
		l.log.Error("a task goes where it cannot; this is a bug in lighter", "build", t.id, "derivation", t.drv, "from", from, "to", to)
	}
	switch from {
	case stage.Queued:
		t.leaveLine(l)
	case stage.Delayed, stage.Postponed:
		delete(l.delayed, t)
	}
	t.stage = to
	switch to {
	case stage.Queued:
		t.queuedAt = l.now()
		t.lineUp(l)
		l.placing = true
	case stage.Delayed, stage.Postponed:
		l.delayed[t] = true
		l.placeBy(t.notBefore)
	case stage.Over:
		if l.tasks[t.drv] == t {
			delete(l.tasks, t.drv)
			l.live.Delete(t.drv)
		}
		delete(l.byID, t.id)
		l.standstill.Forget(t.id)
	}
}

// begun reports whether a task is placed, or need not be: then it no longer waits for its inputs.
func (t *task) begun() bool {
	return t.takeUpOn != nil || t.stage == stage.Working || t.stage.Available()
}
