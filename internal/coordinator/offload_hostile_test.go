package coordinator

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/hookapi"
	"lighter/store"
)

// TestOffloadAnothersBuild has a hook order with the id of another hook's build, which
// everybody may see. The other one notices nothing.
func TestOffloadAnothersBuild(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	drv, second := f.drv("one", "log=x hold"), f.drv("two", "")
	own := f.newHook(drv)
	var err error
	if own.order.ID, own.order.Secret, err = hookapi.NewID(); err != nil {
		t.Fatal(err)
	}
	own.start()
	own.awaitState(api.Building)
	for _, secret := range []string{"", "x", strings.Repeat("0", 32)} {
		for _, of := range []store.Path{drv, second} {
			thief := f.newHook(of)
			thief.order.ID, thief.order.Secret = own.order.ID, secret
			thief.start()
			if r := thief.result(); r.State != api.Failed || r.Failure == nil || !strings.Contains(r.Failure.Message, "another hook") {
				t.Errorf("secret %q: got %+v, %+v", secret, r, r.Failure)
			}
			thief.leave()
		}
	}
	f.releaseAll("one")
	if b := own.succeeds(); b.Attempt != 1 || f.built("one") != 1 {
		t.Errorf("it took %d attempts, and was built %d times", b.Attempt, f.built("one"))
	}
	f.over()
}

// TestOffloadHookComesBackWithItsSecret is what the secret is for.
func TestOffloadHookComesBackWithItsSecret(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	h := f.newHook(f.drv("one", "hold"))
	var err error
	if h.order.ID, h.order.Secret, err = hookapi.NewID(); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.awaitState(api.Building)
	f.restart("crash")
	h.start()
	f.releaseAll("one")
	h.succeeds()
	f.over()
}

// TestOffloadHostileOrders orders what no hook would.
func TestOffloadHostileOrders(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	drv := f.drv("one", "")
	out := []store.Path{f.output(drv)}
	for name, c := range map[string]struct {
		order hookapi.Order
		want  string
	}{
		"many outputs": {hookapi.Order{ID: newID(), Derivation: drv, Outputs: many(257, out[0])}, "257 outputs"},
		"for ever":     {hookapi.Order{ID: newID(), Derivation: drv, Outputs: out, Timeout: 1e18}, "time limit"},
		"log of -1":    {hookapi.Order{ID: newID(), Derivation: drv, Outputs: out, LogAttempt: -1}, "attempt -1"},
		"log at -1":    {hookapi.Order{ID: newID(), Derivation: drv, Outputs: out, LogAttempt: 1, LogOffset: -1}, "-1 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &fakeHook{f: f, got: make(map[store.Path]bool), order: c.order}
			h.start()
			if r := h.result(); r.State != api.Failed || r.Failure == nil || !strings.Contains(r.Failure.Message, c.want) {
				t.Errorf("got %+v, %+v, want a failure with %q", r, r.Failure, c.want)
			}
		})
	}
	if n := f.records(); n != 0 {
		t.Errorf("the ledger has %d builds", n)
	}
	long := f.newHook(drv)
	long.order.SetInputs(many(1_000_000, out[0]))
	long.start()
	long.succeeds()
	f.over()
	f.until("no long order is left", func() bool { return len(f.c.forDeliveries.LongOrders) == 0 })
}

// TestOffloadLongOrders announces more of them than there is room for: they wait, and none
// is kept when its hook goes.
func TestOffloadLongOrders(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	header := binary.BigEndian.AppendUint32([]byte{byte(hookapi.Build)}, hookapi.MaxFrame)
	var conns []net.Conn
	for range 5 * delivery.MaxLongOrders {
		conn, _, err := hookapi.Dial(f.socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(append(header, "{\"id\":"...)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	f.until("all places are taken", func() bool { return len(f.c.forDeliveries.LongOrders) == delivery.MaxLongOrders })
	f.hook(f.drv("one", "")).succeeds() // a short one waits for none of them
	for _, conn := range conns {
		conn.Close()
	}
	f.until("no long order is left", func() bool { return len(f.c.forDeliveries.LongOrders) == 0 })
	f.over()
}

func many(n int, p store.Path) []store.Path {
	list := make([]store.Path, n)
	for i := range list {
		list[i] = p
	}
	return list
}

// TestOffloadHostileQuestions asks what guix-daemon would not: the conversation ends.
func TestOffloadHostileQuestions(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	drv := f.drv("one", "")
	long := strings.Repeat("x", 100_000)
	for name, q := range map[string]any{
		"system":             hookapi.Question{Derivation: drv, System: long},
		"system with a line": hookapi.Question{Derivation: drv, System: "x\n@ y"},
		"feature":            hookapi.Question{Derivation: drv, System: "x86_64-linux", Features: []string{long}},
		"features":           hookapi.Question{Derivation: drv, System: "x86_64-linux", Features: strings.Split(strings.Repeat("a,", 300), ",")},
		"null":               nil,
		"source":             hookapi.Question{Derivation: f.output(drv), System: "x86_64-linux"},
		"types":              map[string]any{"derivation": drv, "system": []int{1}},
		"deep":               json.RawMessage(strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)),
	} {
		t.Run(name, func(t *testing.T) {
			conn, r, err := hookapi.Dial(f.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := hookapi.WriteJSON(conn, hookapi.Ask, q); err != nil {
				t.Fatal(err)
			}
			if kind, payload, err := r.Next(); err == nil {
				t.Errorf("got a frame %q %.200s", kind, payload)
			}
		})
	}
	f.hook(drv).succeeds()
	f.over()
}

// TestOffloadReceiptTexts has a hook refuse an archive in words that nobody should print,
// and that nobody has room for.
func TestOffloadReceiptTexts(t *testing.T) {
	f := newHookFarm(t, func(c *Config) { c.Limits.MaxAttempts = 1 }, "m1")
	h := f.newHook(f.drv("one", ""))
	h.onReceive(func(int, []byte) hookapi.Receipt {
		return hookapi.Receipt{Error: "\x1b[2J\x00" + strings.Repeat("x", 100_000)}
	})
	h.start()
	if r := h.result(); r.State != api.Failed {
		t.Fatalf("got %+v", r)
	}
	b := f.awaitState(h.order.ID, api.Failed)
	if m := b.Failure.Message; strings.ContainsAny(m, "\x1b\x00") || len(m) > api.MaxMessage {
		t.Errorf("the ledger has a message of %d bytes: %.100q", len(m), m)
	}
	f.over()
}

// TestOffloadSaysThatItIsAlive has a build wait for a long time.
func TestOffloadSaysThatItIsAlive(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	h := f.newHook(f.drv("one", "hold"))
	h.order.MaxSilentTime = 0.4
	h.start()
	h.awaitState(api.Building)
	repeated := func() (n int) {
		for _, p := range h.seen() {
			if p.State == api.Building {
				n++
			}
		}
		return n
	}
	f.until("it was said again", func() bool { return repeated() > 1 })
	// Nothing is said for a coordinator that does not go on.
	blocked, release := make(chan struct{}), make(chan struct{})
	f.c.post(func(l *loop) { close(blocked); <-release })
	<-blocked
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.c.forDeliveries.Alive(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a coordinator is alive that does nothing: %v", err)
	}
	before := repeated()
	close(release)
	f.until("it was said again", func() bool { return repeated() > before+1 })
	f.releaseAll("one")
	h.succeeds()
	f.over()
}
