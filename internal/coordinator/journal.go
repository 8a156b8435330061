package coordinator

import (
	"lighter/internal/api"
	"lighter/internal/coordinator/recorder"
	"lighter/internal/ledger"
)

// journal is what the loop changed and has not handed to the recorder yet.
type journal struct {
	changed []ledger.Change
	after   []func() // to be called, in the loop, once those are durable
}

// change adds a change to those that go to the ledger next, and shortens texts that are too
// long for it. The build and the event belong to the change from now on.
func (j *journal) change(ch ledger.Change) {
	if ch.Build != nil {
		ch.Build.Shorten()
	}
	if ch.Event != nil {
		ch.Event.Shorten()
	}
	j.changed = append(j.changed, ch)
}

// durably calls f in the loop once everything changed so far is durable.
func (j *journal) durably(f func()) { j.after = append(j.after, f) }

// write gives the recorder what changed since it was last called.
func (j *journal) write(to *recorder.Recorder) {
	if len(j.changed) == 0 && len(j.after) == 0 {
		return
	}
	to.Put(j.changed, j.after)
	j.changed, j.after = nil, nil
}

// event records something about a machine.
func (j *journal) event(machine, reason string) { j.machineEvent("", machine, reason) }

// machineEvent records an event of a kind. Without a machine it is about the coordinator.
func (j *journal) machineEvent(kind api.EventKind, machine, reason string) {
	j.change(ledger.Change{Event: &api.Event{Kind: kind, Machine: machine, Reason: reason}})
}
