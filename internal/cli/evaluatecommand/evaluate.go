// Package evaluatecommand is "lighter evaluate": which derivations packages have, printed, or what of them
// differs from an earlier evaluation. It needs no coordinator.
package evaluatecommand

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/terminal"
	"lighter/internal/evaluate"
	"lighter/internal/human"
	"lighter/store"
)

// Command is "lighter evaluate".
func Command() *command.Command {
	return &command.Command{
		Name:  "evaluate",
		Short: "find out which derivations packages have",
		Long: `Has the real guix work out the derivations of packages, and prints a JSON line for
each package and system as soon as it is there: name, version, derivation,
outputs, where it is defined. A package whose own code fails gets a line with an
error, and the others go on. Packages that are not for a system are left out.

Which Guix: the one in $PATH, that of --profile, or with --channels the one that
"guix time-machine" makes. Which packages: --all, those of --load-path, --module
or --manifest; --package leaves only some of them. Each system and target gets
a process of its own, one after the other.

With --since only what differs from an earlier evaluation is printed, with
"change" as "new", "changed" or "gone". What lines have, and what a program for
--command prints, is told by "lighter help evaluation".

Evaluating runs code of whoever wrote the packages. As root it is refused
without --user.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter evaluate --load-path ~/packages", "a collection of one's own: does everything evaluate?"},
			{"lighter evaluate --all --system x86_64-linux --system aarch64-linux >today.jsonl", "all of Guix, for two systems"},
			{"lighter evaluate --channels channels.scm --all --since yesterday.jsonl", "what differs?"},
			{"lighter evaluate --load-path ~/packages --derivations | lighter build --detach -", "have all of it built"},
			{"lighter evaluate --command 'cat today.jsonl' --since yesterday.jsonl --errors", "of evaluations that are there: what fails now?"},
		},
		Setup: setup,
	}
}

type options struct {
	request          evaluate.Request
	profile, command string
	systems, targets []string
	since            string
	derivations      bool
	errors           bool
	noGrafts         bool
	verbose          bool
	memory           command.Size
}

func setup(fs *pflag.FlagSet) command.Action {
	o := new(options)
	r := &o.request
	fs.StringVar(&r.Channels, "channels", "", "evaluate with the Guix of the channels in `FILE`, as \"guix describe -f channels\" prints it")
	fs.StringVar(&o.profile, "profile", "", "evaluate with the Guix of the profile in `DIR`, such as ~/.config/guix/current")
	fs.StringVar(&o.command, "command", "", "read the lines of `CMD`, a command line for the shell, instead of Guix's")
	fs.BoolVar(&r.All, "all", false, "all packages")
	fs.StringArrayVar(&r.Folders, "load-path", nil, "packages of a collection in `DIR`, as $GUIX_PACKAGE_PATH names them; with --all or --module, beside the others; may be repeated")
	fs.StringArrayVar(&r.Modules, "module", nil, "packages of the module `NAME`, such as \"(gnu packages base)\"; may be repeated")
	fs.StringVar(&r.Manifest, "manifest", "", "packages of a manifest in `FILE`")
	fs.StringVar(&r.Package, "package", "", "only packages whose NAME@VERSION matches `REGEXP`")
	fs.StringSliceVar(&o.systems, "system", nil, "for `SYSTEM`, such as x86_64-linux; may be repeated (default: this computer's)")
	fs.StringSliceVar(&o.targets, "target", nil, "cross-built for `TARGET`, such as aarch64-linux-gnu, and not for systems themselves; may be repeated")
	fs.BoolVar(&o.noGrafts, "no-grafts", true, "derivations without grafts, as farms build them; --no-grafts=false may have things built while it evaluates")
	fs.StringVar(&o.since, "since", "", "only what differs from the lines in `FILE`, of an earlier evaluation")
	fs.BoolVar(&o.derivations, "derivations", false, "print only names of derivations, each once")
	fs.BoolVar(&o.errors, "errors", false, "print only packages that fail, for people")
	fs.StringVar(&r.Root, "root", "", "in `DIR`, make a link for each system and target that keeps its derivations from \"guix gc\"")
	fs.StringVar(&r.User, "user", "", "run it in the account of `NAME`; needs root")
	fs.Var(&o.memory, "max-memory", "each process may use this much address space, such as 8GiB (default: no limit)")
	command.DurationVar(fs, &r.Time, "timeout", 6*time.Hour, "each process may take this long; 0 is no limit")
	fs.BoolVarP(&o.verbose, "verbose", "v", false, "also show what Guix and the packages print")
	return o.run
}

func (o *options) run(ctx context.Context, inv *command.Invocation) error {
	if err := o.check(inv); err != nil {
		return err
	}
	e := &evaluation{options: o, inv: inv, began: time.Now(), printed: make(map[store.Path]bool)}
	// Lines on the same terminal show by themselves that it goes on.
	e.screen = terminal.Of(inv.Err) != nil && (terminal.Of(inv.Out) == nil || o.errors)
	if o.since != "" {
		f, err := os.Open(o.since)
		if err != nil {
			return err
		}
		e.earlier, err = evaluate.ReadEarlier(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", o.since, err)
		}
	}
	if o.verbose {
		o.request.Log = printable{e}
	}
	for _, p := range o.platforms() {
		if err := e.platform(ctx, p); err != nil {
			return err
		}
	}
	return e.end()
}

// check looks at all flags before anything runs.
func (o *options) check(inv *command.Invocation) error {
	r := &o.request
	r.Memory, r.Grafts = uint64(o.memory), !o.noGrafts // #nosec G115 -- not negative
	if o.profile != "" {
		r.Guix = filepath.Join(o.profile, "bin", "guix")
	}
	if o.command != "" {
		r.Command = []string{"/bin/sh", "-c", o.command}
	}
	if o.derivations && o.errors {
		return inv.UsageErrorf("--derivations and --errors exclude each other: a package that fails has no derivation")
	}
	if o.profile != "" && (o.channels() || o.command != "") {
		return inv.UsageErrorf("only one of --profile, --channels and --command can say what evaluates")
	}
	if err := r.Check(); err != nil {
		return inv.UsageErrorf("%w", err)
	}
	if r.User == "" && os.Geteuid() == 0 {
		return inv.UsageErrorf("evaluating runs code of whoever wrote the packages, and you are root: say in whose account with --user NAME, or --user root")
	}
	for _, file := range []struct {
		flag, name string
		folder     bool
	}{{"channels", r.Channels, false}, {"manifest", r.Manifest, false}, {"root", r.Root, true}} {
		if err := there(file.name, file.folder); err != nil {
			return inv.UsageErrorf("--%s: %w", file.flag, err)
		}
	}
	for _, folder := range r.Folders {
		if err := there(folder, true); err != nil {
			return inv.UsageErrorf("--load-path: %w", err)
		}
	}
	return nil
}

func (o *options) channels() bool { return o.request.Channels != "" }

func there(name string, folder bool) error {
	if name == "" {
		return nil
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case info.IsDir() && !folder:
		return fmt.Errorf("%s is a folder: want a file", name)
	case !info.IsDir() && folder:
		return fmt.Errorf("%s is a file: want a folder", name)
	}
	return nil
}

// platforms are what is evaluated for, in order.
func (o *options) platforms() (all []evaluate.Platform) {
	systems, targets := o.systems, o.targets
	if len(systems) == 0 {
		systems = []string{""}
	}
	if len(targets) == 0 {
		targets = []string{""}
	}
	for _, system := range systems {
		for _, target := range targets {
			all = append(all, evaluate.Platform{System: system, Target: target})
		}
	}
	return all
}

// evaluation is one run of the command.
type evaluation struct {
	*options
	inv     *command.Invocation
	earlier *evaluate.Earlier
	printed map[store.Path]bool // derivations that were
	began   time.Time
	screen  bool // there is a line of progress on it

	packages, failed, total, modules int
	drawn                            time.Time
}

func (e *evaluation) platform(ctx context.Context, p evaluate.Platform) error {
	before, failed := e.packages, e.failed
	e.total = 0
	began := time.Now()
	err := e.request.Run(ctx, p, evaluate.Progress{
		Total:  func(n int) { e.total = n },
		Module: e.module,
		Package: func(pkg *evaluate.Package) error {
			if p.System == "" && len(e.request.Command) == 0 {
				p.System = pkg.System
			}
			e.packages++
			if pkg.Error != "" {
				e.failed++
			}
			e.progress(p, e.packages-before, e.failed-failed)
			return e.print(pkg)
		},
	})
	e.clear()
	var ended *evaluate.EvaluationError
	if errors.As(err, &ended) {
		return fmt.Errorf("%s: %w", p, err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(e.inv.Err, "%s: %s, %s, in %s\n", p, human.Count(e.packages-before, "package"),
		human.Count(e.failed-failed, "error"), time.Since(began).Round(time.Second))
	return nil
}

// module tells of a file whose packages are missing.
func (e *evaluation) module(name, reason string) {
	e.modules++
	e.clear()
	fmt.Fprintf(e.inv.Err, "not loaded: %s: %s\n", human.Printable(name), human.Line(reason))
}

// end prints what is gone, and says whether something is missing.
func (e *evaluation) end() error {
	if e.earlier != nil && !e.derivations && !e.errors {
		for p := range e.earlier.Gone() {
			if err := e.line(p, evaluate.Gone); err != nil {
				return err
			}
		}
	}
	if e.modules > 0 {
		return command.BadInput(fmt.Errorf("%s could not be loaded: the packages in there are missing", human.Count(e.modules, "module")))
	}
	return nil
}

func (e *evaluation) print(p *evaluate.Package) error {
	var change evaluate.Change
	if e.earlier != nil {
		if change = e.earlier.Compare(p); change == "" {
			return nil
		}
	}
	switch {
	case e.errors && p.Error != "":
		e.clear()
		_, err := fmt.Fprintln(e.inv.Out, failure(p))
		return err
	case e.errors:
		return nil
	case e.derivations:
		if p.Derivation == "" || e.printed[p.Derivation] {
			return nil
		}
		e.printed[p.Derivation] = true
		_, err := fmt.Fprintln(e.inv.Out, p.Derivation)
		return err
	}
	return e.line(p, change)
}

func (e *evaluation) line(p *evaluate.Package, change evaluate.Change) error {
	return base.WriteJSONLine(e.inv.Out, struct {
		*evaluate.Package
		Change evaluate.Change `json:"change,omitempty"`
	}{p, change})
}

// failure is a package that fails, on a line.
func failure(p *evaluate.Package) string {
	text := p.Name + "@" + p.Version + " for " + p.System
	if p.Target != "" {
		text = p.Name + "@" + p.Version + " for " + p.Target + " on " + p.System
	}
	if p.Location.File != "" {
		text = fmt.Sprintf("%s:%d: %s", human.Printable(p.Location.File), p.Location.Line, text)
	}
	return text + ": " + human.Line(p.Error)
}

const drawEvery = 200 * time.Millisecond

// progress draws a line on a terminal, over the one before.
func (e *evaluation) progress(p evaluate.Platform, packages, failed int) {
	if !e.screen || time.Since(e.drawn) < drawEvery {
		return
	}
	e.drawn = time.Now()
	of := ""
	if e.total > 0 {
		of = " of about " + human.Number(e.total)
	}
	width, _ := terminal.Size(terminal.Of(e.inv.Err))
	text := fmt.Sprintf("%s: %s%s, %s", p, human.Count(packages, "package"), of, human.Count(failed, "error"))
	fmt.Fprintf(e.inv.Err, "\r\x1b[K%s", human.Truncate(text, width-1))
}

func (e *evaluation) clear() {
	if e.screen && !e.drawn.IsZero() {
		fmt.Fprint(e.inv.Err, "\r\x1b[K")
		e.drawn = time.Time{}
	}
}

// printable shows what Guix and packages print, made harmless.
type printable struct{ e *evaluation }

func (p printable) Write(text []byte) (int, error) {
	fmt.Fprint(p.e.inv.Err, human.PrintableText(string(text)))
	return len(text), nil
}
