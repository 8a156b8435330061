package tally

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
)

func TestHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hour{}
		for _, step := range []struct {
			sleep time.Duration
			add   int
			want  int
		}{
			{0, 3, 3},
			{30 * time.Minute, 2, 5},
			{29 * time.Minute, 0, 5},
			{time.Minute, 0, 2},
			{time.Minute, 1, 3},
			{59 * time.Minute, 0, 1},
			{5 * time.Hour, 0, 0},
			{0, 1, 1},
		} {
			time.Sleep(step.sleep)
			for range step.add {
				h.add(time.Now())
			}
			if got := h.sum(time.Now()); got != step.want {
				t.Errorf("at %s: %d, want %d", time.Now().Format(time.TimeOnly), got, step.want)
			}
		}
	})
}

// TestSystemsAreBounded shows that derivations with endless systems don't fill the memory.
func TestSystemsAreBounded(t *testing.T) {
	n := New()
	builds := make([]api.Build, 3*maxSystems)
	as := make([]As, len(builds))
	for i := range builds {
		builds[i] = api.Build{System: fmt.Sprint("s", i), State: api.Queued}
		n.Count(&builds[i], &as[i])
	}
	if len(n.live) != maxSystems+1 || n.live[otherSystem].queued != 2*maxSystems {
		t.Errorf("%d systems, %+v", len(n.live), n.live[otherSystem])
	}
	for i := range builds {
		builds[i].State = api.Canceled
		n.Count(&builds[i], &as[i])
	}
	for system, l := range n.live {
		if *l != (live{}) {
			t.Errorf("%s: %+v", system, l)
		}
	}
}

func TestChanged(t *testing.T) {
	n := New()
	start := time.Unix(1e9, 0)
	change := func(b *api.Build, as *As, states ...api.State) {
		for _, b.State = range states {
			n.Changed(b, as, start.Add(30*time.Minute))
		}
	}
	for i := range MaxFailures + 3 {
		b := &api.Build{Request: api.Request{ID: fmt.Sprint(i)}, System: "x", State: api.Waiting, Attempt: 1}
		var as As
		n.Count(b, &as)
		change(b, &as, api.Queued, api.Building, api.Fetching, api.Failed, api.Failed) // the last is saved twice
	}
	var forAnother, there, canceled, under As
	change(&api.Build{System: "y"}, &forAnother, api.Queued, api.DependencyFailed)
	change(&api.Build{System: "y"}, &there, api.Queued, api.Succeeded) // its outputs were there
	change(&api.Build{System: "y"}, &canceled, api.Queued, api.Canceled)
	change(&api.Build{System: "y"}, &under, api.Placed)
	if n.Finals[api.Failed] != MaxFailures+3 || n.Finals[api.Canceled] != 1 || n.Finals[api.DependencyFailed] != 1 || len(n.Finals) != 4 {
		t.Errorf("got %v", n.Finals)
	}
	if len(n.Failures) != MaxFailures || n.Failures[0].ID != fmt.Sprint(MaxFailures+2) {
		t.Errorf("%d failures, the last is %s", len(n.Failures), n.Failures[0].ID)
	}
	want := []api.SystemQueue{{System: "x", Rate: 2 * (MaxFailures + 3)}, {System: "y", Running: 1}}
	if got := n.Queues(start.Add(30*time.Minute), start); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := n.Queues(start.Add(3*time.Hour), start); len(got) != 1 || got[0].System != "y" || got[0].Rate != 0 {
		t.Errorf("much later: %+v", got)
	}
}
