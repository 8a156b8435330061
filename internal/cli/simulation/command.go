// Package simulation is "lighter simulate": it has builds made on modelled machines, and says how
// long that takes. What is to be built comes from a file, from the ledger, from what waits, or from
// derivations; the machines from a machines file, with what was measured of them, changed as
// what-ifs say. What plays it is package scheduler/simulate.
//
// The language of what-ifs, the reading of a ledger's builds, and the picture are pure.
package simulation

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/coordinator/expand"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/disk"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/settings"
	"lighter/internal/submission"
	"lighter/scheduler/estimate"
	"lighter/scheduler/simulate"
	"lighter/store"
)

const (
	maxWhatIfs = 50
	maxRuns    = 1000
	// maxGraphFile bounds a graph, in bytes after decompression.
	maxGraphFile = 2 << 30
)

// Command returns "lighter simulate".
func Command() *command.Command {
	return &command.Command{
		Name:  "simulate",
		Args:  "[DRV…]",
		Short: "see how long builds would take, here or on other machines",
		Long: `Plays builds on a model of the machines, with the code that places real ones, and
shows how long that would take, beside a time in which nobody can be done; how
much of each machine would be used; what would be carried; and how long those who
ask would wait. Nothing is built, and no machine is asked.

What is built is one of: the derivations DRV… with all that they need and the
head's store has not; a graph in a file (--graph); what the ledger says was built
(--ledger), with the times that it really took; or what is left of a submission
(--submission).

The machines are those of the machines file, with the speeds, links and memory
that the coordinator has measured. Each --what-if is one more result beside
theirs. It is sentences, with commas between them:
  add N like NAME          remove NAME
  NAME speed 2             NAME slots 8          NAME memory 64GiB
  NAME bandwidth 100MB     NAME away 2h..6h
NAME may be a pattern, such as big*. Times are after the start.

Durations are those that were measured of each package; of others they are
supposed. With --runs they are drawn anew each time from what is likely.`,
		Exits: []int{command.ExitNoAnswer, command.ExitBadInput},
		Examples: []command.Example{
			{"lighter simulate /gnu/store/…-hello-2.12.drv", "how long would this take now?"},
			{`lighter simulate --ledger --since yesterday --what-if "add 2 like big1"`, "would two more machines have helped?"},
			{`lighter simulate --submission nightly --what-if "remove slow" --what-if "slow speed 2"`, "is the slow one of use?"},
			{"lighter simulate --graph world.tsv.gz --policy lighter,guix,fifo --runs 5", "is the order good?"},
			{"lighter simulate --ledger --svg yesterday.svg", "draw yesterday, a bar for each build"},
		},
		ChecksArguments: true,
		Setup:           setup,
	}
}

// action is one run of the command.
type action struct {
	where                       *base.FolderFlags
	machines, graph, submission string
	ledger                      bool
	since, until                string
	whatIfs, policies           []string
	bandwidths, prices          []string
	seed                        uint64
	runs                        int
	knows                       string
	json, attempts              bool
	svg                         string

	now time.Time
}

func setup(fs *pflag.FlagSet) command.Action {
	a := &action{}
	fs.StringVar(&a.machines, "machines", "", "the machines are in `FILE` (default the head's machines file)")
	fs.StringVar(&a.graph, "graph", "", "what is built is in `FILE`, or in - for standard input: six columns with tabs between them, index, name, system, flags (F a download, R asked for), features, inputs (indices), the last two with commas; may be compressed with gzip")
	fs.BoolVar(&a.ledger, "ledger", false, "what is built is what was built, since yesterday if --since does not say")
	fs.StringVar(&a.since, "since", "", "with --ledger: builds submitted at this `TIME` or later: 2h (ago), yesterday, monday, 14:30, 2026-11-20")
	fs.StringVar(&a.until, "until", "", "with --ledger: builds submitted before this `TIME`")
	fs.StringVar(&a.submission, "submission", "", "what is built is what is left of the submission `NAME`, or of builds with the tag k=v")
	fs.StringArrayVar(&a.whatIfs, "what-if", nil, "also with `CHANGES` of the machines, such as \"add 2 like big1\"; may be repeated")
	fs.StringSliceVar(&a.policies, "policy", []string{string(simulate.Lighter)}, "who places builds: "+strings.Join(policyNames(), ", ")+", all; with commas between several")
	fs.StringArrayVar(&a.bandwidths, "bandwidth", nil, "the link to machine `NAME=50MB` carries so much in a second; may be repeated")
	fs.StringArrayVar(&a.prices, "price", nil, "an hour of machine `NAME=0.12/h` costs that; may be repeated")
	fs.Uint64Var(&a.seed, "seed", 1, "for what happens by chance; the same seed always gives the same result")
	fs.IntVar(&a.runs, "runs", 1, "play each so many times, with other durations, and show the mean and the worst")
	fs.StringVar(&a.knows, "knowledge", string(knowsWork), "what is known of builds before: `HOW` is perfect, learnt (in five runs that differed a little) or nothing")
	fs.BoolVar(&a.json, "json", false, "print all as JSON; times are in seconds, sizes in bytes")
	fs.BoolVar(&a.attempts, "attempts", false, "with --json: also each attempt at a build")
	fs.StringVar(&a.svg, "svg", "", "draw time lines of all results into `FILE`, for a browser")
	a.where = base.AllFolderFlags(fs)
	return a.where.Action(a.run)
}

