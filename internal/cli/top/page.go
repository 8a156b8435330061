package top

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/backoff"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/internal/view"
)

// page is what is open above the panes: a build, a machine, the queue of a system, or a text. Only the page in front
// has a job that asks the coordinator for more.
type page struct {
	title string
	build *api.Build // of a build's page
	tab   tab
	name  string // of a machine or system

	story *api.BuildStory
	why   *api.Why
	last  []string // the end of its log, beside why
	err   string   // why that is not known

	text text
	log  *logText
	pane *pane // of a page with a table; text is above it then
	make func(m *model) []string
}

// tab is what is shown of a build.
type tab string

const (
	tabStory tab = "story"
	tabWhy   tab = "why"
	tabLog   tab = "log"
)

// tabs are the keys of a build's page.
var tabs = []tab{tabStory, tabWhy, tabLog}

func buildPage(b *api.Build, t tab) *page { return &page{build: b, tab: t, title: display.Name(b)} }

func machinePage(name string) *page {
	p := &page{name: name, title: name, pane: newBuilds("BUILDS THERE")}
	p.pane.empty = "none runs there, and none failed there lately"
	p.make = func(m *model) []string { return machineLines(m.status, name, m.now()) }
	return p
}

func systemPage(system string) *page {
	p := newBuilds("BUILDS")
	p.empty = asking
	return &page{name: system, title: "queue of " + system, pane: p}
}

// asking is shown before the coordinator has answered.
const asking = "asking the coordinator…"

// blockingTitle is that of the page of what holds up most.
const blockingTitle = "what holds up most other builds"

func blockingPage() *page {
	p := newPane("BUILDS", asking,
		column{least: 14},
		column{title: "STATE"},
		column{title: "HOLDS UP", right: true, down: true},
		column{title: "MACHINE", least: 8, drop: 1},
		column{title: "AGE", right: true, down: true},
		column{title: "ID", drop: 2},
		column{title: "WHY", least: 32},
	)
	p.sort = 2
	return &page{name: blockingTitle, title: blockingTitle, pane: p}
}

func textPage(title string, lines func(m *model) []string) *page {
	return &page{title: title, make: lines}
}

// refresh makes the page anew of what is known.
func (p *page) refresh(m *model) {
	now := m.now()
	switch {
	case p.build != nil && p.tab == tabStory && p.story != nil:
		var b strings.Builder
		_ = display.Story(&b, p.story, p.why, now, m.width) // a Builder takes everything
		p.text.set(wrap(strings.Split(strings.TrimRight(b.String(), "\n"), "\n"), m.width))
	case p.build != nil && p.tab == tabWhy && p.why != nil:
		p.text.set(wrap(display.Why(p.why, p.last, now), m.width))
	case p.make != nil:
		p.text.set(wrap(p.make(m), m.width))
	}
	if p.pane != nil && p.make != nil {
		p.pane.set(buildRows(buildsThere(m.status, p.name), now))
	}
}

// layOut is told that the screen has another size.
func (p *page) layOut(m *model) {
	if p.pane != nil {
		p.pane.most = 0
	}
	p.refresh(m)
}

// buildsThere are the builds that run on a machine, and those that failed there lately.
func buildsThere(s *api.Status, machine string) (list []api.Build) {
	for _, b := range view.OldestFirst(s.Running) {
		if b.Machine == machine {
			list = append(list, b)
		}
	}
	for i := range s.Failures {
		if s.Failures[i].Machine == machine {
			list = append(list, s.Failures[i])
		}
	}
	return list
}

