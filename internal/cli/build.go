package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/cli/storecommands"
	"lighter/internal/cli/watch"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/submission"
)

func buildCommand() *command.Command {
	return &command.Command{
		Name:  "build",
		Args:  "DRV…",
		Short: "build derivations, and wait for them",
		Long: `Has the coordinator build each DRV, and first whatever it needs that is missing. On a terminal the running builds and transfers are shown as they happen; elsewhere each start and each end gets a line, and after 30 seconds without one there is a line that says what goes on. A failed build's last lines come with it; in a job of GitHub Actions or GitLab CI more of its log is folded away before them, and nothing that a builder wrote is obeyed there. When all are done, the paths of their outputs go to standard output.

DRV is the path of a derivation in the head's store, or a file that holds one whose inputs are in that store; "-" reads more of them from standard input, one a line. A derivation that is not in the store is fetched by the coordinator if --derivation-substitute-urls says from where.

Tens of thousands of derivations are submitted piece by piece. Each piece is durable before the next one goes; with --submission NAME the same command can be run again after an interruption, and finds the builds that exist already.

A line of standard input that starts with "{" is a JSON object with a request of its own: "derivation", and whatever of "id", "outputs", "priority", "tags", "timeout" and "maxSilentTime" (in seconds), "memory" (in bytes), "tokens", "keepFailed", "retries", "on", "skip", "check", "allInputs", "skipIfBuilt", "skipIfSubmitted" and "derivationSubstituteURLs" differs from what the flags say. Tags and tokens are added to those of the flags.

With --skip-if-built and --skip-if-submitted some requests make no build. They are named on standard error, and do not count as failures.

With --check N each derivation is built on N different machines, and what they made is compared; the files that differ are listed.

The first interrupt cancels the builds, a second one leaves at once. After --detach, or if this command is killed without --attached, the builds go on; "lighter builds" shows them.`,
		Exits: []int{command.ExitBuildFailed, command.ExitCanceled, command.ExitNoAnswer, command.ExitBadInput, command.ExitDiffers, command.ExitNoMachine, command.ExitInterrupted},
		Examples: []command.Example{
			{"lighter build /gnu/store/…-hello-2.12.drv", "build one derivation"},
			{"lighter build --keep-going - < derivations.txt", "build many; one that fails does not stop the others"},
			{"id=$(lighter build --detach --priority 10 --tag nightly=1 /gnu/store/…-hello-2.12.drv)", "submit it and go on"},
			{"lighter build --check 2 /gnu/store/…-hello-2.12.drv", "is it reproducible?"},
			{"lighter build --attached --on fast /gnu/store/…-hello-2.12.drv", "in a CI job, which may be killed; on one machine"},
			{"lighter build --detach --submission all-of-3f2a91c - < derivations.txt", "a hundred thousand, perhaps in several runs"},
			{"lighter build --detach --skip-if-built --tag branch=master --tag commit=$c --supersede branch - < derivations.txt", "a new commit of a branch: what only older ones wanted is canceled"},
			{`echo '{"derivation": "/gnu/store/…-hello-2.12.drv", "priority": 5, "on": ["alpha"]}' | lighter build -d -`, "with options of its own"},
			{"lighter build --root result /gnu/store/…-hello-2.12.drv && ls result/bin", "keep the result, and look at its files"},
		},
		TakesSignals:    true,
		ChecksArguments: true,
		Setup: func(fs *pflag.FlagSet) command.Action {
			b := &buildAction{where: base.AllFolderFlags(fs)}
			fs.BoolVarP(&b.detach, "detach", "d", false, "print the builds' ids and don't wait")
			fs.BoolVarP(&b.keepGoing, "keep-going", "k", false, "after a failure go on with the other derivations")
			fs.BoolVar(&b.json, "json", false, "print the builds as JSON, one a line, instead of output paths")
			fs.StringVarP(&b.root, "root", "r", "", "make `LINK` a link to the output, which keeps it from being deleted; LINK-NAME for outputs beside out, LINK-2 for the second DRV")
			fs.StringVar(&b.root, "out-link", "", "the same as --root")
			fs.BoolVarP(&b.quiet, "quiet", "q", false, "show nothing while building")
			fs.BoolVar(&b.jsonInput, "json-input", false, "every line of standard input must be a JSON object; without DRV it is read as with \"-\"")
			b.requestFlags(fs)
			return base.ClientActionIn(b.where, b.run)
		},
	}
}

// buildAction is one run of "lighter build".
type buildAction struct {
	where                          *base.FolderFlags
	detach, keepGoing, json, quiet bool
	jsonInput                      bool
	timeout, maxSilentTime         time.Duration
	noMachineWithin                time.Duration
	supersede, submission, root    string
	base                           api.Request // what the flags say of each request
	refused                        int         // requests that the coordinator did not take
}

