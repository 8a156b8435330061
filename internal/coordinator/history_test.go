package coordinator

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lighter/internal/api"
)

// The history of a farm has what ended, what was used and what waited; a restart keeps it, and what was while no coordinator
// ran is not known.
func TestHistory(t *testing.T) {
	noon := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	var passed atomic.Int64 // seconds
	now := func() time.Time { return noon.Add(time.Duration(passed.Load()) * time.Second) }
	f := newFarm(t, func(c *Config) { c.Now = now }, "m1")
	f.until("the machine is up", func() bool {
		list, err := f.c.Machines(t.Context())
		return err == nil && list[0].State == api.MachineUp
	})
	ask := func(q api.HistoryQuery) *api.History {
		t.Helper()
		client, closeAll := f.serve(socketOf(t))
		defer closeAll()
		h, err := client.History(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	pass := func(seconds int64) { // until the loop's clock ticks
		passed.Add(seconds)
		if err := f.c.durable(t.Context(), func(l *loop) error {
			l.read(l.now(), false)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}

	f.awaitState(f.submit(f.drv("good", ""))[0], api.Succeeded)
	bad := f.drv("bad", "fail")
	f.awaitState(f.submit(f.drv("needs-bad", "", bad), bad)[1], api.Failed)
	held := f.submit(f.drv("held", "hold"), f.drv("held2", "hold"), f.drv("third", ""))
	<-f.agents["m1"].held
	<-f.agents["m1"].held
	pass(150)
	f.agents["m1"].release("held2")
	f.awaitFinal(held[1])
	f.awaitFinal(held[2])
	pass(150)
	pass(60)
	f.shutDown()
	passed.Add(10 * 60)
	f.start()
	f.until("the build was taken up", func() bool {
		status, err := f.c.Status(t.Context())
		return err == nil && len(status.Running) == 1
	})
	pass(240)

	h := ask(api.HistoryQuery{Since: noon, Until: noon.Add(time.Hour)})
	var at []string
	for _, p := range h.Times {
		at = append(at, p.Format("15:04"))
	}
	if text := strings.Join(at, " "); text != "12:00 12:05 12:15" || h.Covered[0] != 300 || h.Covered[1] != 60 {
		t.Fatalf("readings of %s, of %v seconds", text, h.Covered)
	}
	s := h.Systems[0]
	if s.System != "x86_64-linux" || s.Succeeded[0] != 3 || s.Failed[0] != 1 || s.Other[0] != 1 || s.Running[0] != 1 {
		t.Errorf("got %+v", s)
	}
	m := h.Machines[0]
	if m.Machine != "m1" || m.Slots[0] != 2 || m.Used[0] != 1.5 || m.Used[1] != 1 || len(h.Machines) != 1 {
		t.Errorf("got %+v", m)
	}
	if h := ask(api.HistoryQuery{Since: noon, Until: noon.Add(time.Hour), Step: 3600, Summary: true}); len(h.Times) != 1 || h.Machines != nil || h.Systems[0].Succeeded[0] != 3 || h.Slots[0] != 2 {
		t.Errorf("an hour: %+v", h)
	}
	f.agents["m1"].release("held")
	f.awaitFinal(held[0])
}

func TestHistoryIsBounded(t *testing.T) {
	f := newFarm(t, nil)
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	now := time.Now()
	for want, q := range map[string]api.HistoryQuery{
		"step 299: want whole seconds from 300":              {Step: 299},
		"at most 2000 are answered; a step of 2100 would do": {Since: now.Add(-48 * 24 * time.Hour), Until: now},
		"want a time before until":                           {Since: now.Add(time.Hour)},
		"machine has 300 bytes":                              {Machine: strings.Repeat("m", 300)},
	} {
		if _, err := client.History(t.Context(), q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	// What it advises is taken, however long ago it is.
	for _, since := range []time.Time{now.Add(-48 * 24 * time.Hour), time.Unix(0, 0), now.Add(-2001 * 300 * time.Second)} {
		q := api.HistoryQuery{Since: since, Until: now, Step: 300}
		err := q.Check()
		_, advice, _ := strings.Cut(err.Error(), "a step of ")
		parsed, err := time.ParseDuration(strings.TrimSuffix(advice, " would do") + "s")
		q.Step = api.Seconds(parsed.Seconds())
		if h, err2 := client.History(t.Context(), q); err != nil || err2 != nil || len(h.Times) != 0 {
			t.Errorf("since %s, %s: %v, %v", since, advice, err, err2)
		}
	}
}
