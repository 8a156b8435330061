package cli

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/doctor"
	"lighter/internal/head"
	"lighter/internal/human"
)

func doctorCommand() *command.Command {
	return &command.Command{
		Name:  "doctor",
		Short: "check an installation and say what to fix",
		Long: `Looks at folders and their modes, the socket and the coordinator behind it, machines file and settings, keys and ACL, agents, the head's store, guix-daemon, user namespaces, free disk, clock, limits, the machines, event hooks and the ledger. Each gets a line: OK, note for what may be intended, or PROBLEM with what to do about it. Nothing is changed.

With --deep it also reads the whole ledger, which must not be open meanwhile: all checksums and records, and whether all that was acknowledged is there. --drop-unusable and --accept-loss repair what that finds, and do nothing else; only they change anything.

It sees what the user who runs it may see; best run it as the coordinator's user, with the coordinator's --store. "lighter machines test" tries the machines themselves.`,
		Examples: []command.Example{
			{"lighter doctor", "on the head"},
			{"runuser -u lighter -- env HOME=/var/lib/lighter lighter doctor --store=guix-daemon --config /etc/lighter --state /var/lib/lighter", "as the service's user"},
			{"systemctl stop lighter-coordinator && runuser -u lighter -- lighter doctor --deep --state /var/lib/lighter", "read the whole ledger"},
			{"lighter doctor --json | jq -r 'select(.level == \"problem\") | .fix'", "for a program, one check a line"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := base.AllFolderFlags(fs)
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			deep := fs.Bool("deep", false, "also read the whole ledger")
			drop := fs.Bool("drop-unusable", false, "drop records of the ledger that can't be used")
			accept := fs.Bool("accept-loss", false, "go on with a ledger that lacks acknowledged changes")
			return where.Action(func(ctx context.Context, inv *command.Invocation, f head.Folders) error {
				d := doctor.New(f, inv.Getenv)
				findings := d.Examine(ctx, *deep)
				switch {
				case *drop && *accept:
					return command.UsageErrorf("--drop-unusable and --accept-loss are done one after the other")
				case *drop:
					findings = slices.Values(d.DropUnusable(ctx))
				case *accept:
					findings = slices.Values(d.AcceptLoss())
				}
				return writeFindings(ctx, inv, findings, *asJSON)
			})
		},
	}
}

// writeFindings writes findings as they come. Problems among them are a failure.
func writeFindings(ctx context.Context, inv *command.Invocation, findings iter.Seq[doctor.Finding], asJSON bool) error {
	counts, style := make(map[doctor.Level]int), display.StyleOf(inv.Out, inv.Getenv)
	for f := range findings {
		counts[f.Level]++
		if err := writeFinding(inv.Out, &f, style, asJSON); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !asJSON {
		fmt.Fprintf(inv.Out, "\n%s, %s\n", human.Count(counts[doctor.Problem], "problem"), human.Count(counts[doctor.Note], "note"))
	}
	if counts[doctor.Problem] > 0 {
		return command.Exit(command.ExitFailure, nil)
	}
	return nil
}

// doctorColumn is the width of the names of checks.
const doctorColumn = 14

// doctorMargin is before all lines of a finding but the first.
const doctorMargin = "         "

func writeFinding(w io.Writer, f *doctor.Finding, style display.Style, asJSON bool) error {
	if asJSON {
		return base.WriteJSONLine(w, f)
	}
	word := map[doctor.Level]string{
		doctor.OK: style.Verdict(true, "OK     ", ""), doctor.Note: "note   ", doctor.Problem: style.Verdict(false, "", "PROBLEM"),
	}[f.Level]
	detail := strings.ReplaceAll(human.PrintableText(strings.TrimSpace(f.Detail)), "\n", "\n"+doctorMargin)
	if _, err := fmt.Fprintf(w, "%s  %s %s\n", word, human.Pad(human.Printable(f.Check), doctorColumn), detail); err != nil {
		return err
	}
	writeFix(w, doctorMargin, f.Fix)
	return nil
}
