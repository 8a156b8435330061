package delivery

import (
	"testing"
	"time"

	"lighter/internal/api"
)

func TestOvertime(t *testing.T) {
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name             string
		timeout, silence api.Seconds
		state            api.State
		after            time.Duration
		want             string
	}{
		{"no limits", 0, 0, api.Building, time.Hour, ""},
		{"early", 10, 10, api.Building, 5 * time.Second, ""},
		{"timeout", 10, 0, api.Building, 10 * time.Second, "timeout"},
		{"timeout, by a clock of whole seconds", 3, 0, api.Building, 2100 * time.Millisecond, "timeout"},
		{"timeout while it waits", 10, 0, api.Queued, 11 * time.Second, "timeout"},
		{"a limit of a second", 1, 0, api.Building, 400 * time.Millisecond, ""},
		{"silence", 0, 3, api.Building, 3 * time.Second, "silence"},
		{"silence in the queue", 0, 3, api.Queued, time.Minute, ""},
	} {
		d := &Delivery{said: begun}
		b := &api.Build{Request: api.Request{Timeout: tt.timeout, MaxSilentTime: tt.silence}, State: tt.state, Submitted: begun}
		got := ""
		if f := d.Overtime(b, begun.Add(tt.after)); f != nil {
			got = f.Kind
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
