package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/dataservice"
	"lighter/internal/head"
	"lighter/internal/revisions"
	"lighter/internal/version"
)

func queueCommand() *command.Command {
	return &command.Command{
		Name:  "queue",
		Short: "have the packages of new revisions of Guix built",
		Long: `Asks a Guix Data Service for the revisions of branches, and has the coordinator
build the derivations of the packages of those that are new. Each build gets the
tags branch, commit and system, and target if it is a cross-build, by which
"lighter builds" finds it.

A revision is done when the coordinator has acknowledged all of its derivations.
Its commit is then added to the file of processed commits. What was interrupted
is done again, and no build is made twice. The same file can be taken over from
the Guix Build Coordinator.

It goes on until it is interrupted, and looks for new revisions at each
interval. It waits while the service or the coordinator is away.`,
		Exits: []int{command.ExitNoAnswer, command.ExitBadInput, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter queue --latest-only --derivation-substitute-urls https://data.guix.gnu.org", "follow master, for the systems of all machines"},
			{"lighter queue --once --dry-run --system x86_64-linux --revisions 1", "print the derivations of the newest revision"},
			{"lighter queue --branch core-packages-team --system aarch64-linux --supersede", "build only the newest revision of another branch"},
			{"lighter queue --systems-and-targets x86_64-linux=riscv64-linux-gnu", "cross-builds alone"},
		},
		TakesSignals: true,
		Setup: func(fs *pflag.FlagSet) command.Action {
			q := new(queueAction)
			fs.StringVar(&q.service, "guix-data-service", "https://data.guix.gnu.org", "the service's `URL`")
			fs.IntVar(&q.repository, "repository", 1, "number of the repository there")
			fs.StringArrayVar(&q.branches, "branch", []string{"master"}, "`NAME` of a branch; may be repeated")
			fs.StringArrayVar(&q.systems, "system", nil, "build for `SYSTEM`; may be repeated; without this and the next flag, for those of the coordinator's machines")
			fs.StringArrayVar(&q.targets, "systems-and-targets", nil, "`SYSTEM=TARGET`: cross-build on SYSTEM for TARGET; may be repeated")
			fs.StringVar(&q.processed, "processed-commits", "", "`FILE` with the commits that are done, one a line (default processed-commits in the state folder)")
			fs.IntVar(&q.newest, "revisions", 100, "look at this many of the newest revisions of a branch")
			fs.BoolVar(&q.latestOnly, "latest-only", false, "of the revisions that are not done, take only the newest")
			fs.BoolVar(&q.supersede, "supersede", false, "cancel the unfinished builds of a branch's older revisions; implies --latest-only and --skip-if-built")
			fs.BoolVar(&q.skipIfBuilt, "skip-if-built", false, "make no build where the outputs are valid or published")
			fs.StringArrayVar(&q.substitutes, "derivation-substitute-urls", nil, "`URL` of a substitute server that has the derivations; may be repeated")
			fs.IntVarP(&q.priority, "priority", "p", 0, "builds with a higher number go first")
			fs.StringToStringVar(&q.tags, "tag", nil, "`k=v` for the builds, besides those that they get anyway; may be repeated")
			command.DurationVar(fs, &q.interval, "interval", 10*time.Minute, "look for new revisions this often")
			fs.BoolVar(&q.once, "once", false, "look once, and end")
			fs.BoolVarP(&q.dryRun, "dry-run", "n", false, "print the derivations and submit nothing; implies --once")
			q.log = addLogFlags(fs)
			q.where = base.SocketFlags(fs)
			q.where.State = base.StateFlag(fs)
			return base.ClientActionIn(q.where, q.run)
		},
	}
}

// queueAction is one run of "lighter queue".
type queueAction struct {
	where                      *base.FolderFlags
	log                        *logFlags
	service, processed         string
	repository, newest         int
	branches, systems, targets []string
	substitutes                []string
	latestOnly, supersede      bool
	skipIfBuilt, once, dryRun  bool
	priority                   int
	tags                       map[string]string
	interval                   time.Duration
}

