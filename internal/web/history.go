package web

import (
	"context"
	"errors"
	"html/template"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/web/picture"
)

// History is how the farm was over time.
type History struct {
	Span    string       `json:"span"`    // "day" or "month"
	History *api.History `json:"history"` // without machines
	Rows    []HistoryRow `json:"rows"`    // the same by the hour or the day, the newest first
	// Machines has how machines were used, the busiest first: some of MachinesCount, from the From-th on.
	Machines      []MachineUse     `json:"machines"`
	MachinesCount int              `json:"machinesCount"`
	From          int              `json:"from,omitempty"`
	Left          int              `json:"-"` // how many come after
	Pictures      *HistoryPictures `json:"-"`
}

// HistoryRow sums up some steps of a history.
type HistoryRow struct {
	Since     time.Time `json:"since"`
	Succeeded int64     `json:"succeeded"` // builds that ended
	Failed    int64     `json:"failed"`
	Other     int64     `json:"other"`
	Queued    float64   `json:"queued"` // on average, as all below
	Waiting   float64   `json:"waiting"`
	Used      float64   `json:"used"` // slots
	Slots     float64   `json:"slots"`
}

// MachineUse is how a machine was used.
type MachineUse struct {
	Machine string        `json:"machine"`
	Used    float64       `json:"used"`  // slots, on average
	Slots   float64       `json:"slots"` // on average; none while it was down
	Part    int           `json:"part"`  // percent that was used of the time of its slots
	Known   api.Seconds   `json:"known"` // of how much time that is
	Picture template.HTML `json:"-"`
}

// HistoryPictures are of the farm as a whole.
type HistoryPictures struct {
	Span                 string
	Builds, Queue, Slots Figure
}

// Figure is a picture with what its lines are.
type Figure struct {
	Title         string
	Image, Legend template.HTML
}

// historySpan is what a page of history can show.
type historySpan struct {
	name      string
	time      time.Duration
	step, row api.Seconds
	age       time.Duration // for which an answer is good
}

var (
	historyDay   = historySpan{"day", 24 * time.Hour, 900, 3600, time.Minute}
	historyMonth = historySpan{"month", 31 * 24 * time.Hour, 4 * 3600, 24 * 3600, 5 * time.Minute}
)

// maxMachines is how many machines a page lists.
const maxMachines = 50

func (s *Server) loadHistory(r *http.Request) (any, error) {
	span := historyDay
	q := r.URL.Query()
	switch name := q.Get("span"); name {
	case "", historyDay.name:
	case historyMonth.name:
		span = historyMonth
	default:
		return nil, api.BadRequest("span %.40q: want day or month", name)
	}
	from := 0
	if text := q.Get("from"); text != "" {
		var err error
		if from, err = strconv.Atoi(text); err != nil || from < 0 {
			return nil, api.BadRequest("from %.40q: want a number of machines that come before", text)
		}
	}
	h, err := s.past.get(r.Context(), span, "", false)
	if err != nil {
		return nil, err
	}
	m := &History{Span: span.name, Rows: h.rows(span.row), Pictures: h.pictures(span.name), MachinesCount: len(h.Machines), From: from}
	for i := range h.Machines {
		m.Machines = append(m.Machines, h.use(&h.Machines[i]))
	}
	slices.SortStableFunc(m.Machines, func(a, b MachineUse) int { return b.Part - a.Part })
	m.Machines = m.Machines[min(from, len(m.Machines)):]
	m.Machines = m.Machines[:min(maxMachines, len(m.Machines))]
	for i := range m.Machines { // of those that are shown
		u := &m.Machines[i]
		at := slices.IndexFunc(h.Machines, func(x api.MachineHistory) bool { return x.Machine == u.Machine })
		u.Picture = picture.Spark("slots that "+u.Machine+" used", h.dense(h.Machines[at].Used), slices.Max(append(h.Machines[at].Slots, 1)))
	}
	m.Left = max(0, m.MachinesCount-from-maxMachines)
	summary := *h.History
	summary.Machines, m.History = nil, &summary
	return m, nil
}

// past is a history, with what pages make of its lists.
type past struct{ *api.History }

// mean is that of a list, by the time that its values are of.
func (h past) mean(values []float64) float64 {
	sum, all := 0.0, 0.0
	for i, v := range values {
		sum, all = sum+v*float64(h.Covered[i]), all+float64(h.Covered[i])
	}
	return sum / max(1, all)
}

// dense returns a value for every step: NaN where nothing is known.
func (h past) dense(values []float64) []float64 {
	all := slices.Repeat([]float64{math.NaN()}, int(h.Until.Sub(h.Since)/h.Step.Duration()))
	for i, v := range values {
		if at := int(h.Times[i].Sub(h.Since) / h.Step.Duration()); at >= 0 && at < len(all) {
			all[at] = v
		}
	}
	return all
}

// perHour makes rates of counts.
func (h past) perHour(counts []float64) []float64 {
	list := make([]float64, len(counts))
	for i, n := range counts {
		list[i] = n * 3600 / max(60, float64(h.Covered[i]))
	}
	return list
}

// pastTotals are the lists of all systems, added up.
type pastTotals struct{ queued, waiting, succeeded, failed, other []float64 }

func (h past) totals() (t pastTotals) {
	for _, list := range []*[]float64{&t.queued, &t.waiting, &t.succeeded, &t.failed, &t.other} {
		*list = make([]float64, len(h.Times))
	}
	for k := range h.Systems {
		s := &h.Systems[k]
		for i := range h.Times {
			t.queued[i] += s.Queued[i]
			t.waiting[i] += s.Waiting[i]
			t.succeeded[i] += float64(s.Succeeded[i])
			t.failed[i] += float64(s.Failed[i])
			t.other[i] += float64(s.Other[i])
		}
	}
	return t
}

