package hooks

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"lighter/internal/api"
)

// TestRecent: readers at any place see each event once and in order, whatever others
// have read before, also where some are pruned.
func TestRecent(t *testing.T) {
	m := newMemory()
	r := &recent{ledger: m, max: 10}
	for range 100 {
		m.emit(api.Event{Machine: "m"})
	}
	// Pruned events are those that the ledger does not have.
	var left []api.Event
	for _, ev := range m.events {
		if ev.Seq%7 != 0 && (ev.Seq < 40 || ev.Seq > 60) {
			left = append(left, ev)
		}
	}
	pruned := &prunedLedger{m, left}
	r.ledger = pruned
	for try := range 2000 {
		from := uint64(rand.IntN(100)) + 1
		last := from + uint64(rand.IntN(100-int(from)+1))
		var got, want []uint64
		err := r.read(t.Context(), from, last, func(ev api.Event) error {
			if ev.Seq <= last { // there may be more meanwhile
				got = append(got, ev.Seq)
			}
			return nil
		})
		for _, ev := range left {
			if ev.Seq >= from && ev.Seq <= last {
				want = append(want, ev.Seq)
			}
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("try %d, %d to %d: got %v, %v, want %v", try, from, last, got, err, want)
		}
		if len(r.events) > r.max {
			t.Fatalf("%d events are kept", len(r.events))
		}
	}
}
