package top

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// prompt is a line that a person writes.
type prompt struct {
	label string
	text  []rune
	live  func(string) // told of each change
	done  func(string) // told of the whole line
}

// maxTyped bounds a line that a person writes, in characters.
const maxTyped = 200

// add adds what was typed or pasted, up to the end of a line.
func (p *prompt) add(text string) {
	text, _, _ = strings.Cut(strings.TrimLeft(text, "\r\n"), "\n")
	for _, r := range text {
		if len(p.text) < maxTyped && human.Printable(string(r)) == string(r) {
			p.text = append(p.text, r)
		}
	}
	p.changed()
}

func (p *prompt) changed() {
	if p.live != nil {
		p.live(string(p.text))
	}
}

// typed takes a key for the line that is written.
func (m *model) typed(msg tea.KeyPressMsg) {
	p := m.prompt
	switch key := msg.String(); key {
	case "enter":
		m.prompt = nil
		if p.done != nil {
			p.done(string(p.text))
		}
	case "esc":
		m.prompt = nil
		if p.live != nil {
			p.live("")
		}
	case "backspace":
		p.text = p.text[:max(0, len(p.text)-1)]
		p.changed()
	case "ctrl+u":
		p.text = nil
		p.changed()
	case "ctrl+w":
		text := strings.TrimRight(string(p.text), " ")
		p.text = []rune(text[:strings.LastIndexByte(text, ' ')+1])
		p.changed()
	default:
		p.add(msg.Text)
	}
}

// question is what is asked before something is done. Each key that is an answer does something; all others do nothing.
type question struct {
	text    string
	answers []answer
}

type answer struct {
	key, what string
	do        func()
}

func (m *model) answer(key string) {
	q := m.question
	m.question = nil
	for _, a := range q.answers {
		if strings.EqualFold(key, a.key) {
			a.do()
			return
		}
	}
	m.note, m.bad = "nothing was changed", false
}

// mayOperate says why the person may not do what is for operators; empty if they may.
func (m *model) mayOperate(what string) string {
	c := m.status.Caller
	if c == nil || c.Operates {
		return ""
	}
	return "only " + operators(c) + " may " + what
}

func operators(c *api.Caller) string {
	if c.Operators != "" {
		return c.Operators
	}
	return "operators"
}

// mayChange says why the person may not change a build; empty if they may.
func (m *model) mayChange(b *api.Build) string {
	c := m.status.Caller
	if c == nil || c.Operates || b.Submitter != nil && b.Submitter.UID == c.UID {
		return ""
	}
	whose := "the coordinator made it for others"
	if b.Submitter != nil {
		whose = "it is " + b.Submitter.String() + "'s"
	}
	return display.Name(b) + ": " + whose + ", and only " + operators(c) + " may change builds of others"
}

// askedMsg is a build as it is now, of which a person wants something.
type askedMsg struct {
	key   string
	story *api.BuildStory
	err   error
}

// steerBuild looks how a build is now, before anything is asked.
func (m *model) steerBuild(key string, b *api.Build) {
	client, id := m.client, b.ID
	m.begin(job{"ask", func(ctx context.Context, send func(tea.Msg)) {
		story, err := client.Story(ctx, id)
		send(askedMsg{key, story, err})
	}})
}

// ask asks about a build.
func (m *model) ask(msg askedMsg) {
	if msg.err != nil {
		m.say(msg.err.Error())
		return
	}
	b := &msg.story.Build
	if not := m.mayChange(b); not != "" {
		m.say(not)
		return
	}
	switch msg.key {
	case "c":
		m.askCancel(b, msg.story.WantedByCount)
	case "r":
		m.askRetry(b)
	case "p":
		m.askPriority(b)
	}
}

// called is how a question calls a build.
func called(b *api.Build) string { return display.Name(b) + " (" + display.ShortID(b.ID) + ")" }

func (m *model) askCancel(b *api.Build, wantedBy int) {
	if b.State.Final() {
		m.say(called(b) + " is over already: " + string(b.State))
		return
	}
	text := "Cancel " + called(b) + "? It is " + string(b.State) + "."
	if b.State.Running() {
		text = "Cancel " + called(b) + "? It is stopped on " + b.Machine
		if took := display.Took(b, m.now()); took > 0 {
			text += ", where it has been built for " + quantity.Elapsed(took)
		}
		text += "."
	}
	cancel := func(all bool) func() {
		return func() {
			m.change("canceled", &api.Selection{IDs: []string{b.ID}, WithDependents: all}, m.client.CancelAll)
		}
	}
	q := &question{text: text, answers: []answer{{"y", "cancel it", cancel(false)}}}
	if wantedBy > 0 {
		q.text += " " + human.Count(wantedBy, "build") + " need it: with y it is made anew for them, with a they are canceled too."
		q.answers = append(q.answers, answer{"a", "it and all that need it", cancel(true)})
	}
	m.question = q
}

func (m *model) askRetry(b *api.Build) {
	if !b.State.FailedItself() && b.State != api.DependencyFailed && b.State != api.Canceled {
		m.say(called(b) + " is " + string(b.State) + ": only builds that did not succeed are tried again")
		return
	}
	retry := func(all bool) func() {
		return func() {
			m.change("to be tried again", &api.Selection{IDs: []string{b.ID}, WithDependents: all}, m.client.Retry)
		}
	}
	q := &question{text: "Try " + called(b) + " again? " + ended(b.State) + "; it goes back into the queue.", answers: []answer{{"y", "try it again", retry(true)}}}
	if b.Dependents > 0 {
		q.text += " With y so do " + human.Count(b.Dependents, "build") + " that were not made because of it, with o only this one."
		q.answers = append(q.answers, answer{"o", "only this one", retry(false)})
	}
	m.question = q
}