// rows sums up steps for a table, the newest first.
func (h past) rows(length api.Seconds) []HistoryRow {
	t := h.totals()
	rows := []HistoryRow{}
	var covered float64
	for i, at := range h.Times {
		since := at.Truncate(length.Duration())
		if n := len(rows); n == 0 || !rows[n-1].Since.Equal(since) {
			rows, covered = append(rows, HistoryRow{Since: since}), 0
		}
		r, seconds := &rows[len(rows)-1], float64(h.Covered[i])
		r.Succeeded, r.Failed, r.Other = r.Succeeded+int64(t.succeeded[i]), r.Failed+int64(t.failed[i]), r.Other+int64(t.other[i])
		for mean, v := range map[*float64]float64{&r.Queued: t.queued[i], &r.Waiting: t.waiting[i], &r.Used: h.Used[i], &r.Slots: h.Slots[i]} {
			*mean = (*mean*covered + v*seconds) / max(1, covered+seconds)
		}
		covered += seconds
	}
	slices.Reverse(rows)
	return rows
}

// use says how a machine was used.
func (h past) use(m *api.MachineHistory) MachineUse {
	u := MachineUse{Machine: m.Machine, Used: h.mean(m.Used), Slots: h.mean(m.Slots)}
	for _, seconds := range h.Covered {
		u.Known += seconds
	}
	if u.Slots > 0 {
		u.Part = int(math.Round(100 * min(1, u.Used/u.Slots)))
	}
	return u
}

// least is the least time that a picture spans.
const least = 2 * time.Hour

// begin is how many steps a picture leaves out, of which nothing is known: of a farm that is young, for it would
// be seen at the margin alone.
func (h past) begin() int {
	whole := h.Until.Sub(h.Since)
	if len(h.Times) == 0 || h.Times[0].Sub(h.Since) < whole/2 {
		return 0
	}
	return int(min(h.Times[0].Sub(h.Since), whole-least) / h.Step.Duration())
}

// frame is that of pictures.
func (h past) frame(title, description string) picture.Frame {
	since := h.Since.Add(time.Duration(h.begin()) * h.Step.Duration())
	return picture.Frame{Title: title, Description: description, Since: since.UTC(), Until: h.Until.UTC()}
}

// figure draws lines, each of which has a value for every step.
func (h past) figure(title string, lines ...picture.Line) Figure {
	for i := range lines {
		lines[i].Values = lines[i].Values[min(h.begin(), len(lines[i].Values)):]
	}
	c := picture.Chart{Frame: h.frame(title, "The table in numbers has the same."), Step: h.Step.Duration(), Lines: lines}
	return Figure{title, c.SVG(), c.Legend()}
}

// slots draws how slots were used.
func (h past) slots(used, slots []float64) Figure {
	return h.figure("Slots in use", picture.Line{Name: "in use", Values: h.dense(used), Area: true}, picture.Line{Name: "there are", Values: h.dense(slots)})
}

// pictures draws the farm as a whole.
func (h past) pictures(span string) *HistoryPictures {
	t := h.totals()
	return &HistoryPictures{
		Span: span,
		Builds: h.figure("Builds per hour",
			picture.Line{Name: "made", Values: h.dense(h.perHour(t.succeeded)), Area: true}, picture.Line{Name: "failed", Values: h.dense(h.perHour(t.failed)), Bad: true}),
		Queue: h.figure("Builds to do",
			picture.Line{Name: "ready", Values: h.dense(t.queued), Area: true}, picture.Line{Name: "waiting for others", Values: h.dense(t.waiting)}),
		Slots: h.slots(h.Used, h.History.Slots),
	}
}

// historyBlock has the small pictures of the last day for another page; nil if nothing is known.
func (s *Server) historyBlock(ctx context.Context) *HistoryPictures {
	h, err := s.past.get(ctx, historyDay, "", true)
	if err != nil || len(h.Times) == 0 {
		return nil
	}
	return h.pictures(historyDay.name)
}

// histories keeps what was asked of the past, which changes every five minutes.
type histories struct {
	s      *Server
	asking chan struct{} // has a place for who asks

	mu    sync.Mutex // owns all below
	known map[string]keptHistory
}

type keptHistory struct {
	past
	at time.Time
}

// maxHistories bounds those that are kept: a page for each machine of a large farm.
const maxHistories = 256

func newHistories(s *Server) *histories {
	return &histories{s: s, asking: make(chan struct{}, 1), known: make(map[string]keptHistory)}
}

// get returns the history of a span up to now, which is not to be changed: of one machine, of all, or a summary. Where the
// coordinator does not answer it is an older one, if there is one.
func (p *histories) get(ctx context.Context, span historySpan, machine string, summary bool) (past, error) {
	key := span.name + " " + strconv.FormatBool(summary) + " " + url.PathEscape(machine)
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	case <-ctx.Done():
		return past{}, ctx.Err()
	}
	now := p.s.now()
	p.mu.Lock()
	kept := p.known[key]
	p.mu.Unlock()
	if kept.History != nil && now.Sub(kept.at) < span.age {
		return kept.past, nil
	}
	var h *api.History
	err := p.s.ask(ctx, func(ctx context.Context, c *apiclient.Client) (err error) {
		h, err = c.History(ctx, api.HistoryQuery{Since: now.Add(-span.time), Until: now, Step: span.step, Machine: machine, Summary: summary})
		return err
	})
	switch {
	case err != nil && kept.History != nil && errors.Is(err, api.ErrUnavailable):
		return kept.past, nil
	case err != nil:
		return past{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxHistories {
		clear(p.known)
	}
	p.known[key] = keptHistory{past{h}, now}
	return past{h}, nil
}
