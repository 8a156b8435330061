package coordinator

import (
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/stage"
)

// stageOf returns the stage of a build's task.
func (f *farm) stageOf(id string) (s stage.Stage) {
	f.t.Helper()
	s = stage.Over
	if err := f.c.do(f.t.Context(), func(l *loop) {
		if lb := l.builds[id]; lb != nil {
			s = lb.task.stage
		}
	}); err != nil {
		f.t.Fatal(err)
	}
	return s
}

// TestCanceledInEachStage cancels builds wherever they may be: nothing of them is left, here or on
// the machine.
func TestCanceledInEachStage(t *testing.T) {
	f := newFarm(t, func(c *Config) {
		c.Limits.AttemptDelay = time.Hour
		c.HeadSpace = func() (api.HeadStatus, error) { return api.HeadStatus{FreeDisk: 1}, nil } // no outputs fit
	}, "m1")
	ids := map[stage.Stage]string{
		stage.Delayed:   f.submit(f.drv("delayed", "machine"))[0],
		stage.Postponed: f.submit(f.drv("postponed", ""))[0],
	}
	for s, id := range ids {
		f.until(s.String(), func() bool { return f.stageOf(id) == s })
	}
	held := f.drv("held", "hold")
	ids[stage.Working] = f.submit(held)[0]
	f.submit(f.drv("other", "hold"))
	ids[stage.Queued] = f.submit(f.drv("queued", ""))[0]
	ids[stage.Waiting] = f.submit(f.drv("waiting", "", held))[0]
	for s, id := range ids {
		f.until(s.String(), func() bool { return f.stageOf(id) == s })
	}
	for _, s := range []stage.Stage{stage.Waiting, stage.Queued, stage.Delayed, stage.Postponed, stage.Working} {
		if _, _, err := f.c.Cancel(t.Context(), []string{ids[s]}, "a test"); err != nil {
			t.Fatal(err)
		}
		if got := f.stageOf(ids[s]); got != stage.Over {
			t.Errorf("from %s it is %s", s, got)
		}
		f.awaitState(ids[s], api.Canceled)
	}
	if err := f.c.do(t.Context(), func(l *loop) {
		if len(l.tasks) != 1 || len(l.delayed) != 0 || l.queue.Len() != 0 {
			t.Errorf("left are %d tasks, %d of them delayed, %d in the queue", len(l.tasks), len(l.delayed), l.queue.Len())
		}
	}); err != nil {
		t.Fatal(err)
	}
	f.releaseAll("other")
}

// TestInputDoneMeanwhile has an input be done and gone between the walk that saw that it is being
// built and what follows from the walk: what needs it is looked at again, and not built without it.
func TestInputDoneMeanwhile(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "")
	f.awaitState(f.submit(base)[0], api.Succeeded)
	middle := f.drv("middle", "", base)
	node, err := f.c.head.Node(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	f.c.live.Store(base, node)
	id := f.submit(f.drv("top", "", middle))[0]
	for range 2 { // of which the second began after the first had looked at top
		walked := make(chan struct{})
		f.c.post(func(l *loop) { l.questions.Put(question{whenDone: func() { close(walked) }}) })
		<-walked
	}
	if err := f.c.do(t.Context(), func(l *loop) {
		if m := l.tasks[middle]; m == nil || m.stage != stage.Looking {
			t.Errorf("middle is not looked at again: %+v", m)
		}
	}); err != nil {
		t.Fatal(err)
	}
	f.c.live.Delete(base)
	f.awaitState(id, api.Succeeded)
	f.idle()
}
