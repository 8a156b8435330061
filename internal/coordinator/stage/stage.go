// Package stage is how far a task of the coordinator is, for its loop. What everybody else is told, an
// api.State, says more about an attempt that is under way, and less about the rest.
package stage

import "slices"

// Stage is described in the package comment. The zero value is Undecided.
type Stage int

// The stages of a task.
const (
	// Undecided: what is next is about to be decided.
	Undecided Stage = iota
	// Looking: the expander was asked about it. Until it answers, node and edges may be
	// missing or out of date.
	Looking
	Waiting // for inputs
	Delayed // for the time of its next attempt
	Queued  // for a machine
	Working // an attempt is under way
	// Made: the outputs exist, at home or on a machine that keeps them.
	Made
	Fetching  // the outputs exist, and an attempt brings them where they are wanted
	Postponed // the outputs exist, and are brought there later
	Over      // the loop no longer has it
)

// stages has the name of each stage, and the stages to which it leads.
var stages = [...]struct {
	name string
	next []Stage
}{
	Undecided: {"undecided", []Stage{Looking, Waiting, Delayed, Queued, Working, Made, Over}},
	Looking:   {"looking", []Stage{Undecided, Made, Over}},
	Waiting:   {"waiting", []Stage{Undecided, Looking, Delayed, Queued, Over}},
	Delayed:   {"delayed", []Stage{Undecided, Looking, Queued, Over}},
	Queued:    {"queued", []Stage{Undecided, Looking, Working, Over}},
	Working:   {"working", []Stage{Undecided}}, // when its attempt is detached
	Made:      {"made", []Stage{Looking, Fetching, Postponed, Over}},
	Fetching:  {"fetching", []Stage{Made}}, // as working
	Postponed: {"postponed", []Stage{Made, Looking, Over}},
	Over:      {"over", nil},
}

func (s Stage) String() string { return stages[s].name }

// LeadsTo reports whether a task may go from one stage to another.
func (s Stage) LeadsTo(to Stage) bool { return slices.Contains(stages[s].next, to) }

// Available reports whether the outputs exist: at home, or on a machine that keeps them.
func (s Stage) Available() bool { return s == Made || s == Fetching || s == Postponed }

// Idle reports whether the task waits for its turn, with its edges known.
func (s Stage) Idle() bool { return s == Waiting || s == Delayed || s == Queued }
