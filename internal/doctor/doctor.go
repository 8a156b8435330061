// Package doctor examines an installation and says what to fix.
//
// A [Doctor] looks at folders, keys, settings and machines of a head, at what runs there,
// and at what the coordinator says of itself and its machines. What it finds are values, for
// its caller to show. It changes nothing, except to repair the ledger when asked to.
package doctor

import (
	"context"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/disk"
	"lighter/internal/head"
	"lighter/machines"
)

// Level says how bad a finding is.
type Level string

const (
	OK      Level = "ok"
	Note    Level = "note" // what may be meant so
	Problem Level = "problem"
)

// Finding is what one check found.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it
}

// host is what the doctor asks of the computer that it runs on.
type host struct {
	proc  string // where /proc is
	space func(folder string) (disk.Space, error)
	// clockSynced reports whether something keeps the clock.
	clockSynced func() (bool, error)
	now         func() time.Time
}

func thisHost() host {
	return host{proc: "/proc", space: disk.Free, clockSynced: clockSynced, now: time.Now}
}

// timeError is TIME_ERROR of adjtimex(2): the clock is not synchronised.
const timeError = 5

func clockSynced() (bool, error) {
	state, err := unix.Adjtimex(new(unix.Timex))
	return state != timeError, err
}

// Doctor examines one installation.
type Doctor struct {
	folders head.Folders
	getenv  func(string) string
	host    host

	client   *apiclient.Client
	status   *api.Status        // nil where no coordinator answers
	machines []machines.Machine // of the machines file; nil where it can't be read
	findings []Finding          // of one check
}

// New returns a doctor for the installation with these folders; getenv looks up variables
// of the environment.
func New(f head.Folders, getenv func(string) string) *Doctor {
	return &Doctor{folders: f, getenv: getenv, host: thisHost()}
}

// checkTimeout bounds each check.
const checkTimeout = 30 * time.Second

// Examine makes all checks, and yields what each finds when it is over, until the context
// ends. A deep examination reads the whole ledger, too, however long that takes.
func (d *Doctor) Examine(ctx context.Context, deep bool) iter.Seq[Finding] {
	return d.examine(ctx, deep,
		d.checkFolders, d.checkSocket, d.checkSettings, d.checkMachinesFile, d.checkKeys, d.checkACL,
		d.checkAgents, d.checkStore, d.checkDaemon, d.checkSpace, d.checkClock, d.checkLimits,
		d.checkCoordinator, d.checkMachines, d.checkHooks, d.checkLedger,
	)
}

// BeforeStart tries what the start of a coordinator with these folders would, as this user, and starts none.
func (d *Doctor) BeforeStart(ctx context.Context) iter.Seq[Finding] {
	return d.examine(ctx, false, d.checkFolders, d.checkWritable, d.checkSettings, d.checkMachinesFile, d.checkKeys, d.checkACL, d.checkAgents, d.checkStore)
}

func (d *Doctor) examine(ctx context.Context, deep bool, checks ...func(context.Context)) iter.Seq[Finding] {
	return func(yield func(Finding) bool) {
		d.client = apiclient.NewClient(d.folders.Socket)
		defer d.client.Close()
		for _, check := range checks {
			bounded, cancel := context.WithTimeout(ctx, checkTimeout)
			check(bounded)
			cancel()
			if ctx.Err() != nil || !d.tell(yield) {
				return
			}
		}
		if deep {
			d.inspectLedger(ctx)
			d.tell(yield)
		}
	}
}

// tell yields what a check found.
func (d *Doctor) tell(yield func(Finding) bool) bool {
	found := d.findings
	d.findings = nil
	for _, f := range found {
		if !yield(f) {
			return false
		}
	}
	return true
}

func (d *Doctor) ok(check, format string, args ...any) { d.found(OK, check, "", format, args...) }

func (d *Doctor) note(check, fix, format string, args ...any) {
	d.found(Note, check, fix, format, args...)
}

func (d *Doctor) problem(check, fix, format string, args ...any) {
	d.found(Problem, check, fix, format, args...)
}

func (d *Doctor) found(level Level, check, fix, format string, args ...any) {
	d.findings = append(d.findings, Finding{check, level, fmt.Sprintf(format, args...), fix})
}