// requestFlags defines the flags that say how to build.
func (b *buildAction) requestFlags(fs *pflag.FlagSet) {
	r := &b.base
	fs.StringVar(&r.ID, "id", "", "the build gets this `UUID`; for one derivation. A build that exists already is taken up")
	fs.IntVarP(&r.Priority, "priority", "p", 0, "builds with a higher number go first")
	fs.StringToStringVar(&r.Tags, "tag", nil, "`k=v` to find the builds by; may be repeated")
	fs.StringVar(&b.supersede, "supersede", "", "when all is submitted, cancel unfinished builds with the same value of the tag `KEY` and other values of the other tags")
	fs.StringVar(&b.submission, "submission", "", "the submission's `NAME`, from which the builds' ids follow: the same command line goes on where it stopped. The builds get the tag submission=NAME")
	fs.BoolVar(&r.SkipIfBuilt, "skip-if-built", false, "make no build where the outputs are in the store, or published")
	fs.BoolVar(&r.SkipIfSubmitted, "skip-if-submitted", false, "make no build where there is one for the same outputs that did not fail and was not canceled")
	fs.BoolVar(&r.AllInputs, "all-inputs", false, "every derivation that it needs, directly or not, gets a build of its own, even if its outputs are there")
	command.DurationVar(fs, &b.timeout, "timeout", 0, "stop a build that takes longer, such as 2h or 1d")
	command.DurationVar(fs, &b.maxSilentTime, "max-silent-time", 0, "stop a build that writes nothing for this long")
	fs.Var((*command.Size)(&r.Memory), "memory", "reserve this `SIZE` of memory for the build, such as 8GiB (default: what earlier builds of it needed)")
	fs.StringToIntVar(&r.Tokens, "tokens", nil, "`NAME=N` of what machines have in their tokens; may be repeated")
	fs.IntVar(&r.Retries, "retries", 0, "after a failure of the derivation itself try it `N` more times, elsewhere if possible; 0 means never (default: what the coordinator's settings say)")
	fs.IntVar(&r.Check, "check", 0, "build on `N` different machines and compare what they made; exit code 8 if it differs")
	fs.StringSliceVar(&r.On, "on", nil, "build only on this `MACHINE`; may be repeated")
	fs.StringSliceVar(&r.Skip, "skip", nil, "don't build on this `MACHINE`; may be repeated")
	fs.StringSliceVar(&r.DerivationSubstituteURLs, "derivation-substitute-urls", nil, "fetch derivations that are not in the store, with all that they need, from these `URL`s")
	fs.BoolVar(&r.Attached, "attached", false, "cancel the builds a minute after this command has ended, however that happens")
	command.DurationVar(fs, &b.noMachineWithin, "fail-if-no-machine-within", 0, "give builds up, with exit code 10, for which no machine was there for this long: none is for their system and features, or those that are can't be reached or get no builds. One that is busy is there")
	fs.BoolVar(&r.KeepFailed, "keep-failed", false, "keep the folder of a failed build on its machine")
}

// complete checks the flags.
func (b *buildAction) complete(inv *command.Invocation) error {
	if b.jsonInput && len(inv.Args) == 0 {
		inv.Args = []string{"-"}
	}
	if err := inv.Arguments("DRV", 1, -1); err != nil {
		return err
	}
	if b.root != "" && b.detach {
		return inv.UsageErrorf("--root needs the outputs, and --detach does not wait for them")
	}
	if b.base.ID != "" && (len(inv.Args) > 1 || b.submission != "") {
		return inv.UsageErrorf("--id is for one derivation, and does not go with --submission; in JSON each line has an \"id\"")
	}
	if b.base.Retries == 0 && inv.Flags.Changed("retries") {
		b.base.Retries = submission.NoRetries
	}
	b.base.Timeout, b.base.MaxSilentTime = api.Seconds(b.timeout.Seconds()), api.Seconds(b.maxSilentTime.Seconds())
	if err := submission.Check(&b.base); err != nil {
		return inv.UsageErrorf("%w", err)
	}
	if b.base.Attached && b.detach {
		return inv.UsageErrorf("--attached goes with waiting, and --detach is the opposite")
	}
	if b.noMachineWithin > 0 && b.detach {
		return inv.UsageErrorf("--fail-if-no-machine-within goes with waiting, and --detach is the opposite")
	}
	if b.supersede == "" {
		return nil
	}
	if _, ok := b.base.Tags[b.supersede]; !ok {
		return inv.UsageErrorf("--supersede %s: the submission has no such tag; give it one with --tag %s=VALUE", b.supersede, b.supersede)
	}
	if len(b.base.Tags) == 1 {
		return inv.UsageErrorf("--supersede %s: nothing tells this submission from those before it; give it another --tag", b.supersede)
	}
	return nil
}

