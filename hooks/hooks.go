// Package hooks runs what a person wants to happen when something happens to a build
// or a machine: programs, and built-ins of the same interface. docs/hooks.md is for
// those who write them.
//
// An [Engine] follows the ledger's events. Each event that a hook wants becomes a run
// of that hook. A run is carried out at least once; it is tried again, ever later,
// until it succeeds, or until it has failed so often that it is parked, which means
// that it waits for a person.
//
// # Order
//
// For one hook, the runs of one build go one after the other, in the order of the
// events; so do those of one machine. A run that waits to be tried again holds up
// those behind it of the same build, and no others. A parked one holds up nothing:
// what would wait for a person might wait forever. If it is retried later, it comes
// after what has overtaken it.
//
// # What is kept where
//
// Each hook has a cursor in the ledger: the event up to which it has made runs. Runs
// and cursor change together. A hook makes runs only while it has few, so that the
// events themselves are the backlog of a slow hook, and its memory has a bound. The
// end of a run is written a little later and not synced: after a crash it may be
// carried out again, but never before a run that it came after.
package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
)

// The names of events that hooks can have.
const (
	BuildSubmitted = "build-submitted"
	BuildStarted   = "build-started" // an attempt; the builder runs
	BuildSucceeded = "build-succeeded"
	BuildFailed    = "build-failed"
	BuildTimedOut  = "build-timed-out"
	// BuildDependencyFailed is the end of a build that needs one that failed. Built-ins that are
	// told of BuildFailed are told of it too.
	BuildDependencyFailed = "build-dependency-failed"
	BuildCanceled         = "build-canceled"
	BuildMissingInputs    = "build-missing-inputs"
	MachineLost           = "machine-lost"
	MachineBack           = "machine-back"
)

// EventNames lists all of them.
func EventNames() []string {
	return []string{
		BuildSubmitted, BuildStarted, BuildSucceeded, BuildFailed, BuildTimedOut, BuildDependencyFailed, BuildCanceled, BuildMissingInputs,
		MachineLost, MachineBack,
	}
}

var stateNames = map[api.State]string{
	api.Building:  BuildStarted,
	api.Succeeded: BuildSucceeded,
	api.Failed:    BuildFailed,
	api.TimedOut:  BuildTimedOut,
	api.Canceled:  BuildCanceled,

	api.DependencyFailed: BuildDependencyFailed,
}

var kindNames = map[api.EventKind]string{
	api.KindMissingInputs: BuildMissingInputs,
	api.KindMachineLost:   MachineLost,
	api.KindMachineBack:   MachineBack,
}

// namesOf returns the names of an event: none for most, two for a build that was
// created in a state that has a name, such as one that joins another's attempt.
func namesOf(ev *api.Event) []string {
	var names []string
	if ev.Kind == api.KindSubmitted {
		names = append(names, BuildSubmitted)
	}
	name := kindNames[ev.Kind]
	if ev.Build != "" && (ev.Kind == "" || ev.Kind == api.KindSubmitted) {
		name = stateNames[ev.State]
	}
	if name != "" {
		names = append(names, name)
	}
	return names
}

// Event is what a hook is told. A program gets it as JSON on its standard input.
type Event struct {
	Name string    `json:"name"` // "build-succeeded"
	Hook string    `json:"hook"` // the hook's name in the configuration
	Try  int       `json:"try"`  // from 1
	Seq  uint64    `json:"seq"`  // number of the event; the same whenever the run is repeated
	Time time.Time `json:"time"` // of the event
	// Machine is the one that the event is about, or that built.
	Machine string    `json:"machine,omitempty"`
	Event   api.Event `json:"event"`
	// Build is the build as it is now, perhaps further than the event. nil for events
	// of machines.
	Build *api.Build `json:"build,omitempty"`
}

// BuiltIn is a hook in this program. Run is called from several goroutines at the same
// time, for at most as many events as the hook may have parallel runs. It ends when the
// context does. The output is for people, and its last 16 KiB are kept. An error means
// that the run is tried again; one made by Permanent, that this has no use.
//
// If it has a method "Parallel() int", that is the number of parallel runs of hooks
// whose configuration names none.
type BuiltIn interface {
	Run(ctx context.Context, e *Event) (output string, err error)
}

// Permanent marks an error of a run that would fail again in the same way: it is
// parked at once.
func Permanent(err error) error { return &permanentError{err} }

