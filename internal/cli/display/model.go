// Package display has what people read of builds and machines, as lines and tables.
//
// [Model] is what is known of the builds that one client waits for: it is told
// of builds, events and the coordinator's status, and gives lines of text. It
// does no I/O and knows no clock; times are arguments. [StatusLines] is the page
// of a whole coordinator, [Story] all that is known of one build, and
// [ComparisonLines] what machines made of a derivation that was to be compared.
//
// [Screen] draws lines at the bottom of a terminal, in place; [Terminal] and the
// functions beside it tell what a stream is. Model and Screen may not be used
// concurrently.
package display

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
)

// Model is the state of the builds that a client waits for: those that it asked
// for, and those that the coordinator made for them.
type Model struct {
	started time.Time
	wanted  []string        // ids that the client asked for
	isOurs  map[string]bool // the same ids
	open    int             // how many of them are not final
	builds  map[string]*entry
	foreign map[string]bool // ids that are none of our business
	counts  map[api.State]int
	// transfers as of the last status; of our builds only.
	transfers []api.Transfer
	machines  []api.MachineStatus
	end       *api.Expected // of the builds that were asked for; nil if it can't be told
	left      time.Duration // until all builds of our systems are done, as the coordinator expects; 0 if not known
	sent      int64         // bytes of builds that are final
	fetched   int64
	note      string
}

type entry struct {
	api.Build
	since time.Time    // when it came into its state, by the coordinator's clock
	last  *api.Failure // of the attempt before
}

// NewModel returns a model that waits for nothing yet.
func NewModel(now time.Time) *Model {
	return &Model{
		started: now,
		isOurs:  make(map[string]bool),
		builds:  make(map[string]*entry),
		foreign: make(map[string]bool),
		counts:  make(map[api.State]int),
	}
}

// Want adds a build that the client asked for.
func (m *Model) Want(b *api.Build, now time.Time) {
	if !m.isOurs[b.ID] {
		m.isOurs[b.ID] = true
		m.wanted = append(m.wanted, b.ID)
		if old := m.builds[b.ID]; old == nil || !old.State.Final() {
			m.open++
		}
	}
	delete(m.foreign, b.ID)
	m.put(b, now)
}

// SetNote shows a line of text at the end of the display; "" takes it away.
func (m *Model) SetNote(text string) { m.note = text }

// Knows reports whether the build was seen before, ours or not.
func (m *Model) Knows(id string) bool { return m.builds[id] != nil || m.foreign[id] }

// Has reports whether the build is one of ours.
func (m *Model) Has(id string) bool { return m.builds[id] != nil }

// Put records what a build is now. A build that is neither wanted nor a child of
// one of ours is remembered as none of our business, and false is returned. A
// record that is older than what is known is not believed.
func (m *Model) Put(b *api.Build, now time.Time) (ours bool) {
	if m.builds[b.ID] == nil && (b.Parent == "" || m.builds[b.Parent] == nil) {
		m.foreign[b.ID] = true
		return false
	}
	m.put(b, now)
	return true
}

func (m *Model) put(b *api.Build, now time.Time) {
	old := m.builds[b.ID]
	e := &entry{Build: *b, since: now, last: b.Failure}
	if b.Started != nil && b.State == api.Building {
		e.since = *b.Started
	}
	if old != nil {
		if old.State.Final() && !b.State.Final() || old.Attempt > b.Attempt {
			return
		}
		if old.State == b.State && old.Attempt == b.Attempt {
			e.since = old.since
		}
		m.counts[old.State]--
		if old.State.Final() {
			m.sent -= old.SentBytes
			m.fetched -= old.FetchBytes
		}
	}
	m.counts[e.State]++
	if m.isOurs[b.ID] && e.State.Final() && (old == nil || !old.State.Final()) {
		m.open--
	}
	if e.State.Final() {
		m.sent += e.SentBytes
		m.fetched += e.FetchBytes
	}
	m.builds[b.ID] = e
}

// Apply records an event of a build that the model knows.
func (m *Model) Apply(ev *api.Event) {
	e := m.builds[ev.Build]
	if e == nil || ev.State == "" || e.State.Final() {
		return
	}
	m.counts[e.State]--
	m.counts[ev.State]++
	if m.isOurs[ev.Build] && ev.State.Final() {
		m.open--
	}
	if ev.State != e.State || ev.Attempt != e.Attempt {
		e.since = ev.Time
	}
	if ev.Failure != nil {
		e.last = ev.Failure
	}
	e.State, e.Attempt, e.Machine, e.Reason, e.Failure = ev.State, ev.Attempt, ev.Machine, ev.Reason, ev.Failure
}

// LastFailure returns why a build's attempt before the current one failed, or nil.
func (m *Model) LastFailure(id string) *api.Failure {
	if e := m.builds[id]; e != nil {
		return e.last
	}
	return nil
}

// Queued returns the builds that wait for a machine, by submission.
func (m *Model) Queued() []*api.Build {
	var list []*api.Build
	for _, e := range m.builds {
		if e.State == api.Queued {
			list = append(list, &e.Build)
		}
	}
	slices.SortFunc(list, func(a, b *api.Build) int {
		return cmp.Or(a.Submitted.Compare(b.Submitted), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// AskedFor returns the build that was asked for because of which there is one of ours; empty if that is
// not known.
func (m *Model) AskedFor(id string) string {
	for range len(m.builds) {
		if e := m.builds[id]; e == nil || m.isOurs[id] {
			break
		} else {
			id = e.Parent
		}
	}
	if m.isOurs[id] {
		return id
	}
	return ""
}

// SetStatus records the coordinator's transfers and machines.
func (m *Model) SetStatus(s *api.Status) {
	m.transfers = m.transfers[:0]
	for _, t := range s.Transfers {
		if t.Build == "" || m.builds[t.Build] != nil {
			m.transfers = append(m.transfers, t)
		}
	}
	m.machines = s.Machines
	systems := make(map[string]bool)
	for _, e := range m.builds {
		if !e.State.Final() {
			systems[e.System] = true
		}
	}
	m.left = 0
	for _, q := range s.Queues {
		if systems[q.System] {
			m.left = max(m.left, q.Empty.Duration())
		}
	}
}

// SetOutlook records when the builds that were asked for will be done.
func (m *Model) SetOutlook(o *api.Outlook) {
	if m.end = o.ExpectedEnd; o.Builds < m.open {
		m.end = nil // of some it can't be told
	}
}

// Done reports whether every wanted build is final.
func (m *Model) Done() bool {
	return m.open == 0
}

// Asked reports whether the client asked for the build itself.
func (m *Model) Asked(id string) bool { return m.isOurs[id] }

// Wanted returns the builds that the client asked for, in its order.
func (m *Model) Wanted() []*api.Build {
	list := make([]*api.Build, 0, len(m.wanted))
	for _, id := range m.wanted {
		list = append(list, &m.builds[id].Build)
	}
	return list
}

// Build returns what is known of one of our builds, or nil.
func (m *Model) Build(id string) *api.Build {
	if e := m.builds[id]; e != nil {
		return &e.Build
	}
	return nil
}

// running returns the builds that hold a slot, those that do so longest first.
func (m *Model) running() []*entry {
	var list []*entry
	for _, e := range m.builds {
		if e.State.Running() {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *entry) int {
		return cmp.Or(a.Submitted.Compare(b.Submitted), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Name returns the name by which people know a build: its derivation's, without
// hash and ".drv".
func Name(b *api.Build) string { return strings.TrimSuffix(b.Derivation.Name(), ".drv") }
