// Package settings is what a person can say of the coordinator in its settings file,
// lighter.toml: limits, what happens when machines or builds fail, how much room stays
// free, programs that run on events, and where outputs are published.
//
// [Load] reads such a file, checks all of it, and fills in the defaults. What is wrong is
// reported all at once, each with file, line, column, the text of the line, and what
// would be right; see [Error]. What the options of a built-in hook mean is the hook's
// business: it reads them with [Hook.ReadOptions], whose errors name their places too.
//
// docs/settings.md documents the keys.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"time"

	"lighter/internal/tomlfile"
)

// Error is one thing wrong in a settings file.
type Error = tomlfile.Error

// Errors is all that is wrong in a settings file, in the order of the file; there is at
// least one.
type Errors = tomlfile.Errors

// Settings is all that a settings file says. A value that came from this package is valid
// and has the defaults filled in.
type Settings struct {
	Coordinator Coordinator
	Access      Access
	Shares      Shares
	Head        Head
	Ledger      Ledger
	Log         Log
	Hooks       []Hook // in the order of the file
	Publish     Publish
	Web         Web
}

// Coordinator is the table [coordinator].
type Coordinator struct {
	// MachineLostAfter is how long a build that runs on a machine which cannot be reached
	// is waited for, before it is freed to go elsewhere. 5 minutes; 0 means forever.
	MachineLostAfter time.Duration
	// MaxAttempts is how many attempts at a build may fail for other reasons than the
	// derivation. At least 1; 10.
	MaxAttempts int
	// Retries is how often a failure of the derivation itself is tried again, for builds
	// whose requests don't say. 0.
	Retries int
	// DownloadRetries is the same for fixed-output derivations, at least; 3.
	DownloadRetries int
	// QuarantineAfter is how many derivations must fail on a machine and succeed elsewhere
	// for it to get no builds for QuarantineTime. 3 and 1 hour; 0 means never. QuarantineTime
	// is at least a second.
	QuarantineAfter int
	QuarantineTime  time.Duration
	// ParallelTransfers bounds the streams of items to each machine, and those from it, at
	// the same time, unless its own entry says. At least 1; 4.
	ParallelTransfers int
	// RunAgain has a build that runs on a slow machine begun again on a faster one that idles. True.
	RunAgain bool
	// BuildMissingInputs has inputs built that can't be found anywhere. True.
	BuildMissingInputs bool
	// IdleAlarm is how long a build that a free machine could take may wait before the
	// log says why. 1 minute; 0 means forever.
	IdleAlarm time.Duration
	// MaxLog bounds a build's log, in bytes; what is longer is cut. 256 MiB.
	MaxLog int64
	// DerivationSubstituteURLs are the servers from which derivations that are not in the
	// head's store are fetched, where a request names none. None.
	DerivationSubstituteURLs []string
	// Timeout and MaxSilentTime bound builds whose requests don't say; 0, which is the
	// default, is no limit.
	Timeout       time.Duration
	MaxSilentTime time.Duration
}

// Access is the table [access]: who may do what. Users and groups are names, or numbers.
type Access struct {
	// SubmitGroup is the group of the socket, whose members may submit builds and look;
	// empty is the coordinator's own.
	SubmitGroup string
	// OperateGroup is the group whose members may operate, and OperateUsers are users who
	// may, besides root and the coordinator's own user. None.
	OperateGroup string
	OperateUsers []string
	// MaxPriority bounds the priority of builds of those who may not operate. 1,000,000,
	// which all priorities have as their bound.
	MaxPriority int
}

// What [shares] can tell apart.
const (
	SharesByUser   = "user"
	SharesByTag    = "tag"
	SharesBySource = "source"
	SharesByNone   = "none"
)

// Shares is the table [shares]: how the machines are divided among those who ask.
type Shares struct {
	By string // SharesByUser, which is the default, or another of the words above
	// HalfLife is the time after which slot time that was used counts half. 30 minutes; 0 means
	// that it always counts whole; else at least a minute.
	//
	// The default comes from a simulation: shares must be right within any hour, and a debt must be
	// paid within one. With 16 slots and builds from seconds to 2 hours, what three who always want
	// more get in the worst hour is 11 % off at 1 minute, 8 % at 10, 4 % at 30 and more: a memory
	// shorter than builds take forgets that a long one was had. But where somebody got nothing for
	// 4 hours, since no machine could take it, it gets 1.1 times its share in the next hour at 10
	// minutes, 1.5 times at 30, twice at an hour, and nearly everything at a day.
	HalfLife time.Duration
	// Weights says how much each may use, relative to others; "*" is who is not named, 1 if it is
	// not there. They are above 0. There need be nobody of a name.
	Weights map[string]float64
}

// Head is the table [head]: which store the head has, and what must stay free there. Below
// that the coordinator pauses, and resumes by itself.
type Head struct {
	// Store is the kind of the head's store, "local" or "guix-daemon", where the command
	// line does not say; empty: what is found.
	Store            string
	MinFreeDisk      int64 // bytes, where the store is; 1 GiB
	MinFreeStateDisk int64 // bytes, where ledger and logs are; 256 MiB
	MinFreeInodes    int64 // where either is; 10,000; 0 disregards them
}

