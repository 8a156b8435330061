package sshtransport

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// programName is what an agent's program is called on a machine.
const programName = "lighter-agent"

// starter starts agents on one machine. It remembers what it learnt from one
// connection to the next.
type starter struct {
	cfg *Config

	mu       sync.Mutex
	platform platform // zero: not known
	dir      string   // where agents are; absolute once it is known
}

// start makes sure that an agent runs, and returns how to reach it. It blocks as long
// as the connection lasts; time limits close that. Streams are not yet tried.
func (s *starter) start(ctx context.Context, l *link) (agent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isOurs(string(l.client.ServerVersion())) {
		return agent{mode: ModeStreamLocal, socket: ServerSocket, fixed: true}, nil
	}
	if s.cfg.Bootstrap.Forced {
		return forcedAgent(), nil
	}
	if s.cfg.Bootstrap.Agents == nil {
		return s.run(l, programName, []string{programName})
	}
	return s.startUploaded(ctx, l)
}

// forcedAgent is that of an account that offers streams and nothing else. The command
// is for its log.
func forcedAgent() agent {
	return agent{mode: ModeSession, connect: programName + " connect", fixed: true}
}

// startUploaded runs the agent that was uploaded before, if it was; else it finds out
// which one the machine needs, uploads it, and runs that once.
func (s *starter) startUploaded(ctx context.Context, l *link) (agent, error) {
	guess := s.platform
	if guess == (platform{}) {
		guess = platform{"linux", runtime.GOARCH}
	}
	// That there is none for the guess matters only if the guess is right.
	if binary, err := s.binary(ctx, guess); err == nil {
		a, err := s.runUploaded(l, binary)
		if !notThere(err) {
			if err == nil {
				s.platform = guess
			}
			return a, err
		}
	}
	probed, err := s.probe(l)
	if err != nil {
		return agent{}, err
	}
	binary, err := s.binary(ctx, probed)
	if err != nil {
		return agent{}, err
	}
	if probed != guess {
		a, err := s.runUploaded(l, binary)
		if !notThere(err) {
			if err == nil {
				s.platform = probed
			}
			return a, err
		}
	}
	s.platform = probed
	return s.upload(ctx, l, binary)
}

// upload uploads the agent if it is really not there, and runs it.
func (s *starter) upload(ctx context.Context, l *link, binary *AgentBinary) (agent, error) {
	err := l.within(s.cfg.UploadTimeout, "uploading the agent", func() error {
		dir, err := upload(ctx, l, s.dirOrDefault(), binary)
		if err != nil && needsShell(err) && l.check() == nil && ctx.Err() == nil {
			sftpErr := err
			if dir, err = uploadByShell(ctx, l, s.dirOrDefault(), binary); err != nil {
				err = fmt.Errorf("%w (and %w)", err, sftpErr)
			}
		}
		if err == nil {
			s.dir = dir
		}
		return err
	})
	if err != nil {
		return agent{}, fmt.Errorf("upload the agent: %w", err)
	}
	a, err := s.runUploaded(l, binary)
	if hasStatus(err, statusNotRun) {
		err = l.whyNotRun(err, s.dir)
	}
	if hasStatus(err, statusNoHash) {
		// The upload has read it back, and its folder is this account's alone.
		program := s.program(binary)
		return s.run(l, program, []string{program})
	}
	return a, err
}

// The statuses with which startScript says that it did not run the program: nothing there
// computes hashes, or it has another one.
const (
	statusNoHash    = 120
	statusWrongHash = 121
	statusNotRun    = 126 // by POSIX: it is there, and can't be executed
)

// startScript is for sh: it runs the program $0 if its SHA-256 is $1. The file is opened
// once, and what was hashed is what runs, whatever has been put in its place meanwhile.
const startScript = `[ -f "$0" ] || exit 127; exec 3<"$0" || exit 126; h=$(sha256sum <&3 2>/dev/null) || exit 120; ` +
	`case $h in "$1 "*) ;; *) exit 121;; esac; shift; exec /proc/self/fd/3 "$@" 3<&3`

// runUploaded runs the agent in its place, if it is there and the one that it should be.
func (s *starter) runUploaded(l *link, binary *AgentBinary) (agent, error) {
	program := s.program(binary)
	return s.run(l, program, []string{"sh", "-c", startScript, program, hex.EncodeToString(binary.SHA256[:])})
}

func (s *starter) binary(ctx context.Context, p platform) (*AgentBinary, error) {
	binary, err := s.cfg.Bootstrap.Agents(ctx, p.os, p.arch)
	if err == nil && binary == nil {
		err = errors.New("there is none")
	}
	if err != nil {
		return nil, &BinaryError{p.String(), err}
	}
	return binary, nil
}

