package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/cli/human"
	"lighter/store"
)

func buildsCommand() *command {
	return &command{
		name:  "builds",
		short: "look at builds, their logs, and cancel them",
		long: `Every build has an id; the first eight characters are enough. The coordinator
remembers all builds.`,
		sub: []*command{
			buildsListCommand(), buildsShowCommand(), buildsLogCommand(), buildsWhyCommand(), buildsCancelCommand(),
		},
	}
}

func buildsListCommand() *command {
	return &command{
		name:  "list",
		short: "list builds, the newest first",
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter builds list", "the last ones"},
			{"lighter builds list --only failed,timed-out --since 24h", "what failed since yesterday"},
			{"lighter builds list --running", "what is on machines now"},
			{"lighter builds list --tag nightly=1 --json | jq -r .id", "ids for a program"},
		},
		setup: func(fs *pflag.FlagSet) action {
			l := &buildsLister{}
			where := socketFlags(fs)
			fs.StringSliceVarP(&l.states, "only", "o", nil, "only builds in these states: "+joinStates(", "))
			fs.BoolVar(&l.running, "running", false, "only builds that are on a machine now")
			fs.BoolVar(&l.open, "open", false, "only builds that are not finished")
			fs.StringVarP(&l.filter.Machine, "machine", "m", "", "only builds whose last attempt was on this machine")
			fs.StringVar(&l.derivation, "derivation", "", "only builds of this derivation")
			fs.StringToStringVar(&l.filter.Tags, "tag", nil, "only builds with the tag `k=v`; may be repeated")
			fs.DurationVar(&l.since, "since", 0, "only builds submitted less than this ago, such as 24h")
			fs.IntVarP(&l.limit, "limit", "n", 30, "show at most so many; 0 is all")
			fs.BoolVar(&l.json, "json", false, "print one JSON object a line")
			return clientAction(where, l.run)
		},
	}
}

func joinStates(between string) string {
	var names []string
	for _, s := range api.States() {
		names = append(names, string(s))
	}
	return strings.Join(names, between)
}

// buildsLister is one run of "lighter builds list".
type buildsLister struct {
	states        []string
	running, open bool
	derivation    string
	since         time.Duration
	limit         int
	json          bool
	filter        apiclient.BuildFilter
}

func (l *buildsLister) run(ctx context.Context, inv *invocation, client *apiclient.Client, _ folders) error {
	if err := inv.arguments("", 0, 0); err != nil {
		return err
	}
	if err := l.complete(inv); err != nil {
		return err
	}
	now := time.Now()
	if l.since > 0 {
		l.filter.Since = now.Add(-l.since)
	}
	var shown []api.Build
	more := false
	err := l.each(ctx, client, func(b *api.Build) (bool, error) {
		if l.limit > 0 && len(shown) == l.limit {
			more = true
			return false, nil
		}
		shown = append(shown, *b)
		if l.json {
			return true, writeJSONLine(inv.Out, b)
		}
		return true, nil
	})
	if err != nil || l.json {
		return err
	}
	if len(shown) == 0 {
		fmt.Fprintln(inv.Err, "no builds")
		return nil
	}
	if err := writeBuilds(inv, shown, now); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(inv.Err, "there are more; see --limit\n")
	}
	return nil
}

func (l *buildsLister) complete(inv *invocation) error {
	for _, name := range l.states {
		if !slices.Contains(api.States(), api.State(name)) {
			return usageErrorf("%s: no state is called %q; they are %s", inv.flags.Name(), name, joinStates(", "))
		}
		l.filter.States = append(l.filter.States, api.State(name))
	}
	for _, s := range api.States() {
		if l.running && s.Running() || l.open && !s.Final() {
			l.filter.States = append(l.filter.States, s)
		}
	}
	if l.derivation == "" {
		return nil
	}
	path, err := store.ParsePath(l.derivation)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	l.filter.Derivation = path
	return nil
}