func policyNames() (names []string) {
	for _, p := range simulate.Policies {
		names = append(names, string(p))
	}
	return names
}

// check looks at the flags.
func (a *action) check(inv *command.Invocation) error {
	sources := 0
	for _, is := range []bool{len(inv.Args) > 0, a.graph != "", a.ledger, a.submission != ""} {
		if is {
			sources++
		}
	}
	switch {
	case sources == 0:
		return inv.UsageErrorf("what is to be built? want DRV…, --graph FILE, --ledger or --submission NAME; see \"%s --help\"", inv.Flags.Name())
	case sources > 1:
		return inv.UsageErrorf("want one of DRV…, --graph, --ledger and --submission")
	case !a.ledger && (a.since != "" || a.until != ""):
		return inv.UsageErrorf("--since and --until go with --ledger")
	case a.attempts && !a.json:
		return inv.UsageErrorf("--attempts goes with --json")
	case a.runs < 1 || a.runs > maxRuns:
		return inv.UsageErrorf("--runs %d: want a number from 1 to %d", a.runs, maxRuns)
	case len(a.whatIfs) > maxWhatIfs:
		return inv.UsageErrorf("%d of --what-if: at most %d", len(a.whatIfs), maxWhatIfs)
	case !slices.Contains([]knowing{knowsWork, knowsLearnt, knowsNothing}, knowing(a.knows)):
		return inv.UsageErrorf("--knowledge %q: want %s, %s or %s", a.knows, knowsWork, knowsLearnt, knowsNothing)
	}
	return nil
}

func (a *action) run(ctx context.Context, inv *command.Invocation, f head.Folders) (err error) {
	a.now = time.Now()
	if err := a.check(inv); err != nil {
		return err
	}
	p := &play{seed: a.seed, runs: a.runs, knows: knowing(a.knows)}
	if p.policies, err = policiesOf(a.policies); err != nil {
		return inv.UsageErrorf("--policy: %w", err)
	}
	if len(p.policies) == 0 {
		return inv.UsageErrorf("--policy: which one? %s", strings.Join(policyNames(), ", "))
	}
	if a.machines != "" {
		f.Machines = a.machines
	}
	list, err := base.ReadMachines(ctx, inv, f.MachinesFile(), "lighter: ")
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("%s has no machines", f.MachinesFile())
	}
	err = openPast(ctx, f, a.ledger || a.submission != "", func(past past) error {
		known, err := past.machines(ctx)
		if err != nil {
			return err
		}
		own, measured, links := fleetOf(list, known)
		if err := setEach(own, a.bandwidths, setBandwidth); err != nil {
			return inv.UsageErrorf("--bandwidth %w", err)
		}
		if err := setEach(own, a.prices, setPrice); err != nil {
			return inv.UsageErrorf("--price %w", err)
		}
		builds, err := a.work(ctx, inv, f, past, own, p)
		if err != nil {
			return err
		}
		if past == (nothing{}) {
			p.work.notes = append(p.work.notes, "neither a coordinator nor a ledger can be asked: nothing that was measured is known")
		}
		if note := sameHosts(list); note != "" {
			p.work.notes = append(p.work.notes, note)
		}
		if guessed := links - measured; guessed > 0 && len(a.bandwidths) == 0 {
			p.work.notes = append(p.work.notes, fmt.Sprintf("the links of %s were never measured: 12.5 MB/s are supposed; see --bandwidth", human.Count(guessed, "machine")))
		}
		byMachine, usual, err := overheads(ctx, past, builds, own)
		addOverheads(own, byMachine, usual)
		p.fleets = []*fleet{{filepath.Base(f.MachinesFile()), own}}
		return err
	})
	if err != nil {
		return base.NoAnswer(f, err)
	}
	if err := a.changes(inv, p); err != nil {
		return err
	}
	a.weigh(inv, f, p)
	results, err := a.play(ctx, inv, p)
	if err != nil {
		return err
	}
	return a.show(inv, p, results)
}

