package history

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func after(minutes float64) time.Time { return noon.Add(time.Duration(minutes * float64(time.Minute))) }

func TestEncode(t *testing.T) {
	long := &Hour{Number: 7, Parts: []int{0, 1, 2, 11}, Covered: []int64{1, 300, 300, 600}}
	for i := range 50 {
		long.series(&long.Systems, fmt.Sprintf("system-%d", i), systemColumns)
		m := long.series(&long.Machines, fmt.Sprintf("rack%d-machine%d", i/10, i%10), machineColumns)
		for c := range m.Columns {
			for k := range m.Columns[c] {
				m.Columns[c][k] = int64(i * k * c)
			}
		}
	}
	long.Machines[3].Columns[used][1] = maxValue
	for name, h := range map[string]*Hour{
		"least": {Number: 3, Parts: []int{11}, Covered: []int64{5}},
		"long":  long,
	} {
		value, err := h.Encode()
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := Decode(h.Number, value)
		if diff := cmp.Diff(h, got); diff != "" || err != nil {
			t.Errorf("%s: %v, %s", name, err, diff)
		}
		for n := range value {
			if _, err := Decode(h.Number, value[:n]); err == nil {
				t.Errorf("%s: %d bytes of %d are taken", name, n, len(value))
			}
		}
		if _, err := Decode(h.Number, append(slices.Clip(value), 0)); err == nil {
			t.Errorf("%s: one byte too many is taken", name)
		}
	}
}

