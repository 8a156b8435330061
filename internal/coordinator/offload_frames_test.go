package coordinator

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/store"
)

func TestOffloadWithoutUpgrade(t *testing.T) {
	f := newHookFarm(t, nil)
	conn, err := net.Dial("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /v1/offload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	var e api.Error
	if !strings.HasPrefix(head, "HTTP/1.1 426 ") || json.Unmarshal([]byte(body), &e) != nil || e.Code != api.CodeBadRequest || !strings.Contains(e.Message, hookapi.Protocol) {
		t.Errorf("got %s\n%s", head, body)
	}
	if !strings.Contains(head, "Upgrade: "+hookapi.Protocol) {
		t.Errorf("the answer names no protocol:\n%s", head)
	}
}

// TestOffloadIsNotForClients has a client ask for what only a hook can take.
func TestOffloadIsNotForClients(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	conn, err := net.Dial("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"builds":[{"derivation":"` + string(f.drv("one", "")) + `","offload":true}]}`
	fmt.Fprintf(conn, "POST /v1/builds HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), "build hooks") {
		t.Errorf("got %s, %v", answer, err)
	}
	f.over()
}

// TestOffloadBadFrames has a hook break the rules: the conversation ends, and what was
// under way for it is canceled.
func TestOffloadBadFrames(t *testing.T) {
	for name, write := range map[string]func(conn net.Conn) error{
		"nothing":           func(net.Conn) error { return nil },
		"garbage":           func(conn net.Conn) error { _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n"); return err },
		"half a frame":      func(conn net.Conn) error { _, err := io.WriteString(conn, "a\x00\x00"); return err },
		"reply":             func(conn net.Conn) error { return hookapi.WriteJSON(conn, hookapi.Reply, hookapi.Answer{}) },
		"delivered":         func(conn net.Conn) error { return hookapi.WriteJSON(conn, hookapi.Delivered, hookapi.Receipt{}) },
		"ask without JSON":  func(conn net.Conn) error { return hookapi.Write(conn, hookapi.Ask, []byte("{")) },
		"ask of a bad path": func(conn net.Conn) error { return hookapi.Write(conn, hookapi.Ask, []byte(`{"derivation":"/etc/x"}`)) },
		"build without JSON": func(conn net.Conn) error {
			return hookapi.Write(conn, hookapi.Build, []byte("[1]"))
		},
		"build that is too long": func(conn net.Conn) error {
			_, err := conn.Write(binary.BigEndian.AppendUint32([]byte{byte(hookapi.Build)}, hookapi.MaxFrame+1))
			return err
		},
		"64 MiB of spaces": func(conn net.Conn) error {
			return hookapi.Write(conn, hookapi.Build, []byte(strings.Repeat(" ", hookapi.MaxFrame)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			conn, r, err := hookapi.Dial(f.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := write(conn); err != nil {
				t.Fatal(err)
			}
			conn.(*net.UnixConn).CloseWrite()
			if kind, payload, err := r.Next(); err == nil {
				t.Errorf("got a frame %q %s", kind, payload)
			}
			f.over()
		})
	}
}

func TestOffloadBadOrders(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	drv, other := f.drv("one", "hold"), f.drv("other", "")
	client := f.submit(drv)[0]
	f.awaitState(client, api.Building)
	out := []store.Path{f.output(drv)}
	for name, c := range map[string]struct {
		order hookapi.Order
		want  string
	}{
		"no id":           {hookapi.Order{Derivation: drv, Outputs: out}, "without an id"},
		"bad id":          {hookapi.Order{ID: "../x", Derivation: drv, Outputs: out}, "not a UUID"},
		"a client's id":   {hookapi.Order{ID: client, Derivation: drv, Outputs: out}, "a client's build"},
		"another's id":    {hookapi.Order{ID: client, Derivation: other, Outputs: []store.Path{f.output(other)}}, "is the id of a build of"},
		"no derivation":   {hookapi.Order{ID: newID(), Outputs: out}, "not a derivation"},
		"no outputs":      {hookapi.Order{ID: newID(), Derivation: drv}, "no output"},
		"another's":       {hookapi.Order{ID: newID(), Derivation: drv, Outputs: []store.Path{f.output(other)}}, "are its outputs"},
		"an output twice": {hookapi.Order{ID: newID(), Derivation: drv, Outputs: append(out, out...)}, "are its outputs"},
		"negative time":   {hookapi.Order{ID: newID(), Derivation: drv, Outputs: out, Timeout: -1}, "not negative"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &fakeHook{f: f, got: make(map[store.Path]bool), order: c.order}
			h.start()
			r := h.result()
			if r.State != api.Failed || r.Failure == nil || r.Failure.Culprit != api.CulpritCoordinator || !strings.Contains(r.Failure.Message, c.want) {
				t.Errorf("got %+v, %+v, want a failure with %q", r, r.Failure, c.want)
			}
		})
	}
	if b := f.awaitState(client, api.Building); b.Attempt != 1 {
		t.Errorf("the client's build is %+v", b)
	}
	f.releaseAll("one")
	f.awaitState(client, api.Succeeded)
	f.over()
	if n := f.records(); n != 1 {
		t.Errorf("the ledger has %d builds, want the client's", n)
	}
}

// TestOffloadRulesBrokenAfterTheOrder has a hook say what is not its turn to say while it
// has something built.
func TestOffloadRulesBrokenAfterTheOrder(t *testing.T) {
	for name, write := range map[string]func(conn net.Conn) error{
		"ask":       func(conn net.Conn) error { return hookapi.WriteJSON(conn, hookapi.Ask, hookapi.Question{}) },
		"build":     func(conn net.Conn) error { return hookapi.WriteJSON(conn, hookapi.Build, hookapi.Order{}) },
		"delivered": func(conn net.Conn) error { return hookapi.WriteJSON(conn, hookapi.Delivered, hookapi.Receipt{}) },
		"delivered first": func(conn net.Conn) error {
			return hookapi.WriteJSON(conn, hookapi.Delivered, hookapi.Receipt{Number: 1})
		},
		"delivered badly":  func(conn net.Conn) error { return hookapi.Write(conn, hookapi.Delivered, nil) },
		"unknown":          func(conn net.Conn) error { _, err := io.WriteString(conn, "?\x00\x00\x00\x00"); return err },
		"too much at once": func(conn net.Conn) error { _, err := io.WriteString(conn, "d\xff\xff\xff\xff"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			h := f.hook(f.drv("one", "hold"))
			h.awaitState(api.Building)
			if err := write(h.conn); err != nil {
				t.Fatal(err)
			}
			<-h.over
			f.canceled(h)
			f.over()
		})
	}
}

// TestOffloadReceiptTwice has a hook answer to an archive twice. The second comes while the
// first was not taken yet, or for what is void.
func TestOffloadReceiptTwice(t *testing.T) {
	f := newHookFarm(t, func(c *Config) { c.Limits.MaxAttempts = 3 }, "m1")
	h := f.newHook(f.drv("one", ""))
	h.early = func(int) *hookapi.Receipt { return &hookapi.Receipt{Error: "refused"} }
	h.onReceive(func(int, []byte) hookapi.Receipt { return hookapi.Receipt{Error: "again"} })
	h.start()
	<-h.over
	if b := f.awaitFinal(h.order.ID); b.State != api.Failed && b.State != api.Canceled {
		t.Errorf("got %+v", b)
	}
	f.over()
}

// TestOffloadShutdown stops the coordinator with hooks in every state: the server's shutdown
// has nothing to wait for.
func TestOffloadShutdown(t *testing.T) {
	f := newHookFarm(t, nil, "m1")
	asking, _, err := hookapi.Dial(f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer asking.Close()
	building := f.hook(f.drv("one", "log=x hold"))
	building.awaitLog("x")
	began, release := f.holdExport("m1")
	defer release()
	fetching := f.hook(f.drv("two", ""))
	<-began
	// One that does not read what it is sent.
	deaf, _, err := hookapi.Dial(f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	three := f.drv("three", "")
	if err := hookapi.WriteJSON(deaf, hookapi.Build, hookapi.Order{ID: newID(), Derivation: three, Outputs: []store.Path{f.output(three)}}); err != nil {
		t.Fatal(err)
	}
	<-began
	start := time.Now()
	f.stop()
	if err := <-f.farm.over; err != nil {
		t.Error(err)
	}
	if err := f.server.Shutdown(t.Context()); err != nil && !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	<-building.over
	<-fetching.over
	if _, err := io.ReadAll(asking); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	f.farm.over <- nil // for shutDown
}