// changes makes the fleets that the what-ifs tell.
func (a *action) changes(inv *command.Invocation, p *play) error {
	for _, text := range a.whatIfs {
		machines, err := whatIf(p.fleets[0].machines, text)
		if err != nil {
			return inv.UsageErrorf("--what-if %q: %w", human.Printable(text), err)
		}
		p.fleets = append(p.fleets, &fleet{text, machines})
	}
	return nil
}

// weigh gives shares the weights of the settings.
func (a *action) weigh(inv *command.Invocation, f head.Folders, p *play) {
	s, err := f.LoadSettings()
	if err != nil {
		fmt.Fprintf(inv.Err, "lighter: weights of shares are not known: %s\n", command.ErrorText(err))
		s = &settings.Settings{}
	}
	p.halfLife, p.weights = s.Shares.HalfLife, maps.Clone(s.Shares.Weights)
	others, ok := p.weights["*"]
	if !ok {
		return
	}
	for i := range p.work.graph.Nodes {
		if share := p.work.graph.Nodes[i].Share; p.weights[share] == 0 {
			p.weights[share] = others
		}
	}
}

// work finds out what is to be built. builds are those whose phases say what is usual on each machine.
func (a *action) work(ctx context.Context, inv *command.Invocation, f head.Folders, past past, own []simulate.Machine, p *play) (builds []*api.Build, err error) {
	find := func(store.Path) *headstore.Node { return nil }
	if a.ledger || a.submission != "" {
		var closing func() error
		find, closing = nodes(ctx, f)
		defer closing() //nolint:errcheck // it was only looked at
	}
	speed := func(name string) float64 {
		for i := range own {
			if own[i].Name == name {
				return own[i].Speed
			}
		}
		return 1
	}
	recent := &api.Filter{States: []api.State{api.Succeeded}}
	switch {
	case a.ledger:
		return a.replay(ctx, inv, past, find, speed, p)
	case a.submission != "":
		err = a.left(ctx, inv, f, past, find, speed, p)
	case a.graph != "":
		err = a.readGraph(ctx, inv, past, p)
	default:
		err = a.walk(ctx, inv, f, past, p)
	}
	if err == nil {
		builds, err = latest(ctx, past, recent)
	}
	return builds, err
}

// errEnough ends a listing.
var errEnough = errors.New("that is enough")