// Ledger is the table [ledger].
type Ledger struct {
	// PruneAfter is how long a build stays in the ledger after its end; 0, which is the
	// default, is forever.
	PruneAfter time.Duration
	// KeepLogs spares the logs of builds that are pruned. False.
	KeepLogs bool
	// SyncDelay bounds how long a change that was not promised waits to be written
	// durably. 1 ms to 10 s; 200 ms.
	SyncDelay time.Duration
}

// The formats of the coordinator's own log.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Log is the table [log].
type Log struct {
	Level  slog.Level // Info
	Format string     // FormatText, which is the default, or FormatJSON
}

// The events that a hook can ask for.
const (
	BuildSubmitted        = "build-submitted"
	BuildStarted          = "build-started"
	BuildSucceeded        = "build-succeeded"
	BuildFailed           = "build-failed"
	BuildTimedOut         = "build-timed-out"
	BuildDependencyFailed = "build-dependency-failed"
	BuildCanceled         = "build-canceled"
	BuildMissingInputs    = "build-missing-inputs"
	MachineLost           = "machine-lost"
	MachineBack           = "machine-back"
)

var eventNames = []string{
	BuildSubmitted, BuildStarted, BuildSucceeded, BuildFailed, BuildTimedOut, BuildDependencyFailed, BuildCanceled,
	BuildMissingInputs, MachineLost, MachineBack,
}

// Events returns the names of all events.
func Events() []string { return slices.Clone(eventNames) }

// The built-in hooks.
const (
	BuiltInPublish     = "publish"
	BuiltInMirror      = "mirror"
	BuiltInPruneLogs   = "prune-logs"
	BuiltInBuildEvents = "build-events"
)

var builtInNames = []string{BuiltInPublish, BuiltInMirror, BuiltInPruneLogs, BuiltInBuildEvents}

// Hook is a table [[hook]]: what runs on events.
type Hook struct {
	// Name is unique. It is made of at most 100 letters, digits, dots, dashes and
	// underscores, the first one no dot.
	Name   string
	Events []string // names of events, each once; never empty
	// Command is the program and its arguments. A command that is written as one string
	// is given to /bin/sh. It is empty for a built-in hook.
	Command []string
	// BuiltIn is the name of a built-in hook, or empty.
	BuiltIn  string
	Timeout  time.Duration // of one run; at least a second; 5 minutes
	Parallel int           // runs at the same time; 0: 1, or a built-in's own choice
	// Tries is after how many failures a run is parked. At least 1; 8.
	Tries int
	// Tags are those that a build must have for the hook to run; an empty one must be there
	// with any value. Events of machines have none, and always count.
	Tags map[string]string
	// Options are those of a built-in hook: string, int64, float64, bool or []string. See
	// ReadOptions.
	Options map[string]any

	// places is where the options stand; nil in a hook that came from no file.
	places *places
}

// places is where a hook's options are in a document.
type places struct {
	file, doc     string // as Parse got them
	hook, options *tomlfile.Place
}

// Web is the table [web]: the page of the farm, which "lighter web" serves.
type Web struct {
	// URL is the page's address, as browsers reach it, without a slash at the end. Empty is where
	// "lighter web" is by default.
	URL string
}

// CheckWebURL says what is wrong with the address of a page.
func CheckWebURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a URL", text)
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%q does not start with https:// or http://", text)
	case u.Hostname() == "":
		return fmt.Errorf("%q has no host", text)
	case *u != url.URL{Scheme: u.Scheme, Host: u.Host}:
		return fmt.Errorf("%q has more than a host and a port: the page has a host of its own", text)
	}
	return nil
}

// Publish is the table [publish]: how outputs are made available to others.
type Publish struct {
	// Folder is where narinfos and archives go; empty: nothing is published.
	Folder string
	// Key is the file of the key that signs them; empty: the head's.
	Key         string
	Compression string // CompressZstd, which is the default, CompressGzip or CompressNone
	// Level is that of the compression: 1 to 22 for zstd, 1 to 9 for gzip; 0, which is the
	// default, is the compressor's choice.
	Level int
}

// The ways to compress what is published.
const (
	CompressZstd = "zstd"
	CompressGzip = "gzip"
	CompressNone = "none"
)

// Default returns the settings of an empty file.
func Default() *Settings {
	return &Settings{
		Coordinator: Coordinator{
			MachineLostAfter: 5 * time.Minute, MaxAttempts: 10, DownloadRetries: 3, QuarantineAfter: 3, QuarantineTime: time.Hour,
			ParallelTransfers: 4, BuildMissingInputs: true, RunAgain: true, IdleAlarm: time.Minute, MaxLog: 256 << 20,
		},
		Access:  Access{MaxPriority: maxPriority},
		Shares:  Shares{By: SharesByUser, HalfLife: 30 * time.Minute},
		Head:    Head{MinFreeDisk: 1 << 30, MinFreeStateDisk: 256 << 20, MinFreeInodes: 10000},
		Ledger:  Ledger{SyncDelay: 200 * time.Millisecond},
		Log:     Log{Level: slog.LevelInfo, Format: FormatText},
		Publish: Publish{Compression: CompressZstd},
	}
}

// Load reads and checks a settings file. One that is not there is as good as an empty
// one. What is wrong in it comes as Errors; a file that cannot be read as an
// *fs.PathError. In names of files, "~/" is the home folder of this user.
func Load(file string) (*Settings, error) {
	data, err := tomlfile.ReadFile(file, "settings file")
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		return nil, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "" // which is an error for who writes "~/"
	}
	return Parse(file, data, home)
}