// IsPermanent says whether an error was made by Permanent.
func IsPermanent(err error) bool {
	var permanent *permanentError
	return errors.As(err, &permanent)
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// What a Config has where it names nothing.
const (
	DefaultTimeout  = 5 * time.Minute
	DefaultParallel = 1
	DefaultTries    = 8
)

// Limits on a Config.
const (
	maxParallel = 10_000
	maxTries    = 10_000
	maxName     = 100
)

// Config is one hook. It has either a Command or a BuiltIn.
type Config struct {
	Name   string
	Events []string // any of EventNames
	// Command is a program and its arguments: an absolute file name, or a name
	// without slash, which is looked for in the coordinator's PATH.
	Command []string
	BuiltIn string // name of a built-in
	// Runner is the built-in itself, with options of its own; nil is the one that the
	// engine was given under that name.
	Runner BuiltIn
	// Timeout bounds one try; 0 is DefaultTimeout.
	Timeout time.Duration
	// Parallel bounds the runs at the same time; 0 is DefaultParallel, or the
	// built-in's own choice.
	Parallel int
	// Tries is how often a run may fail before it is parked; 0 is DefaultTries.
	Tries int
	// Problem says why the hook can't be carried out, if it can't: it keeps its place among
	// the events until a configuration comes with which it can.
	Problem string
	// Tags selects builds: all of these, an empty value is any. A hook with tags gets
	// no events of machines.
	Tags map[string]string
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// Check says what is wrong with one hook.
func (c *Config) Check(builtIns map[string]BuiltIn) error {
	if !goodName.MatchString(c.Name) || len(c.Name) > maxName {
		return fmt.Errorf("hook %q: want a name of at most %d letters, digits, dots, dashes and underscores", c.Name, maxName)
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("hook %s: %s", c.Name, fmt.Sprintf(format, args...))
	}
	if len(c.Events) == 0 {
		return wrong("it has no events; there are %s", strings.Join(EventNames(), ", "))
	}
	for _, name := range c.Events {
		if !slices.Contains(EventNames(), name) {
			return wrong("no event is called %q; there are %s", name, strings.Join(EventNames(), ", "))
		}
	}
	switch {
	case len(c.Command) > 0 && c.BuiltIn != "":
		return wrong("it has a command and a built-in; want one of them")
	case len(c.Command) == 0 && c.BuiltIn == "":
		return wrong("it has neither a command nor a built-in")
	case c.BuiltIn != "" && c.Runner == nil && builtIns[c.BuiltIn] == nil:
		return wrong("no built-in is called %q", c.BuiltIn)
	case len(c.Command) > 0 && (c.Command[0] == "" || strings.Contains(c.Command[0], "/") && !filepath.IsAbs(c.Command[0])):
		return wrong("command %q: want an absolute file name, or a name without slash, which is looked for in PATH", c.Command[0])
	case slices.ContainsFunc(c.Command, func(s string) bool { return strings.Contains(s, "\x00") }):
		return wrong("command %q: a NUL can't be passed to a program", c.Command)
	case c.Timeout < 0:
		return wrong("timeout %s: want more than 0", c.Timeout)
	case c.Parallel < 0 || c.Parallel > maxParallel:
		return wrong("parallel %d: want 1 to %d", c.Parallel, maxParallel)
	case c.Tries < 0 || c.Tries > maxTries:
		return wrong("tries %d: want 1 to %d", c.Tries, maxTries)
	}
	return nil
}

// checkAll says what is wrong with a list of hooks.
func checkAll(list []Config, builtIns map[string]BuiltIn) error {
	seen := make(map[string]bool)
	for i := range list {
		if err := list[i].Check(builtIns); err != nil {
			return err
		}
		if seen[list[i].Name] {
			return fmt.Errorf("hook %s: appears twice", list[i].Name)
		}
		seen[list[i].Name] = true
	}
	return nil
}

// complete returns a copy with the defaults filled in.
func (c Config) complete(runner BuiltIn) Config {
	if c.BuiltIn != "" && c.wants(BuildFailed) && !c.wants(BuildDependencyFailed) {
		c.Events = append(slices.Clone(c.Events), BuildDependencyFailed)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Tries == 0 {
		c.Tries = DefaultTries
	}
	if c.Parallel == 0 {
		c.Parallel = DefaultParallel
		if chooser, ok := runner.(interface{ Parallel() int }); ok {
			c.Parallel = max(1, chooser.Parallel())
		}
	}
	return c
}

func (c *Config) wants(name string) bool { return slices.Contains(c.Events, name) }

// Setting is a value in the ledger, as JSON, under a name; nil removes it.
type Setting struct {
	Name  string
	Value any
}

// Ledger is what the engine sees of the ledger. All its names start with "hooks/".
type Ledger interface {
	// LastEvent returns the number of the last event.
	LastEvent() uint64
	// Events calls fn for each event from a number on, in order, and returns fn's
	// error. With follow it goes on with events to come.
	Events(ctx context.Context, from uint64, follow bool, fn func(api.Event) error) error
	// Build returns a build, or an error that matches api.ErrNotFound.
	Build(ctx context.Context, id string) (*api.Build, error)
	// Apply makes changes together or not at all, and in the order of the calls also
	// as far as a crash is concerned.
	Apply(ctx context.Context, changes []Setting, durable bool) error
	// Setting decodes a value, and reports whether it is there.
	Setting(ctx context.Context, name string, v any) (bool, error)
	// Settings calls fn for each value whose name starts with a prefix, in the order
	// of the names, and returns fn's error.
	Settings(ctx context.Context, prefix string, fn func(name string, value json.RawMessage) error) error
}

// errEnough ends a scan early.
var errEnough = errors.New("enough")
