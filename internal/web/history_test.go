package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lighter/internal/api"
)

// testHistory is an answer of a coordinator that ran for the first and the third of four hours before
// testNow, with as many machines.
func testHistory(machines int) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		q, err := api.ParseHistoryQuery(r.URL.Query(), testNow)
		if err != nil {
			return nil, api.BadRequest("%s", err)
		}
		first, third := testNow.Add(-4*time.Hour), testNow.Add(-2*time.Hour)
		h := &api.History{
			Since: testNow.Add(-4 * time.Hour), Until: testNow, Step: 3600, Times: []time.Time{first, third}, Covered: []api.Seconds{1800, 3600},
			Systems: []api.SystemHistory{
				{System: hostile, Queued: []float64{5, 0}, Waiting: []float64{1, 0}, Running: []float64{2, 2}, Succeeded: []int64{10, 7}, Failed: []int64{1, 0}, Other: []int64{0, 3}},
				{System: "x86_64-linux", Queued: []float64{1, 1}, Waiting: []float64{0, 0}, Running: []float64{1, 1}, Succeeded: []int64{0, 0}, Failed: []int64{0, 0}, Other: []int64{0, 0}},
			},
			Slots: []float64{4, 4}, Used: []float64{1, 4},
		}
		for i := range machines {
			name := fmt.Sprintf("m%02d", i)
			if i == 0 {
				name = hostile
			}
			if q.Machine == "" || q.Machine == name {
				h.Machines = append(h.Machines, api.MachineHistory{Machine: name, Slots: []float64{4, 4}, Used: []float64{0, float64(i%2) + 2}, Load: []float64{-1, 1}})
			}
		}
		if q.Machine == "alpha" {
			h.Machines = []api.MachineHistory{{Machine: "alpha", Slots: []float64{4, 4}, Used: []float64{1, 4}, Load: []float64{-1, 1}}}
		}
		if q.Summary {
			h.Machines = nil
		}
		return h, nil
	}
}

// harmless looks for what hostile would have made of a page.
func harmless(t *testing.T, page string) {
	t.Helper()
	for _, harm := range []string{"<script>alert", "<img", "\x1b", "\u202e", "\xff", " style=", "secret"} {
		if strings.Contains(page, harm) {
			t.Errorf("the page has %q", harm)
		}
	}
}

func TestHistoryPage(t *testing.T) {
	h := newServer(t, coordinator{"GET /v1/history": testHistory(60)}).Handler()
	for path, wants := range map[string][]string{
		"/history":            {"The last day", "Builds per hour", `<a href="/machine/m01">m01</a>`, "50 %", ">10 more</a>", "Nov 3 08:00", "from=50"},
		"/history?span=month": {"The last month", "span=month&amp;from=50", ">Nov 3<"},
		"/history?from=50":    {"The busiest", "<svg"},
		"/history?from=99":    {"There are no more"},
	} {
		page := get(t, h, path)
		for _, want := range wants {
			if !strings.Contains(page.Body.String(), want) {
				t.Errorf("%s: the page has no %q", path, want)
			}
		}
		if n := page.Body.Len(); page.Code != http.StatusOK || n > 100_000 {
			t.Errorf("%s: %d, %d bytes", path, page.Code, n)
		}
		harmless(t, page.Body.String())
	}
	for _, path := range []string{"/history?span=year", "/history?from=-1", "/history?from=x"} {
		if page := get(t, h, path); page.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", path, page.Code)
		}
	}
	var m History
	if err := json.Unmarshal(get(t, h, "/history.json").Body.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	want := HistoryRow{Since: testNow.Add(-4 * time.Hour), Succeeded: 10, Failed: 1, Queued: 6, Waiting: 1, Used: 1, Slots: 4}
	if len(m.Rows) != 2 || m.Rows[1] != want || m.MachinesCount != 60 || len(m.Machines) != 50 || m.Machines[0].Used != 2 || m.Machines[0].Part != 50 || len(m.History.Times) != 2 {
		t.Errorf("the twin: rows %+v, %d machines of %d, %+v", m.Rows, len(m.Machines), m.MachinesCount, m.Machines[0])
	}
}

// The past is asked for once in a while, not for each page, and shown if nobody answers any more.
func TestHistoryIsKept(t *testing.T) {
	var asked, later atomic.Int64
	s := newServer(t, coordinator{
		"GET /v1/status": testStatus, "GET /v1/blocking": testBlocking,
		"GET /v1/history": func(r *http.Request) (any, error) {
			if asked.Add(1) > 1 {
				return nil, &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "stops"}
			}
			return testHistory(2)(r)
		},
	})
	s.now = func() time.Time { return testNow.Add(time.Duration(later.Load())) }
	h := s.Handler()
	for i := range 3 {
		later.Store(int64(i) * int64(2*time.Second))
		if page := get(t, h, "/").Body.String(); !strings.Contains(page, "The last day") || !strings.Contains(page, "Slots in use") {
			t.Error("the page at the root has no pictures")
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	later.Store(int64(time.Hour))
	if page := get(t, h, "/").Body.String(); !strings.Contains(page, "The last day") || asked.Load() != 2 {
		t.Errorf("an hour later, asked %d times: no pictures", asked.Load())
	}
}

// A farm whose history is not known yet, or whose coordinator has none, has pages all the same.
func TestNoHistory(t *testing.T) {
	h := newServer(t, coordinator{"GET /v1/status": testStatus, "GET /v1/blocking": testBlocking}).Handler()
	if page := get(t, h, "/"); page.Code != http.StatusOK || strings.Contains(page.Body.String(), "The last day") {
		t.Errorf("%d", page.Code)
	}
	h = newServer(t, coordinator{"GET /v1/history": func(*http.Request) (any, error) {
		return &api.History{Since: testNow.Add(-time.Hour), Until: testNow, Step: 900}, nil
	}}).Handler()
	if page := get(t, h, "/history"); page.Code != http.StatusOK || !strings.Contains(page.Body.String(), "Nothing is known yet") {
		t.Errorf("%d: %s", page.Code, page.Body)
	}
}

// Pictures of a farm that is young begin when it did, but span some hours.
func TestYoungFarm(t *testing.T) {
	for _, tt := range []struct{ known, want time.Duration }{
		{24 * time.Hour, 24 * time.Hour},
		{13 * time.Hour, 24 * time.Hour},
		{5 * time.Hour, 5 * time.Hour},
		{15 * time.Minute, 2 * time.Hour},
		{0, 24 * time.Hour},
	} {
		h := past{&api.History{Since: testNow.Add(-24 * time.Hour), Until: testNow, Step: 900}}
		for at := testNow.Add(-tt.known); at.Before(testNow); at = at.Add(15 * time.Minute) {
			h.Times, h.Covered, h.Used, h.History.Slots = append(h.Times, at), append(h.Covered, 900), append(h.Used, 1), append(h.History.Slots, 2)
		}
		f := h.frame("", "")
		if got := f.Until.Sub(f.Since); got != tt.want {
			t.Errorf("%s of it is known: it spans %s, want %s", tt.known, got, tt.want)
		}
		if image := string(h.slots(h.Used, h.History.Slots).Image); tt.known > 0 && !strings.Contains(image, "H1000") {
			t.Errorf("%s of it is known, and not the end: %s", tt.known, image)
		}
	}
}
