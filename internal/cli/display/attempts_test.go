package display

import (
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
		{4, []string{"", ""}}, // both go on
		{5, []string{"superseded by attempt 3", "superseded by attempt 3", ""}},
		{6, []string{"superseded by attempt 3", "superseded by attempt 3", "succeeded"}},
	} {
		list := attemptsOf(events[:tt.events])
		if len(list) != len(tt.want) {
			t.Fatalf("after %d events: %d attempts", tt.events, len(list))
		}
		for i, a := range list {
			if a.outcome != tt.want[i] || a.end.IsZero() != (a.outcome == "") {
				t.Errorf("after %d events attempt %d: %q, until %v", tt.events, a.number, a.outcome, a.end)
			}
		}
	}
}