// coordinatorPatience is how long "lighter queue" waits for a coordinator before it leaves
// the rest to the next round.
const coordinatorPatience = 10 * time.Minute

func (a *queueAction) run(ctx context.Context, inv *command.Invocation, client *apiclient.Client, f head.Folders) error {
	runner, err := a.runner(inv)
	if err != nil {
		return err
	}
	logger, err := a.log.logger(inv, inv.Err)
	if err != nil {
		return err
	}
	service, err := dataservice.New(dataservice.Options{URL: a.service, UserAgent: "lighter/" + version.Version, Logger: logger})
	if err != nil {
		return inv.UsageErrorf("--guix-data-service: %w", err)
	}
	defer service.Close()
	file := a.processed
	if file == "" {
		file = filepath.Join(f.State, "processed-commits")
	}
	commits, err := revisions.OpenCommits(file)
	if err != nil {
		return err
	}
	runner.Log, runner.Service, runner.Coordinator, runner.Commits = logger, service, client, commits
	ctx, stop := inv.CancelOnSignal(ctx)
	defer stop()
	if a.once && !a.dryRun {
		// A person who looks on wants to know at once that there is no coordinator.
		_, err = client.Machines(ctx)
	}
	switch {
	case err != nil:
	case a.once || a.dryRun:
		err = runner.Round(ctx)
	default:
		if err = runner.Run(ctx, a.interval); errors.Is(err, command.ErrInterrupted) {
			logger.Info("interrupted; what is not done is done next time")
			err = nil
		}
	}
	return errors.Join(err, commits.Close())
}

// platformForm is that of systems and targets.
var platformForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// runner makes the value that does the work, of flags that it checks.
func (a *queueAction) runner(inv *command.Invocation) (*revisions.Runner, error) {
	wrong := func(format string, args ...any) (*revisions.Runner, error) {
		return nil, inv.UsageErrorf(format, args...)
	}
	switch {
	case a.repository < 1:
		return wrong("--repository %d: the service counts from 1", a.repository)
	case a.newest < 1:
		return wrong("--revisions %d: want 1 or more", a.newest)
	case a.interval <= 0:
		return wrong("--interval %s: want a time such as 10m", a.interval)
	case slices.Contains(a.branches, ""):
		return wrong("--branch: the name is empty")
	}
	q := &revisions.Runner{
		Repository: a.repository, Branches: a.branches, Newest: a.newest,
		LatestOnly: a.latestOnly, Supersede: a.supersede, Patience: coordinatorPatience,
		Base: api.Request{
			Priority: a.priority, Tags: a.tags, DerivationSubstituteURLs: a.substitutes, SkipIfBuilt: a.skipIfBuilt,
		},
	}
	if a.dryRun {
		q.Patience = 0
		q.Print = func(d dataservice.Derivation) { fmt.Fprintln(inv.Out, d.Path) }
	}
	for _, tag := range revisions.Tags {
		if _, taken := a.tags[tag]; taken {
			return wrong("--tag %s: builds get this one anyway", tag)
		}
	}
	for _, s := range a.systems {
		if !platformForm.MatchString(s) {
			return wrong("--system %q: want one such as x86_64-linux", s)
		}
		q.Platforms = append(q.Platforms, revisions.Platform{System: s})
	}
	for _, pair := range a.targets {
		system, target, _ := strings.Cut(pair, "=")
		if !platformForm.MatchString(system) || !platformForm.MatchString(target) {
			return wrong("--systems-and-targets %q: want SYSTEM=TARGET, such as x86_64-linux=aarch64-linux-gnu", pair)
		}
		q.Platforms = append(q.Platforms, revisions.Platform{System: system, Target: target})
	}
	return q, nil
}
