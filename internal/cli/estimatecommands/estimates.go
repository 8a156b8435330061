// Package estimatecommands are "lighter estimates" and its subcommands: what builds will probably take, and what was
// measured of them. They ask the coordinator, or where none runs, its ledger.
package estimatecommands

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/disk"
	"lighter/internal/estimates"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/ledger"
	"lighter/internal/quantity"
)

// Command is "lighter estimates".
func Command() *command.Command {
	return &command.Command{
		Name:  "estimates",
		Short: "what builds will probably take, from what was measured",
		Long: `Of each build the ledger keeps how long it took, and where the machine could
measure them, its processor time, memory and disk. From the last ones of a
package follows what the next will take. A package, the source it is built from,
and the modules of its build are told apart. Of a package that was never built,
those with the same build system say something, else all packages, else a table
of a few that are known to take very long.`,
		Sub: []*command.Command{showCommand(), exportCommand(), importCommand()},
	}
}

// asker gets an answer from the coordinator, or from the ledger where none runs.
type asker struct {
	client  *apiclient.Client
	folders head.Folders
}

func action(fs *pflag.FlagSet, do func(ctx context.Context, inv *command.Invocation, a *asker) error) command.Action {
	where := base.StateFlags(fs)
	where.Socket = base.SocketFlags(fs).Socket
	return base.ClientActionIn(where, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client, f head.Folders) error {
		return do(ctx, inv, &asker{client, f})
	})
}

func showCommand() *command.Command {
	return &command.Command{
		Name:  "show",
		Args:  "[PATTERN]",
		Pages: true,
		Short: "what builds will probably take",
		Long: `Prints for each package and system how many samples there are, and the time,
memory and size of outputs that a build will probably take: as likely more as
less, and in brackets what four builds in five are within. The time is that on a
machine of speed 1. FROM says what the time comes from. PATTERN is a name, with
or without its version, in which * and ? stand for any text and any letter. If
nothing was measured of a name, what would be assumed is shown.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter estimates show", "of everything that was built"},
			{"lighter estimates show 'python-*'", "of some packages"},
			{"lighter estimates show hello-2.12", "of one, even if it was never built"},
			{"lighter estimates show --json | jq '.[] | select(.memory.high > 8e9)'", "for a program"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			asJSON := fs.Bool("json", false, "print a JSON list; times are in seconds, sizes in bytes")
			return action(fs, func(ctx context.Context, inv *command.Invocation, a *asker) error {
				pattern := ""
				if len(inv.Args) > 0 {
					pattern = inv.Args[0]
				}
				if err := estimates.CheckPattern(pattern); err != nil {
					return inv.UsageErrorf("%w", err)
				}
				list, err := a.list(ctx, pattern)
				if err != nil {
					return err
				}
				if *asJSON {
					err = base.WriteJSON(inv.Out, list.Estimates)
				} else {
					err = writeTable(inv, list)
				}
				if err == nil && list.Left > 0 {
					fmt.Fprintf(inv.Err, "there are %d more; name those that you want, as in: lighter estimates show 'python-*'\n", list.Left)
				}
				return err
			})
		},
	}
}

func (a *asker) list(ctx context.Context, pattern string) (*api.EstimateList, error) {
	list, err := a.client.Estimates(ctx, pattern)
	if !base.NobodyThere(err) {
		return list, err
	}
	if list, err = estimates.List(ctx, nil, pattern); err != nil {
		return nil, err
	}
	err = a.folders.ReadLedger(ctx, func(l *ledger.Ledger) error {
		list, err = estimates.List(ctx, l, pattern)
		return err
	})
	return list, err
}

func writeTable(inv *command.Invocation, list *api.EstimateList) error {
	if len(list.Estimates) == 0 {
		fmt.Fprintln(inv.Err, "nothing was measured")
		return nil
	}
	t := display.Table{Heading: []string{"PACKAGE", "SYSTEM", "KIND", "N", "TIME", "MEMORY", "OUTPUT", "FROM"}, Optional: []int{6, 2, 7}}
	for i := range list.Estimates {
		e := &list.Estimates[i]
		name := e.Name
		if e.Version != "" {
			name += "-" + e.Version
		}
		n := strconv.Itoa(e.Samples)
		if e.Imported > 0 {
			n += fmt.Sprintf(" (%d imported)", e.Imported)
		}
		t.Add(name, human.Known(e.System != "", e.System), e.Kind, n, times(&e.Duration), sizes(&e.Memory), sizes(&e.Output), e.Duration.From)
	}
	return t.Write(inv.Out, display.Width(inv.Out))
}

func times(r *api.Range) string {
	text := func(seconds float64) string { return quantity.Duration(api.Seconds(seconds).Duration()) }
	return fmt.Sprintf("%s (%s to %s)", text(r.Middle), text(r.Low), text(r.High))
}

func sizes(r *api.Range) string {
	text := func(bytes float64) string { return quantity.Bytes(int64(bytes)) }
	return fmt.Sprintf("%s (%s to %s)", text(r.Middle), text(r.Low), text(r.High))
}

func exportCommand() *command.Command {
	return &command.Command{
		Name:  "export",
		Args:  "[FILE]",
		Short: "write what was measured to a file for other farms",
		Long: `Writes all samples to FILE, or to standard output, as JSON lines: the first says
what the file is, each other one has the samples of a package. Times are in
nanoseconds, sizes in bytes. The file says what was built here, when, how fast
and on how many cores; names of machines are only in it if you ask for them.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter estimates export estimates.jsonl", "for another farm"},
			{"lighter estimates export | zstd > estimates.jsonl.zst", "small"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			withMachines := fs.Bool("with-machines", false, "write on which machine each sample was measured too")
			return action(fs, func(ctx context.Context, inv *command.Invocation, a *asker) error {
				if len(inv.Args) == 0 || inv.Args[0] == "-" {
					return a.export(ctx, *withMachines, inv.Out)
				}
				return disk.Replace(inv.Args[0], 0o644, func(f *os.File) error { return a.export(ctx, *withMachines, f) })
			})
		},
	}
}

