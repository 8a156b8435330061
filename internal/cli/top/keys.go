package top

import (
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	"lighter/internal/human"
	"lighter/internal/view"
)

// key does what a key says.
func (m *model) key(msg tea.KeyPressMsg) {
	key := msg.String()
	switch {
	case key == "ctrl+c":
		m.quit = true
	case m.question != nil:
		m.answer(key)
	case m.prompt != nil:
		m.typed(msg)
	case m.common(key):
	case m.page() != nil:
		m.pageKey(key)
	default:
		m.mainKey(key)
	}
}

// common does what keys say everywhere, and reports whether it was one of these.
func (m *model) common(key string) bool {
	m.note = ""
	switch key {
	case "?":
		if p := m.page(); p == nil || p.title != helpTitle {
			m.open(textPage(helpTitle, func(*model) []string { return helpLines() }))
		}
	case "!":
		m.open(textPage("what is in the way", func(m *model) []string {
			var lines []string
			for _, o := range view.Obstacles(m.status, m.now()) {
				lines = append(lines, human.Line(o.Text))
			}
			return append(lines, "", human.Count(len(lines), "thing")+" in the way")
		}))
	case "B":
		m.open(blockingPage())
	case "P":
		m.pause()
	case "ctrl+l":
		m.once = tea.ClearScreen
	case "ctrl+z":
		m.once = tea.Suspend
	default:
		return false
	}
	return true
}

// mainKey does what a key says while no page is open.
func (m *model) mainKey(key string) {
	switch key {
	case "q":
		m.quit = true
	case "esc":
		if p := m.pane(); p.filter != "" {
			p.filter = ""
			p.arrange()
		} else {
			m.whole = false
		}
	case "tab", "right":
		m.here = (m.here + 1) % len(m.panes)
	case "shift+tab", "left":
		m.here = (m.here + len(m.panes) - 1) % len(m.panes)
	case "z":
		m.whole = !m.whole
	default:
		if len(key) == 1 && '1' <= key[0] && int(key[0]-'1') < len(m.panes) {
			m.here = int(key[0] - '1')
			return
		}
		m.paneKey(key)
	}
}

// paneKey does what a key says in a table.
func (m *model) paneKey(key string) {
	p := m.pane()
	step := max(1, m.height/2)
	switch key {
	case "up", "k":
		p.move(-1)
	case "down", "j":
		p.move(1)
	case "pgup", "b":
		p.move(-step)
	case "pgdown", "space":
		p.move(step)
	case "home", "g":
		p.move(-len(p.rows))
	case "end", "G":
		p.move(len(p.rows))
	case "s":
		p.nextSort(m.width)
	case "S":
		p.back = !p.back
		p.arrange()
	case "/":
		m.prompt = &prompt{label: "only rows with: ", text: []rune(p.filter), live: func(text string) {
			p.filter = text
			p.arrange()
		}}
	default:
		if r := p.selected(); r != nil {
			m.rowKey(r, key)
		}
	}
}

// rowKey does what a key says to a row.
func (m *model) rowKey(r *row, key string) {
	switch key {
	case "enter":
		switch {
		case r.build != nil:
			m.open(buildPage(r.build, tabStory))
		case r.system != "":
			m.open(systemPage(r.system))
		case r.machine != "":
			m.open(machinePage(r.machine))
		}
	case "m":
		if r.machine != "" {
			m.open(machinePage(r.machine))
		}
	case "l", "w", "c", "r", "p":
		if r.build == nil {
			m.say(key + " is for builds; ? has all keys")
			return
		}
		switch key {
		case "l":
			m.open(buildPage(r.build, tabLog))
		case "w":
			m.open(buildPage(r.build, tabWhy))
		default:
			m.steerBuild(key, r.build)
		}
	case "d", "u":
		if r.build != nil || r.machine == "" {
			m.say(key + " is for machines; ? has all keys")
			return
		}
		m.steerMachine(key, r.machine)
	}
}

