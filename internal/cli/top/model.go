package top

import (
	"slices"
	"strconv"
	"time"

	tea "charm.land/bubbletea/v2"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// model is all that is on the screen, and what a person is about to do. It is told messages and gives lines, and jobs
// for others; it waits for nothing.
type model struct {
	client *apiclient.Client // for jobs alone
	style  display.Style
	now    func() time.Time

	width, height int
	status        *api.Status
	away          string // that the coordinator does not answer; empty if it does
	since         map[string]time.Time
	events        []api.Event

	panes []*pane
	here  int // the pane in which the person moves
	whole bool
	pages []*page // open above the panes, the last one in front

	prompt   *prompt
	question *question
	note     string // what became of the last thing that was done
	bad      bool   // it was not done

	asked int // logs that were asked for
	quit  bool
	jobs  []job // to be begun

	once tea.Cmd // what bubbletea is to do, once
}

// The panes, in the order of their keys.
const (
	running = iota
	machines
	queue
	failed
	transfers
	lately
)

func newModel(client *apiclient.Client, s *api.Status, style display.Style, now func() time.Time) *model {
	m := &model{
		client: client, style: style, now: now, width: 80, height: 24, since: make(map[string]time.Time),
		panes: []*pane{newRunning(), newMachines(), newQueue(), newFailed(), newTransfers(), newLately()},
	}
	for i, p := range m.panes {
		p.key = strconv.Itoa(i + 1)
	}
	m.take(s)
	return m
}

// Messages of jobs.
type (
	statusMsg struct {
		status *api.Status
		err    error
	}
	eventsMsg []api.Event
	// doneMsg says what became of something that a person asked for.
	doneMsg struct {
		text string
		err  error
	}
)

// update takes a message, and returns what is to be done besides.
func (m *model) update(msg tea.Msg) []job {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.resize(msg.Width, msg.Height)
	case tea.KeyPressMsg:
		m.key(msg)
	case tea.PasteMsg:
		if m.prompt != nil {
			m.prompt.add(msg.Content)
		}
	case statusMsg:
		m.answered(msg)
	case eventsMsg:
		m.happened(msg)
	case doneMsg:
		m.note, m.bad = msg.text, false
		if msg.err != nil {
			m.say(msg.err.Error())
		}
		m.begin(pollStatus(m.client))
	case askedMsg:
		m.ask(msg)
	case pageMsg:
		m.pageCame(msg)
	case *logPart, logOver, logAnew:
		m.logCame(msg)
	}
	jobs := m.jobs
	m.jobs = nil
	return jobs
}

func (m *model) begin(j job) { m.jobs = append(m.jobs, j) }

// say notes that something was not done.
func (m *model) say(text string) { m.note, m.bad = human.Line(text), true }

func (m *model) resize(width, height int) {
	m.width, m.height = width, height
	for _, p := range m.panes {
		p.most = len(p.all)
	}
	for _, p := range m.pages {
		p.layOut(m)
	}
}

func (m *model) answered(msg statusMsg) {
	if msg.err != nil {
		m.away = "the coordinator went away, and what you see is old; waiting for it to come back: " + msg.err.Error()
		if !apiclient.Away(msg.err) {
			m.away = msg.err.Error()
		}
		return
	}
	m.away = ""
	m.take(msg.status)
}

// take shows a status.
func (m *model) take(s *api.Status) {
	m.status = s
	m.forget()
	m.refresh()
}

// forget drops what was seen of attempts that are over.
func (m *model) forget() {
	open := make(map[string]bool)
	for i := range m.status.Running {
		open[attemptOf(&m.status.Running[i])] = true
	}
	for id, at := range m.since {
		// An event may be ahead of the status.
		if !open[id] && m.now().Sub(at) > time.Minute {
			delete(m.since, id)
		}
	}
}

// refresh makes all rows anew.
func (m *model) refresh() {
	s, now := m.status, m.now()
	for i, rows := range [][]row{
		runningRows(s, m.since, now), machineRows(s, now), queueRows(s, now), failedRows(s, now), transferRows(s, now), latelyRows(m.events, now),
	} {
		m.panes[i].set(rows)
	}
	for _, p := range m.pages {
		p.refresh(m)
	}
}

// maxEvents is how many events are shown.
const maxEvents = 300

func (m *model) happened(events []api.Event) {
	for i := range events {
		ev := &events[i]
		switch {
		case isNews(ev):
			m.events = append(m.events, *ev)
		case ev.State.Running():
			m.since[attemptOf(&api.Build{Request: api.Request{ID: ev.Build}, Attempt: ev.Attempt})] = ev.Time
		}
	}
	if more := len(m.events) - maxEvents; more > 0 {
		m.events = slices.Delete(m.events, 0, more)
	}
	m.refresh()
}

// page returns the page in front, nil if there is none.
func (m *model) page() *page {
	if len(m.pages) == 0 {
		return nil
	}
	return m.pages[len(m.pages)-1]
}

// pane returns the pane in which the person moves, nil where that is a text.
func (m *model) pane() *pane {
	if p := m.page(); p != nil {
		return p.pane
	}
	return m.panes[m.here]
}

// open puts a page in front.
func (m *model) open(p *page) {
	m.pages = append(m.pages, p)
	p.layOut(m)
	p.refresh(m)
	m.begin(p.job(m))
}

// close goes back to what is behind the page in front.
func (m *model) close() {
	m.pages = m.pages[:len(m.pages)-1]
	next := job{name: pageJob} // ends what the page wanted
	if p := m.page(); p != nil {
		next = p.job(m)
	}
	m.begin(next)
}
