package coordinator

import "slices"

// stage is how far a task is, for the loop. What everybody else is told, its api.State, says more
// about an attempt that is under way, and less about the rest. Only enter changes it.
type stage int

const (
	// stageUndecided: what is next is about to be decided.
	stageUndecided stage = iota
	// stageLooking: the expander was asked about it. Until it answers, node and edges may be
	// missing or out of date.
	stageLooking
	stageWaiting // for inputs
	stageDelayed // for the time of its next attempt
	stageQueued  // for a machine
	stageWorking // an attempt is under way
	// stageMade: the outputs exist, at home or on the machine kept.
	stageMade
	stageFetching  // the outputs exist, and an attempt brings them where they are wanted
	stagePostponed // the outputs exist, and are brought there later
	stageOver      // the loop no longer has it
)

// stages has the name of each stage, and the stages to which it leads.
var stages = [...]struct {
	name string
	next []stage
}{
	stageUndecided: {"undecided", []stage{stageLooking, stageWaiting, stageDelayed, stageQueued, stageWorking, stageMade, stageOver}},
	stageLooking:   {"looking", []stage{stageUndecided, stageMade, stageOver}},
	stageWaiting:   {"waiting", []stage{stageUndecided, stageLooking, stageDelayed, stageQueued, stageOver}},
	stageDelayed:   {"delayed", []stage{stageUndecided, stageLooking, stageQueued, stageOver}},
	stageQueued:    {"queued", []stage{stageUndecided, stageLooking, stageWorking, stageOver}},
	stageWorking:   {"working", []stage{stageUndecided}}, // when its attempt is detached
	stageMade:      {"made", []stage{stageLooking, stageFetching, stagePostponed, stageOver}},
	stageFetching:  {"fetching", []stage{stageMade}}, // as working
	stagePostponed: {"postponed", []stage{stageMade, stageLooking, stageOver}},
	stageOver:      {"over", nil},
}

func (s stage) String() string { return stages[s].name }

// enter takes a task to another stage, out of the collection for its old stage and into that for
// the new one, if they have one.
func (t *task) enter(l *loop, to stage) {
	from := t.stage
	if from == to {
		return
	}
	if !slices.Contains(stages[from].next, to) {
		l.log.Error("a task goes where it cannot; this is a bug in lighter", "build", t.id, "derivation", t.drv, "from", from, "to", to)
	}
	switch from {
	case stageQueued:
		t.leaveLine(l)
	case stageDelayed, stagePostponed:
		delete(l.delayed, t)
	}
	t.stage = to
	switch to {
	case stageQueued:
		t.queuedAt = l.now()
		t.lineUp(l)
		l.placing = true
	case stageDelayed, stagePostponed:
		l.delayed[t] = true
		l.placeBy(t.notBefore)
	case stageOver:
		if l.tasks[t.drv] == t {
			delete(l.tasks, t.drv)
			l.live.Delete(t.drv)
		}
		delete(l.byID, t.id)
		delete(l.alarmed, t.id)
	}
}

// available reports whether a task's outputs exist: at home, or on the machine kept.
func (t *task) available() bool {
	return t.stage == stageMade || t.stage == stageFetching || t.stage == stagePostponed
}

// begun reports whether a task is placed, or need not be: then it no longer waits for its inputs.
func (t *task) begun() bool { return t.takeUpOn != nil || t.stage == stageWorking || t.available() }

// idle reports whether a task waits for its turn, with its edges known.
func (t *task) idle() bool {
	return t.stage == stageWaiting || t.stage == stageDelayed || t.stage == stageQueued
}
