package coordinator

import (
	"context"
	"strings"
	"testing"

	"lighter/internal/api"
)

// TestStandInsAreCounted says how many builds were made anew in place of canceled ones: none of what
// was needed only by what is canceled too.
func TestStandInsAreCounted(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "hold")
	top := f.drv("top", "", base)
	ids := f.submit(base, top)
	f.awaitState(ids[0], api.Building)
	f.awaitState(ids[1], api.Waiting)
	if canceled, made, err := f.c.Cancel(t.Context(), ids[:1], ""); err != nil || len(canceled) != 1 || made != 1 {
		t.Errorf("canceled %v, %d made anew, %v; want one", canceled, made, err)
	}
	again := f.submit(base)[0]
	f.awaitState(again, api.Building)
	f.cancel(ids[1])
	if _, made, err := f.c.Cancel(t.Context(), []string{again}, ""); err != nil || made != 0 {
		t.Errorf("%d made anew, %v; want none", made, err)
	}
	f.idle()
}

func (f *farm) cancel(ids ...string) {
	f.t.Helper()
	if _, _, err := f.c.Cancel(f.t.Context(), ids, ""); err != nil {
		f.t.Fatal(err)
	}
}

func TestCancelWhileBuilding(t *testing.T) {
	f := newFarm(t, nil, "m1")
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	f.cancel(id)
	if b := f.awaitState(id, api.Canceled); b.Stopped == nil {
		t.Errorf("got %+v, want the time", b)
	}
	f.idle()
	if n := f.agents["m1"].count("one"); n != 0 {
		t.Errorf("it was built %d times", n)
	}
}

func TestCancelWaitingCancelsWhatItNeeds(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "hold")
	id := f.submit(f.drv("top", "", base))[0]
	f.awaitState(id, api.Waiting)
	f.awaitChild(base, api.Building)
	f.cancel(id)
	f.awaitState(id, api.Canceled)
	f.awaitChild(base, api.Canceled)
	f.idle()
}

func TestCancelKeepsWhatOthersNeed(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "hold")
	first := f.submit(base)[0]
	f.awaitState(first, api.Building)
	second := f.submit(f.drv("top", "", base))[0]
	f.awaitState(second, api.Waiting)
	f.cancel(first)
	f.awaitState(first, api.Canceled)
	f.agents["m1"].release("base")
	f.awaitState(second, api.Succeeded)
	if n := f.agents["m1"].count("base"); n != 1 {
		t.Errorf("base was built %d times", n)
	}
	f.idle()
}

func TestCancelInternalCancelsThoseThatNeedIt(t *testing.T) {
	f := newFarm(t, nil, "m1")
	base := f.drv("base", "hold")
	id := f.submit(f.drv("top", "", base))[0]
	child := f.awaitChild(base, api.Building)
	f.cancel(child.ID)
	if b := f.awaitState(id, api.Canceled); b.Failure != nil || !strings.Contains(b.Reason, "needs base, which was canceled") {
		t.Errorf("got %+v", b)
	}
	f.awaitState(child.ID, api.Canceled)
	f.idle()
}

func TestCancelQueued(t *testing.T) {
	f := newFarm(t, nil, "m1")
	plugs := f.submit(f.drv("a", "hold"), f.drv("b", "hold"))
	for _, id := range plugs {
		f.awaitState(id, api.Building)
	}
	id := f.submit(f.drv("c", ""))[0]
	f.cancel(id)
	f.awaitState(id, api.Canceled)
	f.cancel(plugs...)
	for _, id := range plugs {
		f.awaitState(id, api.Canceled)
	}
	if canceled, _, err := f.c.Cancel(t.Context(), plugs, ""); err != nil || len(canceled) != 0 {
		t.Errorf("canceling again: %v, %v; want none", canceled, err)
	}
	f.idle()
}

func TestCancelOneOfTwo(t *testing.T) {
	f := newFarm(t, nil, "m1")
	drv := f.drv("one", "hold")
	ids := f.submit(drv, drv)
	f.awaitState(ids[0], api.Building)
	f.cancel(ids[0])
	f.awaitState(ids[0], api.Canceled)
	f.agents["m1"].release("one")
	f.awaitState(ids[1], api.Succeeded)
	f.idle()
}

func TestCancelWhileSendingAndFetching(t *testing.T) {
	for name, c := range map[string]struct {
		state api.State
		hook  func(a *fakeAgent, hold func(context.Context))
	}{
		"sending":  {api.Sending, func(a *fakeAgent, hold func(context.Context)) { a.onImport = hold }},
		"fetching": {api.Fetching, func(a *fakeAgent, hold func(context.Context)) { a.onExport = hold }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFarm(t, nil, "m1")
			a := f.agents["m1"]
			begun, ended := make(chan struct{}), make(chan struct{})
			a.set(func(a *fakeAgent) {
				c.hook(a, func(ctx context.Context) {
					close(begun)
					<-ctx.Done()
					close(ended)
				})
			})
			id := f.submit(f.drv("one", ""))[0]
			f.awaitState(id, c.state)
			<-begun
			f.cancel(id)
			f.awaitState(id, api.Canceled)
			<-ended // the stream ends, since nobody wants what it carries
			f.idle()
			f.until("no transfer is left", func() bool { return len(f.c.moving.List()) == 0 })
		})
	}
}
