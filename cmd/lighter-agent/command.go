package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/agent"
	"lighter/internal/agentapi"
	"lighter/internal/agentd"
	"lighter/internal/owner"
	"lighter/sshtransport"
	"lighter/store"
)

// The exit statuses.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
)

// stdio is where a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// settings are what flags and the owner's file say. Every command has the same ones.
type settings struct {
	agentd.Options
	file     string // the owner's
	head     string
	storeDir string
}

// command is a word after the program's name.
type command struct {
	name, args, what string
	run              func(ctx context.Context, s *settings, args []string, io stdio) error
}

func commands() []command {
	return []command{
		{"start", "", "make sure that an agent serves, and say where; standard input may have {\"authorize\": [\"(public-key …)\"]}", start},
		{"connect", "", "relay standard input and output to the agent, for a head that may ask for what the owner offers; starts one unless --socket is given; for forced commands", connect},
		{"relay", "SOCKET", "relay standard input and output to the agent there, for a head that has the account itself", relay},
		{"serve", "", "be the agent, in the foreground", serve},
		{"stop", "", "end the agent; builds that run are canceled", stop},
		{"authorize", "FILE…", "accept items that are signed by the keys in the files, - is standard input", authorize},
		{"version", "", "print the version", printVersion},
	}
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run is the program. It returns the exit status.
func run(ctx context.Context, args []string, io stdio) int {
	err := dispatch(ctx, args, io)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, new(usageError)), errors.As(err, new(agentd.UsageError)):
		fmt.Fprintf(io.err, "lighter-agent: %v; see: lighter-agent help\n", err)
		return exitUsage
	}
	fmt.Fprintf(io.err, "lighter-agent: %v\n", err)
	return exitFail
}

func dispatch(ctx context.Context, args []string, io stdio) error {
	s, flags := newFlags()
	err := flags.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		printHelp(io.out, flags)
		return nil
	case err != nil:
		return usageError{err}
	}
	name, rest := "help", flags.Args()
	if len(rest) > 0 {
		name, rest = rest[0], rest[1:]
	}
	if name == "help" {
		printHelp(io.out, flags)
		return nil
	}
	for _, c := range commands() {
		if c.name != name {
			continue
		}
		if c.args == "" && len(rest) > 0 {
			return usageError{fmt.Errorf("%s: unexpected argument %q", name, rest[0])}
		}
		if s.StoreDir, err = store.ParseDir(s.storeDir); err != nil {
			return usageError{err}
		}
		if err := s.Load(s.file, flags.Changed("settings") && s.file != ""); err != nil {
			return err
		}
		return c.run(ctx, s, rest, io)
	}
	return usageError{fmt.Errorf("unknown command %q", name)}
}

func newFlags() (*settings, *pflag.FlagSet) {
	s := &settings{Options: agentd.Options{Options: owner.NewOptions()}}
	fs := pflag.NewFlagSet("lighter-agent", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, option := range s.All {
		if f := fs.VarPF(option, option.Flag, "", option.What); option.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	fs.StringVar(&s.file, "settings", owner.DefaultFile(), "`FILE` of this machine's owner with more of these settings; flags take precedence")
	fs.StringVar(&s.head, "head", "", "connect: the head's `NAME`; heads with different ones don't see each other's builds")
	fs.StringVar(&s.storeDir, "store-directory", string(store.DefaultDir), "logical store `DIR`ectory, as derivations write it")
	fs.StringVar(&s.Socket, "socket", "", "`FILE` on which the agent listens (default in a folder of this computer, named after --state)")
	fs.DurationVar(&s.Linger, "linger", time.Hour, "end after this `TIME` without builds and requests; 0 means never")
	fs.StringVar(&s.LogLevel, "log-level", "info", "least `LEVEL` of what is logged: debug, info, warn or error")
	fs.DurationVar(&s.Timeout, "timeout", 50*time.Second, "how much `TIME` starting or stopping may take")
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "state-directory" {
			name = "state"
		}
		return pflag.NormalizedName(name)
	})
	return s, fs
}

func printHelp(w io.Writer, flags *pflag.FlagSet) {
	var b strings.Builder
	b.WriteString("lighter-agent builds derivations on this machine for a coordinator, which starts it over SSH.\n\nusage: lighter-agent [FLAG…] COMMAND\n\ncommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-16s %s\n", strings.TrimSpace(c.name+" "+c.args), c.what)
	}
	fmt.Fprintf(&b, "\nflags:\n%s", flags.FlagUsages())
	b.WriteString(`
exit status: 0 done, 1 failed, 2 wrong usage

An account for offloading alone, with this line in its ~/.ssh/authorized_keys, lets the
coordinator's key do nothing but build:
  restrict,command="/usr/local/bin/lighter-agent --sandbox-path=/bin/sh connect" ssh-ed25519 AAAA…
What builds may see besides their inputs, and all else that the coordinator could ask for,
is set in this line or in the file of --settings; docs/machines.md explains it.
There the coordinator's signing key has to be accepted once:
  lighter-agent authorize coordinator.pub
or, where guix-daemon has the store, by root:
  guix archive --authorize < coordinator.pub
`)
	_, _ = io.WriteString(w, b.String())
}

func printVersion(_ context.Context, _ *settings, _ []string, io stdio) error {
	v, err := agentd.ProgramVersion()
	if err != nil {
		return err
	}
	fmt.Fprintf(io.out, "lighter-agent %s %s/%s, protocol %d\n", v, runtime.GOOS, runtime.GOARCH, agentapi.Protocol)
	return nil
}

// logger returns a logger for a process that has no person in front of it.
func (s *settings) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %q: want debug, info, warn or error", s.LogLevel)}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}

// connect is a stream to the agent on standard input and output. Who is at its other end
// has no say in the command line.
func connect(ctx context.Context, s *settings, _ []string, io stdio) error {
	head := agent.Head{Name: s.head, Offer: s.Offer()}
	intro, err := head.Introduction()
	if err != nil {
		return usageError{err}
	}
	socket := s.Socket
	if socket == "" {
		answer, err := s.Ensure(ctx)
		if err != nil {
			return err
		}
		socket = answer.Socket
	}
	return sshtransport.ServeConnect(ctx, socket, intro, io.in, io.out)
}

// relay is a stream to the agent for who could have connected to its socket, too.
func relay(ctx context.Context, _ *settings, args []string, io stdio) error {
	if len(args) != 1 {
		return usageError{errors.New("relay: which SOCKET?")}
	}
	return sshtransport.ServeConnect(ctx, args[0], nil, io.in, io.out)
}

// serve is the agent.
func serve(ctx context.Context, s *settings, _ []string, io stdio) error {
	signal.Ignore(syscall.SIGHUP) // the login is over
	logger, err := s.logger(io.err)
	if err != nil {
		return err
	}
	return s.Serve(ctx, logger)
}

// stop ends the agent. That there is none is not an error.
func stop(ctx context.Context, s *settings, _ []string, io stdio) error {
	err := s.Stop(ctx)
	if errors.Is(err, agentd.ErrNoAgent) {
		fmt.Fprintln(io.err, "lighter-agent: none runs")
		return nil
	}
	return err
}

// start makes sure that an agent serves.
func start(ctx context.Context, s *settings, _ []string, io stdio) error {
	if err := s.readInput(io.in); err != nil {
		return err
	}
	answer, err := s.Ensure(ctx)
	if err != nil {
		return err
	}
	return sshtransport.WriteStart(io.out, *answer)
}

// isTerminal reports whether a person would have to type what is read.
func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