// machineLines says what is known of a machine.
func machineLines(s *api.Status, name string, now time.Time) []string {
	var m *api.MachineStatus
	for i := range s.Machines {
		if s.Machines[i].Name == name {
			m = &s.Machines[i]
		}
	}
	if m == nil {
		return []string{"it is no longer there"}
	}
	var lines []string
	add := func(is bool, name, format string, args ...any) {
		if is {
			lines = append(lines, fmt.Sprintf("%-12s ", name)+human.Line(fmt.Sprintf(format, args...)))
		}
	}
	note := display.MachineNote(m, now)
	add(true, "state", "%s", display.MachineState(m))
	add(note != "", "why", "%s", note)
	add(true, "builds for", "%s", strings.Join(append(append([]string(nil), m.Systems...), m.Features...), ", "))
	add(len(m.MandatoryFeatures) > 0, "only those", "that need %s", strings.Join(m.MandatoryFeatures, ", "))
	add(true, "slots", "%d of %d taken", m.Running, m.ParallelBuilds)
	speed := fmt.Sprintf("%.4g", m.Speed)
	if m.MeasuredSpeed > 0 {
		speed += fmt.Sprintf(", %.2g as measured", m.MeasuredSpeed)
	}
	add(true, "speed", "%s", speed)
	add(m.Cores > 0, "load", "%.2f on %s; tasks waited %.0f%% of the time for the processor, %.0f%% for memory", m.Load, human.Count(m.Cores, "core"), m.CPUPressure, m.MemoryPressure)
	memory := quantity.Bytes(m.FreeMemory) + " free"
	if m.Memory > 0 {
		memory += fmt.Sprintf("; %s of %s reserved for builds", quantity.Bytes(m.ReservedMemory), quantity.Bytes(m.Memory))
	}
	add(m.FreeMemory > 0, "memory", "%s", memory)
	disk := quantity.Bytes(m.FreeDisk) + " free for the store"
	if m.BuildFreeDisk > 0 {
		disk += ", " + quantity.Bytes(m.BuildFreeDisk) + " for builds"
	}
	if m.FreeInodes > 0 {
		disk += ", " + human.Number(int(m.FreeInodes)) + " inodes"
	}
	add(m.FreeDisk > 0, "disk", "%s", disk)
	for _, token := range slices.Sorted(maps.Keys(m.Tokens)) {
		add(true, "tokens", "%s: %d of %d taken", token, m.TakenTokens[token], m.Tokens[token])
	}
	add(m.Bandwidth+m.FetchBandwidth > 0, "link", "%s to it, %s from it", quantity.Rate(m.Bandwidth), quantity.Rate(m.FetchBandwidth))
	for i := range s.Transfers {
		t := &s.Transfers[i]
		way := "to it"
		if t.Direction == api.Fetch {
			way = "from it"
		}
		add(t.Machine == name, "transfer", "%s %s: %s", human.Count(t.Items, "item"), way, display.TransferText([]api.Transfer{*t}, now))
	}
	if h := m.Hardware; h != nil {
		add(h.CPU != "", "processor", "%s", h.CPU)
		add(h.Memory > 0, "has", "%s of memory", quantity.Bytes(h.Memory))
	}
	add(m.Kernel != "" || m.Agent != "", "runs", "kernel %s, agent %s, store %s", m.Kernel, m.Agent, m.StoreKind)
	for _, k := range slices.Sorted(maps.Keys(m.Tags)) {
		add(true, "tag", "%s=%s", k, m.Tags[k])
	}
	return lines
}

// Jobs of pages.
const (
	pageJob   = "page"
	pageEvery = 2 * time.Second
	// pageBuilds is how many builds of a queue are shown.
	pageBuilds = 500
	// maxBlockers is how many are asked for of those that failed, and of the others.
	maxBlockers = 100
	lastBytes   = 4 << 10
)

// pageMsg is what came for the page of a build, or of a system.
type pageMsg struct {
	id     string
	story  *api.BuildStory
	why    *api.Why
	last   []string
	builds []api.Build
	more   bool // than builds has
	blocks *api.Blocking
	err    error
}

// job is what the page wants of the coordinator while it is in front.
func (p *page) job(m *model) job {
	client := m.client
	switch {
	case p.build != nil && p.tab == tabLog:
		m.asked++
		p.log = &logText{text: text{follow: true, search: p.text.search}, asked: m.asked}
		return readLog(client, p.build.ID, m.asked)
	case p.build != nil:
		return again(func(ctx context.Context) pageMsg { return readBuild(ctx, client, p.build.ID) })
	case p.name == blockingTitle:
		return again(func(ctx context.Context) pageMsg {
			blocks, err := client.Blocking(ctx, "", maxBlockers)
			return pageMsg{id: blockingTitle, blocks: blocks, err: err}
		})
	case p.pane != nil && p.make == nil:
		return again(func(ctx context.Context) pageMsg { return readQueue(ctx, client, p.name) })
	}
	return job{name: pageJob}
}

