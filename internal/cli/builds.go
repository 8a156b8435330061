package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

func buildsCommand() *command.Command {
	return &command.Command{
		Name:  "builds",
		Short: "look at builds; wait for, cancel, retry, prune them",
		Long: `Every build has an id; the first eight characters are enough. The coordinator
remembers all builds until they are pruned.`,
		Sub: []*command.Command{
			buildsListCommand(), buildsShowCommand(), buildsLogCommand(), buildsWhyCommand(), buildsWaitCommand(),
			buildsCancelCommand(), buildsRetryCommand(), buildsPriorityCommand(), buildsPruneCommand(),
		},
	}
}

func buildsListCommand() *command.Command {
	return &command.Command{
		Name:  "list",
		Pages: true,
		Short: "list builds, newest first",
		Long: `Lists the builds that all the filters select. Builds come page by page, so that even a million of them take constant memory, and the first ones show at once.

END says between when and when a build will be done, four times in five; below what some filters select is when the last of these will be. Where that can't be told, it is left out.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter builds list", "the last ones"},
			{"lighter builds list --state failed,timed-out --since yesterday", "what failed since yesterday"},
			{"lighter builds list --state running", "what is on machines now"},
			{"lighter builds list --name 'python-*' --system aarch64-linux --state open", "what is left to do of these"},
			{"lighter builds list --tag branch=master --not-tag commit=3f2a91c --ids --limit 0", "ids for a program"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			l := &buildsLister{}
			l.filters = addFilterFlags(fs)
			fs.IntVarP(&l.limit, "limit", "n", 30, "show at most this many; 0 means all")
			fs.BoolVar(&l.absolute, "absolute", false, "show dates instead of ages")
			fs.BoolVar(&l.ids, "ids", false, "print only the ids, one a line")
			fs.BoolVar(&l.json, "json", false, "print one JSON object a line")
			return base.ClientAction(fs, l.run)
		},
	}
}

// buildsLister is one run of "lighter builds list".
type buildsLister struct {
	filters             *filterFlags
	limit               int
	absolute, ids, json bool

	now   time.Time
	whose bool // there is a column that says for whom builds are
	ends  bool // there is one that says when they will be done
	live  bool // some are not final
	table display.TableStream
	shown int
}

func (l *buildsLister) run(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
	if l.limit < 0 || l.ids && l.json {
		return inv.UsageErrorf("--limit can't be negative, and --ids does not go with --json")
	}
	l.now = time.Now()
	filter, err := l.filters.filter(inv, l.now)
	if err != nil {
		return err
	}
	l.table = display.TableStream{W: inv.Out, Width: display.Width(inv.Out), Style: display.StyleOf(inv.Out, inv.Getenv), State: 1}
	more, err := client.EachPage(ctx, filter, l.limit, func(page []api.Build) error {
		l.shown += len(page)
		return l.write(inv, page)
	})
	switch {
	case err != nil:
		return err
	case l.shown == 0 && !l.json:
		fmt.Fprintln(inv.Err, "no builds")
	case more && !l.json && !inv.Flags.Changed("limit"):
		fmt.Fprintln(inv.Err, "there are more; see --limit")
	}
	if l.live && !l.json && !l.ids && !filter.Empty() {
		// Without an answer it is left out: it is no part of the list.
		if o, err := client.Outlook(ctx, &api.Selection{Filter: filter}); err == nil && o.ExpectedEnd != nil {
			fmt.Fprintln(inv.Err, human.Printable(display.Outlook(o, l.now)))
		}
	}
	return nil
}

// write shows one page.
func (l *buildsLister) write(inv *command.Invocation, page []api.Build) error {
	t := display.Table{}
	if l.table.Heading == nil {
		l.setColumns(page)
	}
	for i := range page {
		b := &page[i]
		l.live = l.live || !b.State.Final()
		switch {
		case l.json:
			if err := base.WriteJSONLine(inv.Out, b); err != nil {
				return err
			}
		case l.ids:
			if _, err := fmt.Fprintln(inv.Out, human.Printable(b.ID)); err != nil {
				return err
			}
		default:
			t.Add(l.row(b)...)
		}
	}
	if len(t.Rows) == 0 {
		return nil
	}
	return l.table.Write(t.Rows)
}

// setColumns decides on the columns when the first page is there: where all builds are for one, nobody
// wants to know for whom. Those that "show" has too are optional.
func (l *buildsLister) setColumns(first []api.Build) {
	l.table.Heading, l.table.Optional = []string{"ID", "STATE", "NAME", "MACHINE", "SUBMITTED", "TOOK", "WHY"}, []int{3, 5}
	for i := range first {
		l.whose = l.whose || first[i].Share != first[0].Share
		l.ends = l.ends || first[i].ExpectedEnd != nil
	}
	if l.whose {
		l.table.Heading, l.table.Optional = slices.Insert(l.table.Heading, 3, "FOR"), []int{4, 6, 3}
	}
	if l.ends { // before WHY, and the first to go
		last := len(l.table.Heading) - 1
		l.table.Heading, l.table.Optional = slices.Insert(l.table.Heading, last, "END"), slices.Insert(l.table.Optional, 0, last)
	}
}

// row has the cells of a build.
func (l *buildsLister) row(b *api.Build) []string {
	submitted := human.ShortAgo(b.Submitted, l.now)
	if l.absolute {
		submitted = human.Stamp(b.Submitted)
	}
	took := display.Took(b, l.now)
	row := []string{
		display.ShortID(b.ID), string(b.State), display.Name(b), human.Known(b.Machine != "", b.Machine), submitted,
		human.Known(took > 0, quantity.Duration(took)), display.Reason(b),
	}
	if l.ends {
		row = slices.Insert(row, len(row)-1, display.ExpectedColumn(b.ExpectedEnd, l.now))
	}
	if l.whose {
		row = slices.Insert(row, 3, human.Known(b.Share != "", b.Share))
	}
	return row
}

func buildsShowCommand() *command.Command {
	return &command.Command{
		Name:  "show",
		Pages: true,
		Args:  "ID…",
		Short: "tell the story of a build",
		Long:  `Shows all that is known of a build: what happened to it, and when.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter builds show 3f2a91c0", "one build"},
			{"lighter builds show --json 3f2a91c0 | jq .events", "for a program"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				return base.ShowEach(inv, *asJSON, func(id string) (*api.BuildStory, error) { return client.Story(ctx, id) }, func(story *api.BuildStory) error {
					var why *api.Why
					if !story.Build.State.Final() {
						// What it waits for, and what is reserved for it, is no part of the record; without an
						// answer it is left out.
						why, _ = client.Why(ctx, story.Build.ID)
					}
					return display.Story(inv.Out, story, why, time.Now(), display.Width(inv.Out))
				})
			})
		},
	}
}

