package standstill

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"lighter/scheduler"
)

func TestIdle(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	queued := func(id string) (Queued, bool) { return Queued{"/gnu/store/x.drv", noon}, id != "gone" }
	build := func(id string) *scheduler.Build { return &scheduler.Build{ID: id} }
	plan := scheduler.Plan{
		Assignments: []scheduler.Assignment{{Build: build("late"), Machine: "m1"}, {Build: build("gone"), Machine: "m1"}},
		Deferrals:   []scheduler.Deferral{{Build: build("kept"), Machine: "m2"}, {Build: build("gone"), Machine: "m2"}},
	}
	var l Log
	for _, tt := range []struct {
		after      time.Duration
		bugs, news int
	}{
		{59 * time.Second, 0, 0},
		{time.Minute, 1, 1},
		{2 * time.Minute, 1, 0},
		{11 * time.Minute, 1, 1},
	} {
		text.Reset()
		l.Idle(log, plan, noon.Add(tt.after), time.Minute, queued)
		bugs, news := strings.Count(text.String(), "bug in lighter"), strings.Count(text.String(), "a build waits")
		if bugs != tt.bugs || news != tt.news || strings.Contains(text.String(), "gone") {
			t.Errorf("after %s: %s", tt.after, &text)
		}
	}
	if l.Forget("kept"); len(l.idle) != 0 {
		t.Error("a build that is over is remembered")
	}
}
