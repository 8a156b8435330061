package coordinator

import (
	"context"
	"errors"
	"testing"
	"time"

	"lighter/internal/api"
)

func TestAttached(t *testing.T) {
	f := newFarm(t, func(cfg *Config) { cfg.Limits.AttachGrace = 50 * time.Millisecond }, "m1")
	client := serveAPI(t, f)
	drv := f.drv("one", "hold")
	id := f.request(api.Request{Derivation: drv, Attached: true})[0]
	stay := f.submit(drv)[0] // of the same, which nobody has to hold
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { left <- client.Attach(ctx, id) }()
	f.until("the client is attached", func() (ok bool) {
		if err := f.c.do(t.Context(), func(l *loop) { ok = l.attached[id] == 1 }); err != nil {
			t.Fatal(err)
		}
		return ok
	})
	f.awaitState(id, api.Building)
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("attach: %v", err)
	}
	if b := f.awaitState(id, api.Canceled); b.Reason != "its clients are gone" {
		t.Errorf("got %+v", b)
	}
	f.agents["m1"].release("one")
	f.awaitState(stay, api.Succeeded)
	if err := client.Attach(t.Context(), stay); err == nil {
		t.Error("a build of another kind was attached to")
	}
	f.idle()
}

func TestAttachedAfterRestart(t *testing.T) {
	f := newFarm(t, func(cfg *Config) { cfg.Limits.AttachGrace = 50 * time.Millisecond }, "m1")
	id := f.request(api.Request{Derivation: f.drv("one", "hold"), Attached: true})[0]
	f.crash()
	f.start()
	f.awaitState(id, api.Canceled)
	f.idle()
}
