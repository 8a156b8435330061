package display

import (
	"fmt"
	"testing"
	"time"

	"lighter/internal/api"
)

// TestAttempts reads the attempts of a build that was begun again, of which the elder was done first.
func TestAttempts(t *testing.T) {
	began := time.Unix(0, 0)
	events := []api.Event{
		{Attempt: 1, Machine: "slow", State: api.Placed},
		{Attempt: 1, Machine: "slow", State: api.Building},
		{Attempt: 2, Machine: "fast", State: api.Placed},
		{Attempt: 2, Machine: "fast", State: api.Building},
		{Attempt: 3, Machine: "slow", State: api.Building},
		{Attempt: 3, Machine: "slow", State: api.Succeeded},
	}
	for i := range events {
		events[i].Time = began.Add(time.Duration(i) * time.Second)
	}
	for _, tt := range []struct {
		events int
		want   []string
	}{
		{4, []string{"goes on", "goes on"}}, // both go on
		{5, []string{"superseded by attempt 3", "superseded by attempt 3", "goes on"}},
		{6, []string{"superseded by attempt 3", "superseded by attempt 3", "succeeded"}},
	} {
		list := Attempts(events[:tt.events])
		if len(list) != len(tt.want) {
			t.Fatalf("after %d events: %d attempts", tt.events, len(list))
		}
		for i, a := range list {
			if a.Outcome != tt.want[i] || (a.End == nil) != (a.Outcome == "goes on") {
				t.Errorf("after %d events attempt %d: %q, until %v", tt.events, a.Number, a.Outcome, a.End)
			}
		}
	}
}

// TestPhases has a build that waited, failed for its machine's sake, waited again and is sent.
func TestPhases(t *testing.T) {
	began := time.Unix(0, 0)
	events := []api.Event{
		{Kind: api.KindSubmitted, State: api.Queued},
		{State: api.Waiting},
		{State: api.Waiting, Kind: api.KindNote},
		{State: api.Queued},
		{Attempt: 1, Machine: "a", State: api.Placed},
		{Attempt: 1, Machine: "a", State: api.Building},
		{Attempt: 1, Machine: "a", State: api.Building, Kind: api.KindNote},
		{Attempt: 1, Machine: "a", State: api.Queued, Failure: &api.Failure{Culprit: api.CulpritLink, Message: "gone"}},
		{Attempt: 2, Machine: "b", State: api.Sending},
	}
	for i := range events {
		events[i].Time = began.Add(time.Duration(i) * time.Second)
	}
	now := began.Add(20 * time.Second)
	show := func(list []Phase) (text string) {
		for _, p := range list {
			text += fmt.Sprintf("%s %d ", p.State, p.Length(now)/time.Second)
		}
		return text
	}
	if got, want := show(Waits(events)), "queued 1 waiting 2 queued 1 queued 1 "; got != want {
		t.Errorf("waits: %s, want %s", got, want)
	}
	list := Attempts(events)
	if got, want := show(list[0].Phases)+list[0].Outcome+"; "+show(list[1].Phases)+list[1].Outcome, "placed 1 building 2 link: gone; sending 12 goes on"; got != want {
		t.Errorf("attempts: %s, want %s", got, want)
	}
	if a := list[0]; a.State != api.Queued || a.Failure == nil || a.Phase(api.Fetching).Length(now) != 0 {
		t.Errorf("got %+v", a)
	}
}
