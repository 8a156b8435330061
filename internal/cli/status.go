package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/cli/terminal"
)

func statusCommand() *command.Command {
	return &command.Command{
		Name:  "status",
		Short: "show the coordinator at a glance",
		Long: `Shows in one screen whether builds are placed, what there is to do for each system and until when, when all of it will probably be done, the machines, what failed lately, and what is under way. On a terminal it fills the screen, and says how much does not fit; elsewhere it shows everything.

With --watch the keys j and k, the arrows, space, b, g and G move through everything, and q leaves. "lighter top" shows more, and can do something about it.

CPU/MEM is the percentage of the last seconds in which some task on the machine waited for the processor, and for memory. An arrow up is a transfer to the machine, one down a transfer from it.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter status", "builds, machines, what runs and what travels"},
			{"lighter status --watch", "the same, every second, until q is pressed"},
			{"lighter status --json | jq .counts", "for a program"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			asJSON := fs.Bool("json", false, "print a JSON object; with --watch one a line")
			watch := fs.BoolP("watch", "w", false, "refresh every second")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				if *watch {
					return watchStatus(ctx, inv, client, *asJSON)
				}
				status, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if *asJSON {
					return base.WriteJSON(inv.Out, status)
				}
				return writeStatus(inv, status, time.Now())
			})
		},
	}
}

// writeStatus writes the page of "lighter status".
func writeStatus(inv *command.Invocation, s *api.Status, now time.Time) error {
	width, height := 0, 0
	if t := terminal.Of(inv.Out); t != nil {
		if width, height = terminal.Size(t); height > 1 {
			height-- // for the prompt
		}
	}
	lines := display.StatusLines(s, now, width, height, display.StyleOf(inv.Out, inv.Getenv))
	_, err := fmt.Fprintln(inv.Out, strings.Join(lines, "\n"))
	return err
}

// statusInterval is how often "status --watch" asks.
const statusInterval = time.Second

// watchStatus shows the status until the context ends, which is a good end.
func watchStatus(ctx context.Context, inv *command.Invocation, client *apiclient.Client, asJSON bool) error {
	if !asJSON && display.CanDraw(inv.Out, inv.Getenv) == nil {
		return inv.UsageErrorf("--watch wants a terminal that it can draw on, or --json")
	}
	show := func(s *api.Status, _ error) error { return base.WriteJSONLine(inv.Out, s) }
	w := newStatusWatcher(inv)
	if !asJSON {
		var stopKeys func()
		w.keys, stopKeys = terminal.Keys(inv.In)
		defer stopKeys()
		defer w.close()
		show = w.show
	}
	resized, stop := display.Resized()
	defer stop()
	err := pollStatus(ctx, client, resized, w, show)
	if errors.Is(context.Cause(ctx), command.ErrInterrupted) {
		return nil
	}
	return err
}

// pollStatus calls show with the status now and then, with the last one and an error where
// the coordinator is away, for at most coordinatorGrace.
func pollStatus(ctx context.Context, client *apiclient.Client, resized <-chan os.Signal, w *statusWatcher, show func(*api.Status, error) error) error {
	ticks := time.NewTicker(statusInterval)
	defer ticks.Stop()
	var last *api.Status
	answered := time.Now()
	for {
		status, err := client.Status(ctx)
		switch {
		case err == nil:
			last, answered = status, time.Now()
			err = show(status, nil)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case last != nil && time.Since(answered) < base.CoordinatorGrace:
			err = show(last, err)
		}
		if err != nil {
			return err
		}
		select {
		case <-ticks.C:
		case <-resized:
		case key := <-w.keys:
			if key == "q" {
				return nil
			}
			w.scroll(key)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// statusWatcher draws the status in place.
type statusWatcher struct {
	screen *display.Screen
	style  display.Style
	keys   <-chan string
	top    int // the first line to show of the whole page; 0 shows a page that fits
	last   []string
}

func newStatusWatcher(inv *command.Invocation) *statusWatcher {
	return &statusWatcher{screen: display.OnTerminal(inv.Out), style: display.StyleOf(inv.Out, inv.Getenv)}
}

// scroll moves the page as a key says.
func (w *statusWatcher) scroll(key string) {
	_, height := w.screen.Size()
	switch key {
	case "j", "down", "\n":
		w.top++
	case "k", "up":
		w.top--
	case " ", "page-down":
		w.top += height - 1
	case "b", "page-up":
		w.top -= height - 1
	case "g", "home":
		w.top = 0
	case "G", "end":
		w.top = math.MaxInt32
	}
	w.top = max(0, w.top)
}

// page returns the lines that fit, or a part of all.
func (w *statusWatcher) page(s *api.Status, width, height int) []string {
	if w.top == 0 {
		return display.StatusLines(s, time.Now(), width, height, w.style)
	}
	all := display.StatusLines(s, time.Now(), width, 0, w.style)
	w.top = max(0, min(w.top, len(all)-height))
	return all[w.top:min(w.top+height, len(all))]
}

func (w *statusWatcher) show(s *api.Status, lost error) error {
	width, height := w.screen.Size()
	if lost != nil {
		height = max(1, height-1)
	}
	w.last = w.page(s, width, height)
	if lost != nil {
		w.last = append(w.last, w.style.Verdict(false, "", "the coordinator went away; waiting for it to come back"))
	}
	return w.screen.Draw(nil, w.last)
}

// close leaves the last page on the terminal.
func (w *statusWatcher) close() { _ = w.screen.Close(w.last) }