// each calls fn for the builds of all pages, until it returns false.
func (l *buildsLister) each(ctx context.Context, client *apiclient.Client, fn func(*api.Build) (bool, error)) error {
	for {
		page, err := client.Builds(ctx, l.filter)
		if err != nil {
			return err
		}
		for i := range page.Builds {
			if more, err := fn(&page.Builds[i]); err != nil || !more {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		l.filter.After = page.Next
	}
}

func buildsShowCommand() *command {
	return &command{
		name:  "show",
		args:  "ID…",
		short: "tell the story of a build",
		long:  `Shows all that is known of a build, and what happened to it, and when.`,
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter builds show 3f2a91c0", "one build"},
			{"lighter builds show --json 3f2a91c0 | jq .events", "for a program"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := socketFlags(fs)
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return clientAction(where, func(ctx context.Context, inv *invocation, client *apiclient.Client, _ folders) error {
				if err := inv.arguments("ID", 1, -1); err != nil {
					return err
				}
				for i, id := range inv.args {
					story, err := client.Story(ctx, id)
					if err != nil {
						return err
					}
					if *asJSON {
						err = writeJSONLine(inv.Out, story)
					} else {
						if i > 0 {
							fmt.Fprintln(inv.Out)
						}
						err = writeStory(inv.Out, &story.Build, story.Events, time.Now())
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func buildsLogCommand() *command {
	return &command{
		name:  "log",
		args:  "ID",
		short: "print the log of a build",
		long: `Prints what the builder of the current or last attempt wrote. On a terminal,
control characters other than colours are made harmless.`,
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter builds log 3f2a91c0", "all of it"},
			{"lighter builds log --follow 3f2a91c0", "and what comes, until the build is finished"},
			{"lighter builds log --tail 4KiB 3f2a91c0", "only the end"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := socketFlags(fs)
			follow := fs.BoolP("follow", "f", false, "go on until the build is finished")
			offset := fs.Int64("offset", 0, "start at this byte")
			var tail sizeValue
			fs.Var(&tail, "tail", "print only so many bytes at the end, such as 4KiB")
			return clientAction(where, func(ctx context.Context, inv *invocation, client *apiclient.Client, _ folders) error {
				if err := inv.arguments("ID", 1, 1); err != nil {
					return err
				}
				if *offset < 0 || tail > 0 && (*follow || *offset > 0) {
					return usageErrorf("%s: --tail goes with neither --follow nor --offset, and --offset can't be negative", inv.flags.Name())
				}
				out, finish := logWriter(inv.Out)
				if tail > 0 {
					text, err := client.LogTail(ctx, inv.args[0], int64(tail))
					if err != nil {
						return err
					}
					_, err = out.Write(text)
					return firstError(err, finish())
				}
				return firstError(client.Log(ctx, inv.args[0], *offset, *follow, out), finish())
			})
		},
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// logWriter returns where to write a log: to w as it is, or, if that is a
// terminal, line by line with what is dangerous made harmless. finish writes what
// is left and waits until all is written.
func logWriter(w io.Writer) (out io.Writer, finish func() error) {
	if terminal(w) == nil {
		return w, func() error { return nil }
	}
	r, pipe := io.Pipe()
	done := make(chan error, 1)
	go func() {
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				if _, err := io.WriteString(w, human.LogColours(line)); err != nil {
					r.CloseWithError(err)
					done <- err
					return
				}
			}
			if err != nil {
				done <- nil
				return
			}
		}
	}()
	return pipe, func() error {
		pipe.Close()
		return <-done
	}
}

func buildsWhyCommand() *command {
	return &command{
		name:  "why",
		args:  "ID",
		short: "say why a build is not further",
		long: `Says what a build waits for, and of each machine whether it could take it now,
and if not, which rule is in the way.`,
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter builds why 3f2a91c0", "why does it not start?"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := socketFlags(fs)
			asJSON := fs.Bool("json", false, "print a JSON object")
			return clientAction(where, func(ctx context.Context, inv *invocation, client *apiclient.Client, _ folders) error {
				if err := inv.arguments("ID", 1, 1); err != nil {
					return err
				}
				why, err := client.Why(ctx, inv.args[0])
				if err != nil {
					return err
				}
				if *asJSON {
					return writeJSON(inv.Out, why)
				}
				writeWhy(inv.Out, why)
				return nil
			})
		},
	}
}

func writeWhy(w io.Writer, why *api.Why) {
	fmt.Fprintf(w, "%s is %s: %s\n", human.Printable(display.Name(&why.Build)), why.Build.State, human.Printable(why.Summary))
	for i := range why.WaitsFor {
		b := &why.WaitsFor[i]
		fmt.Fprintf(w, "  waits for %s %s, which is %s\n", b.ID[:min(shortID, len(b.ID))], human.Printable(display.Name(b)), b.State)
	}
	for i := range why.Machines {
		fmt.Fprintf(w, "  %s\n", human.Printable(why.Machines[i].String()))
	}
	for i := range why.Attempts {
		fmt.Fprintf(w, "  tried before: %s\n", human.Printable(why.Attempts[i].Error()))
	}
}

func buildsCancelCommand() *command {
	return &command{
		name:  "cancel",
		args:  "ID…",
		short: "cancel builds",
		long: `Cancels builds, and those that only exist for their sake. Builds that are finished
stay as they are.`,
		exits: []int{exitNoAnswer},
		examples: []example{
			{"lighter builds cancel 3f2a91c0 77b0c2de", "two builds"},
			{"lighter builds list --open --limit 0 --json | jq -r .id | xargs lighter builds cancel", "all of them"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := socketFlags(fs)
			return clientAction(where, func(ctx context.Context, inv *invocation, client *apiclient.Client, _ folders) error {
				if err := inv.arguments("ID", 1, -1); err != nil {
					return err
				}
				if err := client.Cancel(ctx, inv.args...); err != nil {
					return err
				}
				for _, id := range inv.args {
					b, err := client.Build(ctx, id)
					if err != nil {
						return err
					}
					fmt.Fprintf(inv.Out, "%s %s\n", b.ID, cancelWord(b.State))
				}
				return nil
			})
		},
	}
}

// cancelWord says what became of a build that was to be canceled.
func cancelWord(s api.State) string {
	switch {
	case s == api.Canceled:
		return "canceled"
	case s.Final():
		return "was " + string(s) + " already"
	}
	return "is being canceled"
}
