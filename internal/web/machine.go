package web

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/internal/view"
	"lighter/internal/web/picture"
)

// MachinePage is one machine: how it is, what it does, what it did.
type MachinePage struct {
	view.Machine
	Transfers []api.Transfer `json:"transfers"` // under way
	UnderWay  []api.Build    `json:"underWay"`  // builds there, the oldest first
	// Recent are the builds of which the machine had the last attempt and that ended, the newest first: some
	// of Looked.
	Recent []api.Build `json:"recent"`
	// Failures says what the failures among Looked builds, the newest ones there, came from, the most frequent first.
	Failures []FailureCause `json:"failures"`
	Looked   int            `json:"looked"`
	Failed   int            `json:"failed"` // of them
	// Use is how its slots were used in the last day; nil if that is not known.
	Use *MachineUse `json:"use,omitempty"`
	// Since is from when on the attempts of the last day are known; Attempts has the newest of them, at most 1,000.
	Since    time.Time        `json:"since"`
	Attempts []MachineAttempt `json:"attempts"`
	Slots    *Figure          `json:"-"`
	Bars     template.HTML    `json:"-"`
	Cut      bool             `json:"-"` // Since is later than a day ago
}

// Newest are the newest attempts of the last day.
func (m *MachinePage) Newest() []MachineAttempt { return m.Attempts[:min(len(m.Attempts), maxNewest)] }

// FailureCause is why builds failed.
type FailureCause struct {
	Cause  string    `json:"cause"`
	Count  int       `json:"count"`
	Newest api.Build `json:"newest"`
}

// MachineAttempt is the time in which an attempt held a slot.
type MachineAttempt struct {
	Build string    `json:"build"`
	Name  string    `json:"name"`
	From  time.Time `json:"from"`
	To    time.Time `json:"to,omitzero"` // zero while it goes on
	State api.State `json:"state"`       // in which it ended, or is
}

const (
	maxRecent = 20
	// maxLooked is how many builds of a machine are looked at.
	maxLooked = 200
	// maxAttempts bounds the attempts in the JSON twin, and maxNewest those in the page's table.
	maxAttempts = 1000
	maxNewest   = 30
)

func (s *Server) loadMachine(r *http.Request) (any, error) {
	name := r.PathValue("name")
	status, err := s.farm.get(r.Context())
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(status.Machines, func(m api.MachineStatus) bool { return m.Name == name })
	if at < 0 {
		return nil, notFound("no machine is named %s", human.Line(human.Truncate(name, 80)))
	}
	m := &MachinePage{Machine: view.NewMachine(&status.Machines[at], status.Transfers, s.now()), Transfers: []api.Transfer{}, UnderWay: []api.Build{}}
	for _, t := range status.Transfers {
		if t.Machine == name {
			m.Transfers = append(m.Transfers, t)
		}
	}
	for _, b := range view.OldestFirst(status.Running) {
		if b.Machine == name {
			m.UnderWay = append(m.UnderWay, b)
		}
	}
	if err := s.lately(r.Context(), m); err != nil {
		return nil, err
	}
	frame := picture.Frame{Since: s.now().Add(-historyDay.time).UTC(), Until: s.now().UTC()}
	if h, err := s.past.get(r.Context(), historyDay, name, false); err == nil && len(h.Machines) > 0 {
		use, slots := h.use(&h.Machines[0]), h.slots(h.Machines[0].Used, h.Machines[0].Slots)
		m.Use, m.Slots = &use, &slots
		frame = h.frame("", "")
	}
	frame.Title, frame.Description = "Builds in the slots of "+name, "One row for each slot. The table below has the newest of them."
	s.day(m, frame)
	return m, nil
}

