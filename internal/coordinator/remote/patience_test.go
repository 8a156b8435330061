package remote

import (
	"testing"
	"time"

	"lighter/internal/agentapi"
)

// TestClocksOfMachines has durations that a machine's clock makes.
func TestClocksOfMachines(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		claim, seen time.Duration
		broken      bool
		want        time.Duration
		sure        bool
	}{
		"true":            {59 * time.Second, time.Minute, false, 59 * time.Second, true},
		"set forward":     {time.Hour, time.Minute, false, time.Minute, true},
		"year 2200":       {174 * 365 * 24 * time.Hour, time.Minute, false, time.Minute, true},
		"set back":        {-time.Hour, time.Minute, false, time.Minute, true},
		"set back a bit":  {time.Second, time.Minute, false, time.Minute, true},
		"none":            {0, time.Minute, false, time.Minute, true},
		"out of reach":    {10 * time.Second, time.Minute, true, 10 * time.Second, true},
		"of reach, wrong": {time.Hour, time.Minute, true, time.Minute, false},
	} {
		times := buildTimes{put: now, began: now, ended: now.Add(c.seen), broken: c.broken}
		other := now.Add(-1000 * time.Hour) // of the other clock
		got, sure := times.duration(&agentapi.BuildStatus{Started: other, Stopped: other.Add(c.claim)})
		if got != c.want || sure != c.sure {
			t.Errorf("%s: got %s, %v; want %s, %v", name, got, sure, c.want, c.sure)
		}
	}
	if got, sure := (&buildTimes{}).duration(&agentapi.BuildStatus{Stopped: now.AddDate(174, 0, 0), Started: now}); got != maxClaim || sure {
		t.Errorf("of a build that nobody saw: %s, %v", got, sure)
	}
}
