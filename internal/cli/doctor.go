package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/machines"
)

func doctorCommand() *command {
	return &command{
		name:  "doctor",
		short: "check an installation and say what to fix",
		long: `Looks at folders and their modes, the socket and the coordinator behind it, machines file and settings, keys and ACL, agents, the head's store, guix-daemon, user namespaces, free disk, clock, limits, the machines, event hooks and the ledger. Each gets a line: OK, note for what may be meant so, or PROBLEM with what to do about it. Nothing is changed.

With --deep it reads the whole ledger, too, which nobody may have open meanwhile: all checksums and records, and whether all that was acknowledged is there. --drop-unusable and --accept-loss mend what that can find, and do nothing else; they are the only ones that change something.

It sees what the user who runs it may see; best run it as the coordinator's user, with the coordinator's --store. "lighter machines test" tries the machines themselves.`,
		examples: []example{
			{"lighter doctor", "on the head"},
			{"runuser -u lighter -- env HOME=/var/lib/lighter lighter doctor --store=guix-daemon --config /etc/lighter --state /var/lib/lighter", "as the service's user"},
			{"systemctl stop lighter && runuser -u lighter -- lighter doctor --deep --state /var/lib/lighter", "read the whole ledger"},
			{"lighter doctor --json | jq -r 'select(.level == \"problem\") | .fix'", "for a program, one check a line"},
		},
		setup: func(fs *pflag.FlagSet) action {
			where := allFolderFlags(fs)
			asJSON := fs.Bool("json", false, "print one JSON object a line")
			deep := fs.Bool("deep", false, "read the whole ledger, too")
			drop := fs.Bool("drop-unusable", false, "drop records of the ledger that can't be used")
			accept := fs.Bool("accept-loss", false, "go on with a ledger that lacks acknowledged changes")
			return func(ctx context.Context, inv *invocation) error {
				if err := inv.arguments("", 0, 0); err != nil {
					return err
				}
				f, err := where.resolve(inv)
				if err != nil {
					return err
				}
				d := newDoctor(inv, f)
				d.deep = *deep
				switch {
				case *drop && *accept:
					return usageErrorf("--drop-unusable and --accept-loss are done one after the other")
				case *drop:
					return d.report(ctx, *asJSON, d.dropUnusable)
				case *accept:
					return d.report(ctx, *asJSON, d.acceptLoss)
				}
				return d.run(ctx, *asJSON)
			}
		},
	}
}

// The levels of a finding.
const (
	findingOK      = "ok"
	findingNote    = "note"
	findingProblem = "problem"
)

// finding is what one check found.
type finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"` // "ok", "note" or "problem"
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// host is what the doctor asks of the computer that it runs on.
type host struct {
	proc   string // where /proc is
	statfs func(folder string) (freeBytes, freeInodes int64, err error)
	// clockSynced reports whether something keeps the clock.
	clockSynced func() (bool, error)
	now         func() time.Time
}

func thisHost() host {
	return host{proc: "/proc", statfs: freeSpace, clockSynced: clockSynced, now: time.Now}
}

func freeSpace(folder string) (freeBytes, freeInodes int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(folder, &s); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: folder, Err: err}
	}
	// What does not fit an int64 is more than anybody asks for.
	free := min(s.Bavail*uint64(max(0, s.Bsize)), math.MaxInt64)
	inodes := min(s.Ffree, math.MaxInt64)
	if s.Files == 0 { // such as btrfs, which has no fixed number
		return int64(free), -1, nil
	}
	return int64(free), int64(inodes), nil
}

// timeError is TIME_ERROR of adjtimex(2): the clock is not synchronised.
const timeError = 5

func clockSynced() (bool, error) {
	state, err := unix.Adjtimex(new(unix.Timex))
	return state != timeError, err
}

// doctor checks one installation.
type doctor struct {
	inv     *invocation
	folders folders
	host    host
	logger  *slog.Logger
	deep    bool

	client   *apiclient.Client
	status   *api.Status        // nil where no coordinator answers
	machines []machines.Machine // of the machines file; nil where it can't be read
	findings []finding
}

func newDoctor(inv *invocation, f folders) *doctor {
	return &doctor{inv: inv, folders: f, host: thisHost(), logger: slog.New(slog.DiscardHandler)}
}

// doctorTimeout bounds each check.
const doctorTimeout = 30 * time.Second

// run makes all checks and writes what they found.
func (d *doctor) run(ctx context.Context, asJSON bool) error {
	d.client = apiclient.NewClient(d.folders.socket)
	defer d.client.Close()
	checks := []func(context.Context){
		d.checkFolders, d.checkSocket, d.checkSettings, d.checkMachinesFile, d.checkKeys, d.checkACL,
		d.checkAgents, d.checkStore, d.checkDaemon, d.checkSpace, d.checkClock, d.checkLimits,
		d.checkCoordinator, d.checkMachines, d.checkHooks, d.checkLedger,
	}
	for i, check := range checks {
		checks[i] = func(ctx context.Context) {
			bounded, cancel := context.WithTimeout(ctx, doctorTimeout)
			defer cancel()
			check(bounded)
		}
	}
	if d.deep {
		checks = append(checks, d.inspectLedger) // as long as it takes
	}
	return d.report(ctx, asJSON, checks...)
}

// report makes checks and writes what they found.
func (d *doctor) report(ctx context.Context, asJSON bool, checks ...func(context.Context)) error {
	problems, notes := 0, 0
	style := d.inv.style(d.inv.Out)
	for _, check := range checks {
		d.findings = nil
		check(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for i := range d.findings {
			switch d.findings[i].Level {
			case findingProblem:
				problems++
			case findingNote:
				notes++
			}
			if err := d.findings[i].write(d.inv.Out, style, asJSON); err != nil {
				return err
			}
		}
	}
	if !asJSON {
		fmt.Fprintf(d.inv.Out, "\n%s, %s\n", human.Count(problems, "problem"), human.Count(notes, "note"))
	}
	if problems > 0 {
		return &exitError{code: exitFailure}
	}
	return nil
}

// doctorColumn is the width of the names of checks.
const doctorColumn = 14

func (f *finding) write(w io.Writer, style display.Style, asJSON bool) error {
	if asJSON {
		return writeJSONLine(w, f)
	}
	word := map[string]string{
		findingOK: style.Verdict(true, "OK     ", ""), findingNote: "note   ", findingProblem: style.Verdict(false, "", "PROBLEM"),
	}[f.Level]
	if _, err := fmt.Fprintf(w, "%s  %s %s\n", word, human.Pad(human.Printable(f.Check), doctorColumn), human.Printable(f.Detail)); err != nil {
		return err
	}
	if f.Fix != "" {
		writeFix(w, "         ", f.Fix)
	}
	return nil
}

func (d *doctor) ok(check, format string, args ...any) {
	d.findings = append(d.findings, finding{Check: check, Level: findingOK, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) note(check, fix, format string, args ...any) {
	d.findings = append(d.findings, finding{Check: check, Level: findingNote, Detail: fmt.Sprintf(format, args...), Fix: fix})
}

func (d *doctor) problem(check, fix, format string, args ...any) {
	d.findings = append(d.findings, finding{Check: check, Level: findingProblem, Detail: fmt.Sprintf(format, args...), Fix: fix})
}