func (a *asker) export(ctx context.Context, withMachines bool, w io.Writer) error {
	err := a.client.ExportSamples(ctx, withMachines, w)
	if !base.NobodyThere(err) {
		return err
	}
	empty := true
	err = a.folders.ReadLedger(ctx, func(l *ledger.Ledger) error {
		empty = false
		return estimates.Export(ctx, l, w, withMachines)
	})
	if err == nil && empty {
		_, err = estimates.NewWriter(w, time.Now().UTC().Truncate(time.Second), withMachines)
	}
	return err
}

// maxFile bounds a file that is imported, in bytes.
const maxFile = 512 << 20

func importCommand() *command.Command {
	return &command.Command{
		Name:  "import",
		Args:  "FILE",
		Short: "learn from what another farm measured",
		Long: `Reads a file that "lighter estimates export" wrote, all of it, and adds its
samples to those that are there. They count a quarter of what was measured here,
and are the first to go when there are enough of a package. Importing a file
again changes nothing. FILE may be - for standard input.`,
		Exits: []int{command.ExitNoAnswer, command.ExitBadInput},
		Examples: []command.Example{
			{"lighter estimates import estimates.jsonl", "before the first build"},
			{"zstd -d < estimates.jsonl.zst | lighter estimates import -", "from a compressed one"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return action(fs, func(ctx context.Context, inv *command.Invocation, a *asker) error {
				samples, err := readFile(inv, inv.Args[0])
				if err != nil {
					return err
				}
				done, err := a.importAll(ctx, samples)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(inv.Out, "%s of %s\n", human.Count(done.Samples, "sample"), human.Count(done.Packages, "package"))
				return err
			})
		},
	}
}

func readFile(inv *command.Invocation, name string) ([]ledger.Samples, error) {
	in, shown := inv.In, "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, shown = f, name
	}
	limited := &io.LimitedReader{R: in, N: maxFile + 1}
	samples, err := estimates.Read(limited)
	if limited.N <= 0 {
		err = fmt.Errorf("larger than %s", quantity.Bytes(maxFile))
	}
	if err != nil && !errors.As(err, new(*os.PathError)) {
		err = command.BadInput(fmt.Errorf("%s: %w", shown, err))
	}
	return samples, err
}

// importAll brings samples to the coordinator in portions, or to the ledger.
func (a *asker) importAll(ctx context.Context, samples []ledger.Samples) (*api.ImportedSamples, error) {
	done := new(api.ImportedSamples)
	for portion := range slices.Chunk(samples, estimates.Portion) {
		var file bytes.Buffer
		w, err := estimates.NewWriter(&file, time.Time{}, false)
		for i := range portion {
			err = errors.Join(err, w.Write(&portion[i]))
		}
		if err != nil {
			return nil, err
		}
		taken, err := a.client.ImportSamples(ctx, file.Bytes())
		if base.NobodyThere(err) && done.Packages == 0 {
			err = a.folders.WithLedger(func(l *ledger.Ledger) error {
				done, err = estimates.Import(ctx, l, samples)
				return err
			})
			return done, err
		}
		if err != nil {
			return nil, err
		}
		done.Packages += taken.Packages
		done.Samples += taken.Samples
	}
	return done, nil
}