// pageKey does what a key says while a page is open.
func (m *model) pageKey(key string) {
	p := m.page()
	if key == "q" || key == "esc" || key == "backspace" {
		switch t := p.searched(); {
		case key == "esc" && t != nil && t.search != "":
			t.search = ""
		case key == "esc" && p.pane != nil && p.pane.filter != "":
			p.pane.filter = ""
			p.pane.arrange()
		default:
			m.close()
		}
		return
	}
	switch {
	case p.pane != nil && p.make != nil && (key == "d" || key == "u"):
		m.steerMachine(key, p.name)
		return
	case p.pane != nil:
		m.paneKey(key)
		return
	}
	t := p.searched()
	switch key {
	case "/":
		m.prompt = &prompt{label: "search: ", done: func(text string) {
			from := t.first
			if text == "" { // the next one
				text, from = t.search, t.hit+1
			}
			if t.search = text; text != "" && !t.findFrom(from, 1) {
				m.say("nothing has " + text)
			}
		}}
		return
	case "f", "F":
		if p.log != nil && p.tab == tabLog {
			t.move(len(t.lines))
			t.follow = true
		}
		return
	}
	if t.key(key) {
		t.follow = t.follow || p.tab == tabLog && t.first+t.room >= len(t.lines) && (key == "G" || key == "end")
		return
	}
	if p.build == nil {
		return
	}
	switch key {
	case "tab", "enter":
		m.show(tabs[(slices.Index(tabs, p.tab)+1)%len(tabs)])
	case "shift+tab":
		m.show(tabs[(slices.Index(tabs, p.tab)+len(tabs)-1)%len(tabs)])
	case "s":
		m.show(tabStory)
	case "w":
		m.show(tabWhy)
	case "l":
		m.show(tabLog)
	case "m":
		if p.build.Machine != "" {
			m.open(machinePage(p.build.Machine))
		}
	case "o":
		if p.story != nil && p.story.Cause != nil {
			m.open(buildPage(p.story.Cause, tabStory))
		} else {
			m.say("no other build is known to be the cause")
		}
	case "c", "r", "p":
		m.steerBuild(key, p.build)
	}
}

// show shows something else of a build.
func (m *model) show(t tab) {
	p := m.page()
	if p.tab == t {
		return
	}
	before := p.tab
	p.tab = t
	p.text.first, p.text.left = 0, 0
	p.refresh(m)
	if t == tabLog || before == tabLog {
		m.begin(p.job(m))
	}
}

// searched is the text of a page in which is searched; nil if it has a table.
func (p *page) searched() *text {
	switch {
	case p.pane != nil:
		return nil
	case p.tab == tabLog:
		return &p.log.text
	}
	return &p.text
}

const helpTitle = "keys"

func helpLines() []string {
	return strings.Split(`Moving
  ↑ ↓ j k          a row, or a line
  PgUp PgDn b Spc  a page
  g G Home End     the first, the last
  Tab 1 to 6       another table
  z                the table alone, and all again
  /                only rows with a text; Esc ends that
                   in a text: search; n and N go on
  s S              sort by the next column; the other way round
  ← →              in a text: the rest of long lines

Opening
  Enter            a build, a machine, the queue of a system
  l w m            the log of a build, why it is where it is, its machine
  s w l Tab        in a build: story, why, log. G and f follow the log
  o                in a build that was not made: the one because of which
  ! B              all that is in the way; what holds up most other builds
  Esc q            back

Steering; each says what will happen, and asks
  c                cancel a build, alone or with all that need it
  r                try a build again, with those that were not made because of it
  p                another priority for a build
  d u              drain a machine; give it builds again
  P                pause the coordinator; go on

q leaves, Ctrl-C does from everywhere; Ctrl-L draws anew, Ctrl-Z suspends.

DONE IN says between when and when, four times in five. Overdue is what builds
for longer than nine of ten such builds do there. CPU/MEM is how much of
the last seconds some task waited for the processor, and for memory. BLOCKS is
how many builds were not made because of one, HOLDS UP how many wait for it too.`, "\n")
}
