package ledger

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lighter/internal/api"
	"lighter/internal/history"
)

// hourOf returns an hour as it is stored.
func hourOf(t testing.TB, number int64) []byte {
	t.Helper()
	value, err := (&history.Hour{Number: number, Parts: []int{0}, Covered: []int64{300}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// numbers lists the hours that the ledger has from one number to another.
func numbers(t *testing.T, l *Ledger, first, last int64) (list []int64) {
	t.Helper()
	if err := l.Hours(t.Context(), first, last, func(h *history.Hour) error {
		list = append(list, h.Number)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestHours(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "ledger", Options{FS: mem})
	const begin = 500_000
	for i := range int64(history.Keep/time.Hour) + 10 {
		h := &history.Hour{Number: begin + i, Parts: []int{3}, Covered: []int64{300}}
		apply(t, l, Change{Hour: h}, Change{Hour: &history.Hour{Number: begin + i, Parts: []int{3, 4}, Covered: []int64{300, 200}}})
	}
	check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, "ledger", Options{FS: mem})
	check(t, l)
	if got := numbers(t, l, begin+100, begin+102); !slices.Equal(got, []int64{begin + 100, begin + 101, begin + 102}) {
		t.Errorf("got %v", got)
	}
	all := numbers(t, l, -1e9, 1e9)
	if want := int64(begin + 9); len(all) != int(history.Keep/time.Hour)+1 || all[0] != want {
		t.Errorf("%d hours are there, from %d on; want %d", len(all), all[0], want)
	}
	if got := numbers(t, l, -9, -1); got != nil {
		t.Errorf("got %v", got)
	}
	enough := errors.New("enough")
	if err := l.Hours(t.Context(), 0, 1e9, func(h *history.Hour) error {
		if len(h.Parts) != 2 {
			t.Errorf("the newest is not there: %+v", h)
		}
		return enough
	}); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkHours writes a month of 200 machines and 4 systems as a coordinator does, every 5 minutes, and tells how
// much of the disk that takes in the end.
func BenchmarkHours(b *testing.B) {
	for b.Loop() {
		dir := b.TempDir()
		l := open(b, dir, Options{MinFree: -1})
		month(b, l)
		if err := l.db.Compact(b.Context(), []byte{prefixHour}, []byte{prefixHour + 1}, false); err != nil {
			b.Fatal(err)
		}
		m := l.db.Metrics()
		b.ReportMetric(float64(m.Total().TablesSize)/1e6, "MB")
		began := time.Now()
		steps := history.NewSteps(api.HistoryQuery{Since: firstDay, Until: firstDay.Add(31 * 24 * time.Hour), Step: 6 * 3600})
		first, last := steps.Hours()
		if err := l.Hours(b.Context(), first, last, steps.Add); err != nil || len(steps.History().Times) != 124 {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/read")
	}
}

var firstDay = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// month has machines that are wholly used by day, and partly by night.
func month(b *testing.B, l *Ledger) {
	random := rand.New(rand.NewPCG(1, 2))
	book := history.NewBook(firstDay, nil)
	machines := make([]api.MachineStatus, 200)
	queues := make([]api.SystemQueue, 4)
	for now := firstDay; now.Before(firstDay.Add(31 * 24 * time.Hour)); {
		next := now.Add(history.Interval)
		for i := range machines {
			m := &machines[i]
			m.Name, m.ParallelBuilds, m.State = fmt.Sprintf("builder-%03d.example.org", i), 2+i%7, api.MachineUp
			busy := m.ParallelBuilds
			if now.Hour() < 8 && i%3 > 0 {
				busy = random.IntN(m.ParallelBuilds + 1)
			}
			m.Load = (float64(busy)*3 + random.Float64()) / 16
			for range busy {
				book.Used(m.Name, now, next.Add(-time.Duration(random.IntN(4)*random.IntN(10))*time.Second)) // it is free between builds
			}
		}
		for i := range queues {
			queues[i] = api.SystemQueue{System: fmt.Sprintf("system%d-linux", i), Queued: random.IntN(5000), Waiting: random.IntN(9000), Running: random.IntN(400)}
			for range random.IntN(100) {
				book.Ended(queues[i].System, api.Succeeded, true)
			}
		}
		now = next
		if _, err := l.Apply(b.Context(), []Change{{Hour: book.Read(now, queues, machines)}}, false); err != nil {
			b.Fatal(err)
		}
	}
}