func buildsLogCommand() *command.Command {
	return &command.Command{
		Name:  "log",
		Pages: true,
		Args:  "ID",
		Short: "print the log of a build",
		Long: `Prints what the builder of the current or last attempt wrote. On a terminal,
control characters other than colours are made harmless. For a check, the log
is of the first machine on which the build failed, or else of the first one.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter builds log 3f2a91c0", "all of it"},
			{"lighter builds log --follow 3f2a91c0", "and what follows, until the build is finished"},
			{"lighter builds log --tail 50 3f2a91c0", "only the last 50 lines"},
			{"lighter builds log --follow --tail 10 3f2a91c0", "the last 10 lines, and what follows"},
			{"lighter builds log --attempt 1 3f2a91c0", "what the first attempt wrote, of one that was retried"},
			{"lighter builds log --machine beta 3f2a91c0", "what the last attempt on beta wrote; of a check, what beta wrote"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			follow := fs.BoolP("follow", "f", false, "go on until the build is finished")
			offset := fs.Int64("offset", 0, "start at this byte")
			attempt := fs.Int("attempt", 0, "the log of this attempt, by `NUMBER`; the first is 1")
			machine := fs.StringP("machine", "m", "", "the log of the last attempt on this machine, by `NAME`")
			tail := fs.IntP("tail", "n", 0, "print only the last `N` lines; with --follow also what follows")
			var last command.Size
			fs.Var(&last, "bytes", "print only this much of the end, such as 4KiB")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				given := func(flag string) bool { return inv.Flags.Changed(flag) }
				switch {
				case *offset < 0 || *tail < 0:
					return inv.UsageErrorf("--offset and --tail can't be negative")
				case given("tail") && (given("bytes") || given("offset")), given("bytes") && (given("follow") || given("offset")):
					return inv.UsageErrorf("--tail goes with neither --bytes nor --offset, and --bytes with neither --follow nor --offset")
				}
				if *attempt < 0 || *attempt > 0 && *machine != "" {
					return inv.UsageErrorf("--attempt does not go with --machine, and can't be negative")
				}
				query := apiclient.LogQuery{Attempt: *attempt, Machine: *machine, Offset: *offset, Lines: *tail, Follow: *follow}
				out, finish := display.LogWriter(inv.Out)
				if last > 0 {
					text, err := client.LogTailOf(ctx, inv.Args[0], query, int64(last))
					if err != nil {
						return err
					}
					_, err = out.Write(text)
					return cmp.Or(err, finish())
				}
				return cmp.Or(client.LogOf(ctx, inv.Args[0], query, out), finish())
			})
		},
	}
}

func buildsWhyCommand() *command.Command {
	return &command.Command{
		Name:  "why",
		Pages: true,
		Args:  "ID",
		Short: "say what holds a build up",
		Long:  `Says what a build waits for, its place in the queue, and for each machine whether it could take it now, and if not, which rule is in the way. Of a build that runs it says where, since when, how long it usually takes, and the last line of its log; of one that is over, how it ended.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter builds why 3f2a91c0", "why does it not start?"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			asJSON := fs.Bool("json", false, "print a JSON object")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				why, err := client.Why(ctx, inv.Args[0])
				if err != nil {
					return err
				}
				if *asJSON {
					return base.WriteJSON(inv.Out, why)
				}
				return writeWhy(ctx, inv, client, why)
			})
		},
	}
}