// again does something now and every few seconds.
func again(do func(ctx context.Context) pageMsg) job {
	return job{pageJob, func(ctx context.Context, send func(tea.Msg)) {
		for ctx.Err() == nil {
			send(do(ctx))
			_ = backoff.Wait(ctx, pageEvery)
		}
	}}
}

func readBuild(ctx context.Context, client *apiclient.Client, id string) pageMsg {
	msg := pageMsg{id: id}
	if msg.story, msg.err = client.Story(ctx, id); msg.err != nil {
		return msg
	}
	if msg.why, msg.err = client.Why(ctx, id); msg.err == nil && msg.why.Build.State == api.Building {
		// Without an answer it is left out: the log may not have begun.
		if log, err := client.LogTail(ctx, id, lastBytes); err == nil {
			msg.last = display.LogTail(log, 1)
		}
	}
	return msg
}

func readQueue(ctx context.Context, client *apiclient.Client, system string) pageMsg {
	filter := api.Filter{System: system, States: []api.State{api.Queued, api.Waiting}}
	list, err := client.Builds(ctx, apiclient.BuildFilter{Filter: filter, Limit: pageBuilds})
	if err != nil {
		return pageMsg{id: system, err: err}
	}
	return pageMsg{id: system, builds: list.Builds, more: list.Next != ""}
}

// pageCame shows what came for a page, if that is still open.
func (m *model) pageCame(msg pageMsg) {
	p := m.page()
	if p == nil || p.build == nil && p.name != msg.id || p.build != nil && p.build.ID != msg.id {
		return
	}
	p.err = ""
	if msg.err != nil {
		p.err = msg.err.Error()
		if p.pane != nil {
			p.pane.empty = ""
		}
		return
	}
	switch {
	case msg.blocks != nil:
		p.err, p.pane.empty = msg.blocks.Unknown, "nothing holds up others"
		p.pane.set(blockerRows(msg.blocks, m.now()))
	case msg.story != nil:
		p.story, p.why, p.last = msg.story, msg.why, msg.last
		p.build = &msg.story.Build
	default:
		p.title, p.pane.empty = "queue of "+p.name, "there are none"
		if msg.more {
			p.title = fmt.Sprintf("queue of %s, the newest %d", p.name, len(msg.builds))
		}
		p.pane.set(buildRows(msg.builds, m.now()))
	}
	p.refresh(m)
}

// readLog reads the end of a build's log, and follows it until the build is final.
func readLog(client *apiclient.Client, id string, asked int) job {
	return job{pageJob, func(ctx context.Context, send func(tea.Msg)) {
		var outage apiclient.Outage
		for {
			w := &logWriter{send: func(lines []string, rest string) {
				outage = apiclient.Outage{}
				send(&logPart{asked, lines, rest})
			}}
			err := client.LogOf(ctx, id, apiclient.LogQuery{Lines: askedLines, Follow: true}, w)
			if ctx.Err() != nil {
				return
			}
			if err == nil || !apiclient.Away(err) {
				send(logOver{asked, err})
				return
			}
			if outage.Wait(ctx, forever, err) != nil {
				return
			}
			send(logAnew{asked})
		}
	}}
}

// logCame shows what came of a log, if that is still open.
func (m *model) logCame(msg tea.Msg) {
	p := m.page()
	if p == nil || p.log == nil {
		return
	}
	switch msg := msg.(type) {
	case *logPart:
		if msg.asked == p.log.asked {
			p.log.add(msg)
		}
	case logOver:
		if msg.asked != p.log.asked {
			return
		}
		p.log.over = true
		var answer *api.Error
		if errors.As(msg.err, &answer) {
			p.log.err = human.Line(answer.Message)
		}
	case logAnew:
		if msg.asked == p.log.asked {
			p.log.lines, p.log.bytes, p.log.open, p.log.cut = nil, 0, false, false
		}
	}
}