func (b *buildAction) run(ctx context.Context, inv *command.Invocation, client *apiclient.Client, f head.Folders) error {
	if err := b.complete(inv); err != nil {
		return err
	}
	// Before anything is added to the store: can any machine build it?
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	warnOfMachines(inv, &b.base, status.Machines)
	builds, err := b.submit(ctx, inv, client, f)
	if err != nil {
		return err
	}
	if b.detach {
		err = b.printDetached(inv, builds)
	} else if len(builds) > 0 {
		err = b.wait(ctx, inv, client, f, builds, status.LastEvent+1)
	}
	if err == nil && b.refused > 0 {
		return command.Exit(command.ExitFailure, nil)
	}
	return err
}

// warnOfMachines says which names of --on and --skip are no machine's. That is not an error: the
// machine may be added later, and until then the build waits.
func warnOfMachines(inv *command.Invocation, r *api.Request, there []api.MachineStatus) {
	known := make(map[string]bool, len(there))
	names := make([]string, len(there))
	for i := range there {
		names[i] = there[i].Name
		known[names[i]] = true
	}
	for _, name := range slices.Concat(r.On, r.Skip) {
		if len(there) > 0 && !known[name] {
			fmt.Fprintf(inv.Err, "warning: no machine is called %q; there are %s\n", name, human.Printable(strings.Join(names, ", ")))
		}
	}
}

// wait shows the builds until they are final, and then what became of them.
func (b *buildAction) wait(ctx context.Context, inv *command.Invocation, client *apiclient.Client, f head.Folders, builds []*api.Build, next uint64) error {
	if b.base.Attached {
		release, err := hold(ctx, client, builds)
		if err != nil {
			return err
		}
		defer release()
	}
	resized, stop := display.Resized()
	defer stop()
	w := watch.New(watch.Options{
		Client: client, Next: next, Show: b.live(inv), Style: display.StyleOf(inv.Err, inv.Getenv),
		Signals: inv.Signals, Resized: resized, KeepGoing: b.keepGoing, Patience: base.CoordinatorGrace, NoMachineWithin: b.noMachineWithin,
	}, builds)
	err := w.Run(ctx)
	if err == nil && b.root != "" {
		err = storecommands.RootOutputs(ctx, f, client, b.root, w.Builds())
	}
	if err == nil {
		err = b.finish(inv, w)
		if code, _ := command.ExitCode(err); w.NoMachine() && code == command.ExitCanceled {
			err = command.Exit(command.ExitNoMachine, nil)
		}
		return err
	}
	if err == command.ErrInterrupted { //nolint:errorlint // with more to it there is more to say
		return command.Exit(command.ExitInterrupted, nil) // the person was told
	}
	return err
}

func (b *buildAction) printDetached(inv *command.Invocation, builds []*api.Build) error {
	for i := range builds {
		if b.json {
			if err := base.WriteJSONLine(inv.Out, builds[i]); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintln(inv.Out, builds[i].ID)
	}
	return nil
}

// live is where the command shows what goes on.
func (b *buildAction) live(inv *command.Invocation) *display.Live {
	if b.quiet {
		return display.NewLive(io.Discard, inv.Getenv)
	}
	return display.NewLive(inv.Err, inv.Getenv)
}

// finish prints the results and returns an error with the exit code.
func (b *buildAction) finish(inv *command.Invocation, w *watch.Watcher) error {
	code := command.ExitDone
	for _, build := range w.Builds() {
		switch {
		case (build.State.FailedItself() || build.State == api.DependencyFailed) && !display.Differs(build):
			code = command.ExitBuildFailed
		case build.State == api.Canceled && code == command.ExitDone:
			code = command.ExitCanceled
		}
		if len(build.Results) > 0 {
			b.printCheck(inv, build)
			if display.Differs(build) && code != command.ExitBuildFailed {
				code = command.ExitDiffers
			}
		}
		if err := b.printResult(inv, build); err != nil {
			return err
		}
	}
	if !b.quiet {
		fmt.Fprintln(inv.Err, w.Summary())
		for _, line := range w.Failures() {
			fmt.Fprintln(inv.Err, display.FoldsOf(inv.Getenv).Harmless(line))
		}
	}
	if code != command.ExitDone {
		return command.Exit(code, nil)
	}
	return nil
}

// printCheck says what the machines of a check made.
func (b *buildAction) printCheck(inv *command.Invocation, build *api.Build) {
	if b.quiet && !display.Differs(build) {
		return
	}
	for _, line := range display.ComparisonLines(build) {
		fmt.Fprintln(inv.Err, display.FoldsOf(inv.Getenv).Harmless(line))
	}
}

func (b *buildAction) printResult(inv *command.Invocation, build *api.Build) error {
	if b.json {
		return base.WriteJSONLine(inv.Out, build)
	}
	if build.State != api.Succeeded {
		return nil
	}
	for _, name := range build.OutputsAskedFor() {
		fmt.Fprintln(inv.Out, build.OutputPaths[name])
	}
	return nil
}
