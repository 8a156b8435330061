package top

import (
	"context"
	"errors"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/backoff"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/cli/terminal"
)

// Command is "lighter top".
func Command() *command.Command {
	return &command.Command{
		Name:  "top",
		Short: "the farm on one screen, to look around in and to steer",
		Long: `Shows on a terminal what runs, the machines, what is to be done for each system, what failed lately, transfers, and what just happened, each second anew; above it how much there is to do, until when, and what is in the way.

The arrows, or j and k, move; Tab and the digits go to another table; / filters it, s sorts it, z gives it the whole screen. Return opens a build with its story, why it is where it is, and its log, which is followed and searched; or a machine, or the queue of a system. c cancels a build, r tries it again, p gives it another priority; d drains a machine, u gives it builds again; P pauses the coordinator and resumes it. Each says what will happen, and asks. Who does not operate may change only their own builds. The keys are at the bottom, and ? has all of them; q leaves.

Where the coordinator goes away, the screen says so, and goes on when it is back. For what is no terminal, and for scripts, there is "lighter status".`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter top", "look around; q leaves"},
			{"lighter top --socket /var/lib/lighter/coordinator.sock", "another coordinator"},
			{"NO_COLOR=1 lighter top", "without colours"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action { return base.ClientAction(fs, run) },
	}
}

func run(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
	screen := display.CanDraw(inv.Out, inv.Getenv)
	keys := terminal.Of(inv.In)
	if screen == nil || keys == nil {
		return inv.UsageErrorf(`wants a terminal that it can draw on, and keys; "lighter status" prints the same once`)
	}
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := newModel(client, status, display.StyleOf(inv.Out, inv.Getenv), time.Now)
	p := &program{model: m, ctx: ctx, ends: make(map[string]context.CancelFunc), ascii: terminal.OnlyASCII(inv.Getenv)}
	// Signals end ctx: they are the command's.
	t := tea.NewProgram(p, tea.WithContext(ctx), tea.WithInput(keys), tea.WithOutput(screen), tea.WithoutSignalHandler(), tea.WithFPS(20), tea.WithEnvironment(environment(inv)))
	p.send = t.Send
	_, err = t.Run()
	interrupted := errors.Is(context.Cause(ctx), command.ErrInterrupted)
	cancel(nil)
	p.group.Wait()
	if interrupted {
		return nil // a person who looks has seen enough
	}
	return err
}

// environment is what the library wants to know of the terminal.
func environment(inv *command.Invocation) (list []string) {
	for _, name := range []string{"TERM", "COLORTERM", "TERM_PROGRAM", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "SSH_TTY", "WT_SESSION", "TMUX"} {
		if value := inv.Getenv(name); value != "" {
			list = append(list, name+"="+value)
		}
	}
	return list
}

// job is work beside the screen. It tells what it finds, and ends with its context. One with a name ends the one before
// of that name; without anything to do it does only that.
type job struct {
	name string
	do   func(ctx context.Context, send func(tea.Msg))
}

// program is the model, as the library wants it, and the jobs, of which it is the owner.
type program struct {
	*model
	ctx   context.Context // that of all jobs
	send  func(tea.Msg)
	group sync.WaitGroup
	ends  map[string]context.CancelFunc
	ascii bool
}

func (p *program) start(j job) {
	if end := p.ends[j.name]; end != nil && j.name != "" {
		end()
	}
	if j.do == nil {
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.ends[j.name] = cancel
	p.group.Go(func() {
		defer cancel()
		j.do(ctx, func(msg tea.Msg) {
			if ctx.Err() == nil {
				p.send(msg)
			}
		})
	})
}

// Init begins what goes on until the end.
func (p *program) Init() tea.Cmd {
	p.start(pollStatus(p.client))
	p.start(follow(p.client, p.status.LastEvent+1))
	return nil
}

// Update is the library's word for what a message changes.
func (p *program) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	for _, j := range p.update(msg) {
		p.start(j)
	}
	if p.quit {
		return p, tea.Quit
	}
	cmd := p.once
	p.once = nil
	return p, cmd
}

// View is the whole screen.
func (p *program) View() tea.View {
	text, x, y := p.screen()
	if p.ascii {
		text = terminal.InASCII(text)
	}
	v := tea.NewView(text)
	v.AltScreen = true
	if x >= 0 {
		v.Cursor = tea.NewCursor(x, y)
	}
	return v
}

// pollEvery is how often the coordinator is asked for its status.
const pollEvery = time.Second

// pollStatus asks for the status now, and again and again.
func pollStatus(client *apiclient.Client) job {
	return job{"status", func(ctx context.Context, send func(tea.Msg)) {
		ticks := time.NewTicker(pollEvery)
		defer ticks.Stop()
		for {
			status, err := client.Status(ctx)
			send(statusMsg{status, err})
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
		}
	}}
}

// Bounds of what is told of events at once.
const (
	tellEvery  = 250 * time.Millisecond
	maxUntold  = 2000
	followWait = 5 * time.Second // after an answer that is not one
	forever    = 100 * 365 * 24 * time.Hour
)

// follow tells of events from a number on, some at a time.
func follow(client *apiclient.Client, from uint64) job {
	return job{"events", func(ctx context.Context, send func(tea.Msg)) {
		var mu sync.Mutex
		var untold []api.Event
		var group sync.WaitGroup
		defer group.Wait()
		group.Go(func() {
			ticks := time.NewTicker(tellEvery)
			defer ticks.Stop()
			for {
				select {
				case <-ticks.C:
				case <-ctx.Done():
					return
				}
				mu.Lock()
				events := untold
				untold = nil
				mu.Unlock()
				if len(events) > 0 {
					send(eventsMsg(events))
				}
			}
		})
		for ctx.Err() == nil {
			_ = client.FollowAcross(ctx, from, forever, func(ev *api.Event) error {
				from = ev.Seq + 1
				if ev.Kind == api.KindNote || !isNews(ev) && !ev.State.Running() {
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				if len(untold) == maxUntold {
					untold = untold[maxUntold/2:]
				}
				untold = append(untold, *ev)
				return nil
			})
			// What it refuses, the status says.
			_ = backoff.Wait(ctx, followWait)
		}
	}}
}

// isNews reports whether an event is shown: how a build ended, what a person did, and what became of a machine or of
// the coordinator.
func isNews(ev *api.Event) bool {
	return ev.Build == "" || ev.State.Final() || ev.Kind == api.KindOperator
}