func TestBadHours(t *testing.T) {
	for name, change := range map[string]func(h *Hour){
		"before 1970":  func(h *Hour) { h.Number = -1 },
		"no readings":  func(h *Hour) { h.Parts, h.Covered = nil, nil },
		"a part":       func(h *Hour) { h.Parts[0] = 12 },
		"order":        func(h *Hour) { h.Parts[1] = 0 },
		"no time":      func(h *Hour) { h.Covered[0] = 0 },
		"times":        func(h *Hour) { h.Covered = h.Covered[:1] },
		"no name":      func(h *Hour) { h.Machines[0].Name = "" },
		"name":         func(h *Hour) { h.Machines[0].Name = "\xff" },
		"long name":    func(h *Hour) { h.Machines[0].Name = strings.Repeat("x", api.MaxName+1) },
		"same name":    func(h *Hour) { h.Machines = append(h.Machines, h.Machines[0]) },
		"column":       func(h *Hour) { h.Machines[0].Columns = h.Machines[0].Columns[1:] },
		"value":        func(h *Hour) { h.Machines[0].Columns[used][0] = -1 },
		"high value":   func(h *Hour) { h.Systems[0].Columns[queued][0] = maxValue + 1 },
		"no values":    func(h *Hour) { h.Systems[0].Columns[queued] = nil },
		"many systems": func(h *Hour) { h.Systems = make([]Series, maxSeries+1) },
	} {
		h := &Hour{Parts: []int{0, 1}, Covered: []int64{300, 300}}
		h.series(&h.Systems, "x", systemColumns)
		h.series(&h.Machines, "m", machineColumns)
		if _, err := h.Encode(); err != nil {
			t.Fatal(err)
		}
		change(h)
		if _, err := h.Encode(); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// FuzzDecode has whatever can be read be written and read again.
func FuzzDecode(f *testing.F) {
	h := &Hour{Parts: []int{0, 3}, Covered: []int64{300, 200}}
	h.series(&h.Systems, "x86_64-linux", systemColumns).Columns[queued][1] = 9
	h.series(&h.Machines, "one", machineColumns)
	h.series(&h.Machines, "ones", machineColumns)
	value, err := h.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Fuzz(func(t *testing.T, value []byte) {
		h, err := Decode(1, value)
		if err != nil {
			return
		}
		again, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(1, again)
		if diff := cmp.Diff(h, got); diff != "" || err != nil {
			t.Error(err, diff)
		}
	})
}

// answer joins hours as a client asks for it.
func answer(t *testing.T, q api.HistoryQuery, hours ...*Hour) *api.History {
	t.Helper()
	if err := q.Check(); err != nil {
		t.Fatal(err)
	}
	s := NewSteps(q)
	for _, h := range hours {
		if err := s.Add(h); err != nil {
			t.Fatal(err)
		}
	}
	return s.History()
}

func machine(name string, slots int, load float64) api.MachineStatus {
	return api.MachineStatus{Name: name, State: api.MachineUp, ParallelBuilds: slots, Load: load}
}

func TestBook(t *testing.T) {
	queues := func(queued, running int) []api.SystemQueue {
		return []api.SystemQueue{{System: "x", Queued: queued, Waiting: 1, Running: running}}
	}
	b := NewBook(after(1), nil)
	if b.Due(after(4.9)) || !b.Due(after(5)) {
		t.Error("a reading is due at another time")
	}
	b.Used("m", after(-9), after(3)) // 2 minutes since the book began
	b.Used("m", after(1), after(2))
	b.Used("m", after(4), after(3)) // the clock was set back
	b.Ended("x", api.Succeeded, true)
	b.Ended("x", api.Succeeded, false)
	b.Ended("y", api.TimedOut, true)
	first := b.Read(after(5), queues(4, 2), []api.MachineStatus{machine("m", 2, 1.25), {Name: "down", ParallelBuilds: 7, State: api.MachineDown}})
	kept := first.clone()
	b.Used("m", after(3), after(10))
	second := b.Read(after(10.001), nil, []api.MachineStatus{machine("m", 2, 0.755), machine("n", 1, math.NaN())})
	if diff := cmp.Diff(kept, first); diff != "" {
		t.Errorf("a reading changed later: %s", diff)
	}
	if h := b.Read(after(10.002), nil, nil); h != nil {
		t.Errorf("no time has passed: %+v", h)
	}
	got := answer(t, api.HistoryQuery{Since: after(0), Until: after(15), Step: 300}, second)
	want := &api.History{
		Since: noon, Until: after(15), Step: 300, Times: []time.Time{noon, after(5)}, Covered: []api.Seconds{240, 300},
		Systems: []api.SystemHistory{
			{System: "x", Queued: []float64{4, 0}, Waiting: []float64{1, 0}, Running: []float64{2, 0}, Succeeded: []int64{1, 0}, Failed: []int64{0, 0}, Other: []int64{1, 0}},
			{System: "y", Queued: []float64{0, 0}, Waiting: []float64{0, 0}, Running: []float64{0, 0}, Succeeded: []int64{0, 0}, Failed: []int64{1, 0}, Other: []int64{0, 0}},
		},
		Slots: []float64{2, 3}, Used: []float64{0.75, 1},
		Machines: []api.MachineHistory{
			{Machine: "down", Slots: []float64{0, 0}, Used: []float64{0, 0}, Load: []float64{-1, -1}},
			{Machine: "m", Slots: []float64{2, 2}, Used: []float64{0.75, 1}, Load: []float64{1.25, 0.76}},
			{Machine: "n", Slots: []float64{0, 1}, Used: []float64{0, 0}, Load: []float64{-1, -1}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A coordinator that is started again within an interval goes on with its reading.
func TestBookGoesOn(t *testing.T) {
	b := NewBook(after(60), nil)
	b.Used("m", after(60), after(61))
	b.Ended("x", api.Succeeded, true)
	kept := b.Read(after(62), []api.SystemQueue{{System: "x", Queued: 5}, {System: "gone", Queued: 1}}, []api.MachineStatus{machine("m", 2, 1)})
	b = NewBook(after(63), kept)
	b.Ended("x", api.Succeeded, true)
	b.Used("m", after(63), after(65))
	kept = b.Read(after(65), []api.SystemQueue{{System: "x", Queued: 7}}, []api.MachineStatus{machine("m", 2, 1)})
	got := answer(t, api.HistoryQuery{Since: after(60), Until: after(65), Step: 300, Summary: true}, kept)
	x := got.Systems[1]
	if got.Covered[0] != 240 || x.Succeeded[0] != 2 || x.Queued[0] != 7 || got.Systems[0].Queued[0] != 0 || got.Used[0] != 0.75 || got.Machines != nil {
		t.Errorf("got %+v", got)
	}
	// An hour later it begins a new one, and the time between is a gap.
	b = NewBook(after(181), kept)
	late := b.Read(after(185), nil, nil)
	if late.Number != kept.Number+2 || len(late.Parts) != 1 {
		t.Errorf("got %+v", late)
	}
	if got := answer(t, api.HistoryQuery{Since: after(60), Until: after(240), Step: 3600}, kept, late); len(got.Times) != 2 || got.Covered[0] != 240 || got.Used[1] != 0 {
		t.Errorf("got %+v", got)
	}
}

// A clock that is set makes no reading longer than it can be.
func TestClockIsSet(t *testing.T) {
	b := NewBook(after(0), nil)
	if h := b.Read(after(600), nil, nil); h.Covered[0] != 600 || h.Valid() != nil {
		t.Errorf("got %+v", h)
	}
	if !b.Due(after(30)) {
		t.Error("no reading is due though the clock was set back")
	}
	if h := b.Read(after(30), nil, nil); h != nil {
		t.Errorf("got %+v", h)
	}
	if h := b.Read(after(35), nil, nil); h.Number != HourOf(after(30)) || h.Parts[1] != 6 || h.Covered[1] != 300 {
		t.Errorf("got %+v", h)
	}
}

func TestQueries(t *testing.T) {
	h := &Hour{Number: HourOf(noon), Parts: []int{0}, Covered: []int64{300}}
	for i := range 300 {
		h.series(&h.Machines, fmt.Sprint("m", i), machineColumns)
	}
	if got := answer(t, api.HistoryQuery{Since: noon, Until: after(60), Step: 300, Machine: "m7"}, h); len(got.Machines) != 1 || got.Machines[0].Machine != "m7" {
		t.Errorf("got %+v", got.Machines)
	}
	var refused *api.Error
	if err := NewSteps(api.HistoryQuery{Since: after(-9000), Until: after(900), Step: 300}).Add(h); !errors.As(err, &refused) || !strings.Contains(err.Error(), "one machine") {
		t.Errorf("got %v", err)
	}
	s := NewSteps(api.HistoryQuery{Since: after(-1), Until: after(61), Step: 600})
	if first, last := s.Hours(); first != h.Number-1 || last != h.Number+1 {
		t.Errorf("hours %d to %d, want %d to %d", first, last, h.Number-1, h.Number+1)
	}
}

// Names that can't be kept, and too many of them, are left out.
func TestNamesAreBounded(t *testing.T) {
	b := NewBook(noon, nil)
	machines := []api.MachineStatus{machine("", 1, 0), machine("\xff", 1, 0), machine(strings.Repeat("x", 1000), 1, 0)}
	for i := range 2 * maxSeries {
		machines = append(machines, machine(fmt.Sprint("m", i), 1, 0))
	}
	h := b.Read(after(5), []api.SystemQueue{{System: ""}}, machines)
	if _, err := h.Encode(); err != nil || len(h.Machines) != maxSeries || len(h.Systems) != 0 {
		t.Errorf("%d machines, %v", len(h.Machines), err)
	}
}