func (s *starter) dirOrDefault() string {
	if s.dir != "" {
		return s.dir
	}
	dir := strings.TrimPrefix(s.cfg.Bootstrap.RemoteDir, "~/")
	return path.Clean(dir)
}

// program returns the name of an agent's program on the machine.
func (s *starter) program(binary *AgentBinary) string {
	return programIn(s.dirOrDefault(), binary)
}

func programIn(dir string, binary *AgentBinary) string {
	return path.Join(dir, hex.EncodeToString(binary.SHA256[:]), programName)
}

const (
	magicUname  = magicPrefix + "uname "
	unameScript = `printf '\nlighter-agent/1 uname %s\n' "$(uname -s -m)"`
)

// probe asks what the machine is.
func (s *starter) probe(l *link) (platform, error) {
	var p platform
	err := l.within(s.cfg.StartTimeout, "uname on the machine", func() error {
		c, err := l.script(unameScript)
		if err != nil {
			return err
		}
		defer c.close()
		line, err := c.magic()
		if err != nil {
			return err
		}
		p, err = parseUname(strings.TrimPrefix(line, magicUname))
		return err
	})
	return p, err
}

// run runs "start" by the words with which a command of the program begins, and returns
// what it says of the agent.
func (s *starter) run(l *link, program string, command []string) (agent, error) {
	args := append([]string{"start"}, s.cfg.Bootstrap.Args...)
	text, err := quote(slices.Concat(command, args)...)
	if err != nil {
		return agent{}, err
	}
	shown, err := quote(append([]string{program}, args...)...)
	if err != nil {
		return agent{}, err
	}
	var a agent
	err = l.within(s.cfg.StartTimeout, "starting the agent", func() error {
		line, err := l.runStart(shown, text, s.cfg.Bootstrap.StartInput)
		if err != nil {
			return err
		}
		a, err = agentOf(line, program)
		return err
	})
	return a, err
}

// runStart returns the magic line that a command answers with. A command that offers a
// stream is told that it is not wanted. Errors show it as the first text.
func (l *link) runStart(shown, text string, input []byte) (string, error) {
	c, err := l.exec(text)
	if err != nil {
		return "", err
	}
	c.text = shown
	defer c.close()
	// The command may end without reading its input, so that is given meanwhile.
	l.group.Go(func() {
		if _, err := c.ch.Write(input); err == nil {
			_ = c.ch.CloseWrite() // the command's answer says whether that went well
		}
	})
	line, err := readMagic(c.stdout)
	switch {
	case errors.Is(err, errNoMagic):
		return "", c.failure(err.Error())
	case err != nil:
		return "", err
	case line == magicConnect:
		c.close()
	}
	c.finish()
	return line, nil
}

func agentOf(line, program string) (agent, error) {
	if line == magicConnect {
		return forcedAgent(), nil
	}
	text, ok := strings.CutPrefix(line, magicStart)
	if !ok {
		return agent{}, fmt.Errorf("%s start answers with %q, which is of another version", program, truncate(printable(line), 100))
	}
	answer, err := parseStart(text)
	if err != nil {
		return agent{}, fmt.Errorf("%s start: %w", program, err)
	}
	if answer.PID > 0 { // the very program that was checked when it started
		program = fmt.Sprintf("/proc/%d/exe", answer.PID)
	}
	connect, err := quote(program, "relay", answer.Socket)
	if err != nil {
		return agent{}, err
	}
	return agent{socket: answer.Socket, connect: connect}, nil
}

// notThereText is how shells say that there is no such program, or none for this
// processor, where their exit status does not.
var notThereText = regexp.MustCompile(`(?i)not found|no such file|cannot execute|exec format error|unknown command`)

// notThere classifies the failure of a command: is the program missing, or for another
// machine? POSIX shells and fish say so with 126 and 127, csh with 1.
func notThere(err error) bool {
	var failed *CommandError
	if !errors.As(err, &failed) {
		return false
	}
	return failed.Status == statusNotRun || failed.Status == 127 || failed.Status == statusNoHash || failed.Status == statusWrongHash ||
		failed.Status == 1 && notThereText.MatchString(failed.Stderr+failed.Reason)
}

func hasStatus(err error, status int) bool {
	var failed *CommandError
	return errors.As(err, &failed) && failed.Status == status
}

// isOurs recognises Server by its identification.
func isOurs(serverVersion string) bool { return strings.HasPrefix(serverVersion, serverVersionPrefix) }