// latest returns some of the last builds.
func latest(ctx context.Context, p past, f *api.Filter) (builds []*api.Build, err error) {
	err = p.builds(ctx, f, func(b *api.Build) error {
		kept := *b
		if builds = append(builds, &kept); len(builds) == asMeasured {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return builds, err
}

// replay takes what the ledger says was built.
func (a *action) replay(ctx context.Context, inv *command.Invocation, past past, find nodeOf, speed func(string) float64, p *play) ([]*api.Build, error) {
	filter := &api.Filter{Since: a.now.Add(-24 * time.Hour)}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"since", a.since, &filter.Since}, {"until", a.until, &filter.Until}} {
		if t.text == "" {
			continue
		}
		var err error
		if *t.to, err = human.ParseTime(t.text, a.now); err != nil {
			return nil, inv.UsageErrorf("--%s: %w", t.flag, err)
		}
	}
	builds, err := collected(ctx, past, filter)
	if err != nil {
		return nil, err
	}
	p.work = replayed(builds, find, speed)
	if a.runs > 1 {
		p.work.notes = append(p.work.notes, "all durations are what they were: the runs do not differ")
	}
	if len(p.work.graph.Nodes) == 0 {
		return nil, fmt.Errorf("nothing was built since %s; see --since", filter.Since.Local().Format("2006-01-02 15:04"))
	}
	return builds, nil
}

// left takes what is left of a submission.
func (a *action) left(ctx context.Context, inv *command.Invocation, f head.Folders, past past, find nodeOf, speed func(string) float64, p *play) error {
	builds, err := collected(ctx, past, &api.Filter{States: api.OpenStates()})
	if err != nil {
		return err
	}
	chosen := inSubmission(a.submission, submission.BuildID)
	if !slices.ContainsFunc(builds, chosen) {
		return fmt.Errorf("nothing is left to do of the submission %q: its builds are over, or there are none", a.submission)
	}
	known, err := past.knowledge(ctx)
	if err != nil {
		return err
	}
	p.work = remaining(builds, chosen, find, known, speed, a.now)
	return nil
}

// readGraph reads the file of a graph.
func (a *action) readGraph(ctx context.Context, inv *command.Invocation, past past, p *play) error {
	known, err := past.knowledge(ctx)
	if err != nil {
		return err
	}
	in := inv.In
	if a.graph != "-" {
		file, err := os.Open(a.graph)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	buffered := bufio.NewReader(in)
	in = buffered
	if magic, err := buffered.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		if in, err = gzip.NewReader(buffered); err != nil {
			return command.BadInput(fmt.Errorf("%s: %w", a.graph, err))
		}
	}
	limited := &io.LimitedReader{R: in, N: maxGraphFile}
	if p.work, err = fromFile(limited, known); err == nil && limited.N == 0 {
		err = fmt.Errorf("more than %d bytes", int64(maxGraphFile))
	}
	if err == nil && len(p.work.graph.Nodes) == 0 {
		err = fmt.Errorf("there is no build in it")
	}
	if err != nil {
		return command.BadInput(fmt.Errorf("%s: %w", a.graph, err))
	}
	return nil
}

// walk finds out what derivations need.
func (a *action) walk(ctx context.Context, inv *command.Invocation, f head.Folders, past past, p *play) error {
	known, err := past.knowledge(ctx)
	if err != nil {
		return err
	}
	s, err := head.OpenToLook(ctx, f, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it was only looked at
	var questions []expand.Question
	for _, arg := range inv.Args {
		path, err := s.Dir().ParsePath(filepath.Clean(arg))
		if err != nil || !path.IsDerivation() {
			return inv.UsageErrorf("%.300q is no derivation in the head's store; guix build -d PACKAGE prints one", arg)
		}
		questions = append(questions, expand.Question{Path: path})
	}
	g := expand.Walk(ctx, expand.Options{
		Head: headstore.New(s.Backend), Logger: slog.New(slog.DiscardHandler),
		Estimate: func(_ context.Context, k estimate.Key) (estimate.Estimate, error) { return known.Of(k), nil },
		Live:     func(store.Path) *headstore.Node { return nil },
	}, questions)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var items []*item
	for _, drv := range g.Order {
		found := g.Found[drv]
		if found.Err != nil {
			return found.Err
		}
		if !found.Missing {
			continue
		}
		if len(items) == maxBuilds {
			return fmt.Errorf("more than %s builds are missing", human.Number(maxBuilds))
		}
		n := found.Node
		it := &item{drv: drv, inputs: nonNil(n.Inputs), dist: found.Estimate.Duration, Node: simulate.Node{
			Name: api.DerivationName(drv), System: n.System, Features: n.Features, Source: n.Fixed, Wanted: found.Parent == "",
		}}
		expect(&it.Node, &found.Estimate)
		items = append(items, it)
	}
	if len(items) == 0 {
		return fmt.Errorf("nothing has to be built: all outputs are in the head's store")
	}
	p.work = assemble(items)
	p.work.countKnown()
	return nil
}

// play plays all, and shows on a terminal how far it is.
func (a *action) play(ctx context.Context, inv *command.Invocation, p *play) ([]*played, error) {
	show := display.NewLive(inv.Err, inv.Getenv)
	defer show.Close()
	return p.all(ctx, func(done, all int, what string) {
		show.Frame(func(int, int) []string {
			return []string{fmt.Sprintf("%d of %d: %s", done, all, human.Printable(what))}
		})
	})
}

// show writes the results.
func (a *action) show(inv *command.Invocation, p *play, results []*played) error {
	r := &report{w: inv.Out, width: display.Width(inv.Out), play: p, list: results}
	var err error
	if a.json {
		err = base.WriteJSON(inv.Out, r.document(a.attempts))
	} else {
		err = r.write()
	}
	if a.svg == "" || err != nil {
		return err
	}
	return disk.Replace(a.svg, 0o644, func(file *os.File) error { return writeSVG(file, p, results) })
}