// lately adds what was built there, and what failed of it.
func (s *Server) lately(ctx context.Context, m *MachinePage) error {
	var list *api.BuildList
	if err := s.ask(ctx, func(ctx context.Context, c *apiclient.Client) (err error) {
		list, err = c.Builds(ctx, apiclient.BuildFilter{Filter: api.Filter{Machine: m.Name}, Limit: maxLooked})
		return err
	}); err != nil {
		return err
	}
	ended := slices.DeleteFunc(list.Builds, func(b api.Build) bool { return !b.State.Final() })
	slices.SortStableFunc(ended, func(a, b api.Build) int { return instantOf(b.Stopped).Compare(instantOf(a.Stopped)) })
	m.Looked, m.Recent, m.Failures = len(ended), ended[:min(len(ended), maxRecent)], []FailureCause{}
	for _, b := range ended {
		if !b.State.FailedItself() {
			continue
		}
		m.Failed++
		cause := failureCause(&b)
		i := slices.IndexFunc(m.Failures, func(c FailureCause) bool { return c.Cause == cause })
		if i < 0 {
			i = len(m.Failures)
			m.Failures = append(m.Failures, FailureCause{Cause: cause, Newest: b})
		}
		m.Failures[i].Count++
	}
	slices.SortStableFunc(m.Failures, func(a, b FailureCause) int { return cmp.Compare(b.Count, a.Count) })
	return nil
}

func instantOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// failureCause says in few words what a build failed from. There are not many.
func failureCause(b *api.Build) string {
	f := b.Failure
	switch {
	case f == nil:
		return "not known"
	case f.Culprit == api.CulpritLink:
		return "the link"
	case f.Culprit == api.CulpritCoordinator:
		return "the coordinator"
	case f.Culprit == api.CulpritMachine && f.Kind == api.KindUnable:
		return "the machine can't build such"
	case f.Culprit == api.CulpritMachine:
		return "the machine"
	}
	if text, ok := failureKinds[f.Kind]; ok {
		return text
	}
	return "the build itself"
}

// failureKinds are the kinds of failures of builds in words; see store.BuildFailure.
var failureKinds = map[string]string{
	"exit":             "the builder failed",
	"killed":           "the builder was killed",
	"timeout":          "it took too long",
	"silence":          "it was silent for too long",
	"output":           "an output was missing, or not as it may be",
	"hash-mismatch":    "the output has another hash than is fixed",
	"limit":            "its outputs were too large",
	"disk-full":        "the disk was full",
	"references":       "a reference that is forbidden",
	"download":         "nothing could be downloaded",
	"difference":       "a check made something else",
	api.KindDiffers:    "a check made something else",
	api.KindDependency: "a derivation that it needs",
}

// day adds the bars of the last day, by the events that were read.
func (s *Server) day(m *MachinePage, frame picture.Frame) {
	now := s.now()
	spans, known := s.feed.Spans(m.Name, frame.Since)
	m.Since, m.Cut, m.Attempts = known, known.IsZero() || known.After(frame.Since), []MachineAttempt{}
	var bars []picture.Span
	for _, span := range spans {
		a := MachineAttempt{Build: span.Build, Name: cmp.Or(api.DerivationName(span.Derivation), display.ShortID(span.Build)), From: span.From, To: span.To, State: span.State}
		end := cmp.Or(a.To, now)
		if !a.To.IsZero() && a.State == api.Fetching { // the outputs were made, and travel
			a.State = api.Succeeded
		}
		m.Attempts = append(m.Attempts, a)
		bars = append(bars, picture.Span{
			From: a.From, To: a.To, State: a.State, Href: "/build/" + a.Build,
			Title: fmt.Sprintf("%s: %s, %s", a.Name, a.State, quantity.Elapsed(end.Sub(a.From))),
		})
	}
	slices.Reverse(m.Attempts) // the newest first
	m.Attempts = m.Attempts[:min(len(m.Attempts), maxAttempts)]
	if len(bars) > 0 {
		m.Bars = picture.Slots(frame, m.ParallelBuilds, bars)
	}
}
