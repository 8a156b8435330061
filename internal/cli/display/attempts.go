package display

import (
	"fmt"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
)

// Attempt is one try on one machine, as the events of a build tell it.
type Attempt struct {
	Number  int    `json:"number"` // from 1
	Machine string `json:"machine"`
	// Phases has the states of the build that it went through, one after the other.
	Phases []Phase `json:"phases"`
	// End is when it was over; nil while it goes on.
	End *time.Time `json:"end,omitempty"`
	// Outcome says for people how it ended, and State is that of the build because of it.
	Outcome string    `json:"outcome"`
	State   api.State `json:"state"`
	// Failure is why it ended, if that is known.
	Failure *api.Failure `json:"failure,omitempty"`
}

// Phase is a time that a build spent in a state.
type Phase struct {
	State api.State  `json:"state"`
	From  time.Time  `json:"from"`
	To    *time.Time `json:"to,omitempty"` // nil while it goes on
}

// Length is how long the phase lasted; that of nil is 0.
func (p *Phase) Length(now time.Time) time.Duration {
	switch {
	case p == nil:
		return 0
	case p.To != nil:
		now = *p.To
	}
	return max(0, now.Sub(p.From))
}

// Phase returns that of a state, or nil if there was none.
func (a *Attempt) Phase(s api.State) *Phase {
	for i := range a.Phases {
		if a.Phases[i].State == s {
			return &a.Phases[i]
		}
	}
	return nil
}

// Attempts reads attempts from a build's events, in order.
func Attempts(events []api.Event) []*Attempt {
	var list []*Attempt
	for i := range events {
		ev := &events[i]
		if ev.Attempt == 0 {
			continue
		}
		last := len(list) - 1
		if last < 0 || list[last].Number != ev.Attempt {
			if !ev.State.Running() {
				continue // says why the one before it is over
			}
			if len(list) > 1 {
				supersede(list, ev)
			}
			list = append(list, &Attempt{Number: ev.Attempt, Outcome: "goes on"})
			last++
		}
		list[last].take(ev)
		if ev.State.Final() {
			supersede(list, ev)
		}
	}
	return list
}

// supersede ends attempts of which no event says how they ended. Two may go on at the same time, but not
// beside a third, nor after the build's end.
func supersede(list []*Attempt, by *api.Event) {
	for _, a := range list {
		if a.End == nil {
			a.over(by.Time, fmt.Sprintf("superseded by attempt %d", by.Attempt))
		}
	}
}

func (a *Attempt) take(ev *api.Event) {
	if a.Machine == "" {
		a.Machine = ev.Machine
	}
	if a.End != nil {
		return
	}
	// The failure of a running build is that of an attempt before.
	if ev.State.Running() {
		if a.State = ev.State; a.Phase(ev.State) == nil {
			a.closePhase(ev.Time)
			a.Phases = append(a.Phases, Phase{State: ev.State, From: ev.Time})
		}
		return
	}
	a.State, a.Failure = ev.State, ev.Failure
	switch {
	case ev.Failure != nil:
		a.over(ev.Time, human.Line(fmt.Sprintf("%s: %s", ev.Failure.Culprit, ev.Failure.Message)))
	case ev.State.Final():
		a.over(ev.Time, string(ev.State))
	default:
		a.over(ev.Time, ev.Reason)
	}
}

func (a *Attempt) over(at time.Time, outcome string) {
	a.End, a.Outcome = &at, outcome
	a.closePhase(at)
}

func (a *Attempt) closePhase(at time.Time) {
	if n := len(a.Phases); n > 0 && a.Phases[n-1].To == nil {
		a.Phases[n-1].To = &at
	}
}

// Waits returns when a build was in no machine's hands, before its attempts and between them.
func Waits(events []api.Event) []Phase {
	var list []Phase
	for i := range events {
		ev := &events[i]
		last := len(list) - 1
		open := last >= 0 && list[last].To == nil
		if ev.State == "" || open && list[last].State == ev.State {
			continue
		}
		if open {
			list[last].To = &ev.Time
		}
		if !ev.State.Running() && !ev.State.Final() {
			list = append(list, Phase{State: ev.State, From: ev.Time})
		}
	}
	return list
}