// ended says how a build ended, in a sentence.
func ended(s api.State) string {
	switch s {
	case api.Failed:
		return "It failed"
	case api.TimedOut:
		return "It took too long"
	case api.DependencyFailed:
		return "It was not made, as something that it needs failed"
	}
	return "It was canceled"
}

func (m *model) askPriority(b *api.Build) {
	if b.State.Final() {
		m.say(called(b) + " is over already: " + string(b.State))
		return
	}
	m.prompt = &prompt{
		label: fmt.Sprintf("priority of %s, now %d; higher goes first, and what it needs with it: ", called(b), b.Priority),
		done: func(text string) {
			priority, err := strconv.Atoi(strings.TrimSpace(text))
			switch {
			case text == "":
				m.note = "nothing was changed"
			case err != nil:
				m.say(fmt.Sprintf("%q is not a priority; want a whole number", text))
			default:
				m.change("given priority "+strconv.Itoa(priority), &api.Selection{IDs: []string{b.ID}, Priority: priority}, m.client.Prioritise)
			}
		},
	}
}

// change has the coordinator change builds, and says what became of it.
func (m *model) change(participle string, s *api.Selection, do func(context.Context, *api.Selection) (*api.Selected, error)) {
	m.act(func(ctx context.Context) (string, error) {
		done, err := do(ctx, s)
		if err != nil {
			return "", err
		}
		if done.Count == 0 {
			return "nothing was changed: it is not any more as it was", nil
		}
		text := human.Count(done.Count, "build") + " " + participle
		if done.StandIns > 0 {
			text += "; " + human.Count(done.StandIns, "build") + " made anew, as others need them"
		}
		return text, nil
	})
}

// actTime is how long the coordinator may take for what a person asked for.
const actTime = time.Minute

// act does something that a person said yes to. No other job ends it.
func (m *model) act(do func(ctx context.Context) (string, error)) {
	m.note, m.bad = asking, false
	m.begin(job{"", func(ctx context.Context, send func(tea.Msg)) {
		ctx, cancel := context.WithTimeout(ctx, actTime)
		defer cancel()
		text, err := do(ctx)
		send(doneMsg{text, err})
	}})
}

// machine returns what is known of a machine, nil if it is gone.
func (m *model) machine(name string) *api.MachineStatus {
	for i := range m.status.Machines {
		if m.status.Machines[i].Name == name {
			return &m.status.Machines[i]
		}
	}
	return nil
}

// steerMachine drains a machine, or gives it builds again.
func (m *model) steerMachine(key, name string) {
	machine := m.machine(name)
	if machine == nil {
		m.say("there is no machine " + name + " any more")
		return
	}
	if not := m.mayOperate("drain machines and resume them"); not != "" {
		m.say(not)
		return
	}
	client := m.client
	if key == "d" {
		m.prompt = &prompt{
			label: "drain " + name + "? " + drained(machine) + "Return does it, Esc does not. Why: ",
			done: func(reason string) {
				m.act(func(ctx context.Context) (string, error) {
					status, err := client.Drain(ctx, name, reason)
					return stateText(name, status), err
				})
			},
		}
		return
	}
	if !machine.Draining && machine.Quarantined == "" {
		m.say(name + " is neither drained nor in quarantine; it is " + display.MachineState(machine))
		return
	}
	m.question = &question{text: "Give " + name + " builds again? It is " + display.MachineState(machine) + ": " + display.MachineNote(machine, m.now()), answers: []answer{{"y", "give it builds", func() {
		m.act(func(ctx context.Context) (string, error) {
			status, err := client.ResumeMachine(ctx, name)
			return stateText(name, status), err
		})
	}}}}
}

// drained says what draining a machine means now.
func drained(m *api.MachineStatus) string {
	if m.Running == 0 {
		return "It gets no new builds. "
	}
	return "It finishes " + human.Count(m.Running, "build") + " and gets no new ones. "
}

func stateText(name string, status *api.MachineStatus) string {
	if status == nil {
		return ""
	}
	return name + " is " + display.MachineState(status)
}

// pause pauses the coordinator, or has it go on.
func (m *model) pause() {
	if not := m.mayOperate("pause the coordinator and resume it"); not != "" {
		m.say(not)
		return
	}
	client, before := m.client, m.status.Paused
	if before == "" {
		running := len(m.status.Running)
		m.prompt = &prompt{
			label: "pause? Nothing new is started; " + human.Count(running, "build") + " on machines go on. Return does it, Esc does not. Why: ",
			done: func(reason string) {
				m.act(func(ctx context.Context) (string, error) {
					return "paused; what runs goes on", client.Pause(ctx, reason)
				})
			},
		}
		return
	}
	m.question = &question{text: "Start builds again? It is " + display.Paused(before), answers: []answer{{"y", "go on", func() {
		m.act(func(ctx context.Context) (string, error) {
			if err := client.Resume(ctx); err != nil {
				return "", err
			}
			after, err := client.Status(ctx)
			switch {
			case err != nil:
				return "", err
			case after.Paused == before:
				return "nobody has paused it, but it is " + display.Paused(before), nil
			case after.Paused != "":
				return "resumed, but still " + display.Paused(after.Paused), nil
			}
			return "resumed", nil
		})
	}}}}
}
