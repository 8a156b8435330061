// Package buildhook is what guix-daemon asks whether a build may be offloaded, and has
// it done by lighter's coordinator.
//
// guix-daemon starts "$GUIX offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT"
// (nix/libstore/build.cc, HookInstance). It writes questions to standard input and reads
// answers, and all that is to be told to the user, from standard output and error, which
// are one pipe; file descriptor 4 takes the builder's log. After "# accept" it neither
// tries again nor builds locally, so [Run] says no to whatever may not work out, and what
// it accepted is the coordinator's to try elsewhere.
//
// The outputs come as archives that are signed by the machine that built them. The hook
// checks them against Guix's list of authorized keys, and writes them to the store under
// their names with the rights that guix-daemon has given it; guix-daemon registers them
// when the hook has ended well.
package buildhook

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/nar/signature"
	"lighter/store"
)

// Config is what a hook works with. What has no default is required.
type Config struct {
	In  io.Reader // guix-daemon's questions
	Out io.Writer // answers, and what the user is told
	// Log takes the builder's log: guix-daemon's file descriptor 4.
	Log *os.File
	// Socket is the coordinator's.
	Socket string
	// Dir is the store. The outputs are written there.
	Dir store.Dir
	// ACL names the file with the keys whose archives are taken.
	ACL string

	// MaxSilentTime and Timeout are those in force for the build; 0 means no limit.
	MaxSilentTime, Timeout time.Duration

	// Patience is how long the coordinator may be away while it has something built;
	// 0 means 2 minutes.
	Patience time.Duration

	answerTimeout time.Duration // how long the coordinator may take for an answer
	silence       time.Duration // how long it may say nothing while it has an order
}

// The exit codes that guix-daemon knows of a hook. Any other is a failure that says
// nothing of the derivation.
const (
	ExitBuilt     = 0
	ExitTransient = 1
	ExitPermanent = 100
	ExitTimedOut  = 101
)

const (
	defaultPatience      = 2 * time.Minute
	defaultAnswerTimeout = 10 * time.Second
)

// Run answers guix-daemon until a build was done, or there are no more questions, and
// returns the exit code.
func Run(cfg Config) int {
	if cfg.Patience <= 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.answerTimeout <= 0 {
		cfg.answerTimeout = defaultAnswerTimeout
	}
	if cfg.silence <= 0 {
		cfg.silence = hookapi.Silence
	}
	h := &hook{Config: cfg, in: bufio.NewReaderSize(cfg.In, 64<<10)}
	defer h.hangUp()
	for {
		line, err := h.line(maxQuestion)
		if errors.Is(err, io.EOF) {
			return ExitBuilt // guix-daemon does not need this process any more
		}
		if err != nil {
			h.say("guix-daemon's question: %v", err)
			return ExitTransient
		}
		q, err := parseQuestion(line, cfg.Dir)
		if err != nil {
			h.say("%v; not offloaded", err)
			h.answer(hookapi.Decline)
			continue
		}
		verdict := h.ask(q)
		h.answer(verdict)
		if verdict == hookapi.Accept {
			return h.build(q)
		}
	}
}

// hook is one run of the hook.
type hook struct {
	Config
	in     *bufio.Reader
	told   teller
	conn   *conversation // nil if there is none
	reason string        // the last that the user was told of, so that he is told once
	// goneSince is since when no coordinator has answered; zero if the last question was answered.
	goneSince time.Time
}

// Limits on what guix-daemon says, in bytes. The lists of inputs and outputs are closures.
const (
	maxQuestion = 64 << 10
	maxList     = 32 << 20
)

// line reads a line, without its end.
func (h *hook) line(limit int) (string, error) {
	var line []byte
	for {
		part, err := h.in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return "", fmt.Errorf("a line of more than %d bytes", limit)
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF && len(line) > 0:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		default:
			return string(line[:len(line)-1]), nil
		}
	}
}

// parseQuestion reads "WANTS-LOCAL SYSTEM DRV FEATURES"; the features are separated by
// commas and may be none.
func parseQuestion(line string, dir store.Dir) (*hookapi.Question, error) {
	words := strings.Split(line, " ")
	if len(words) != 4 || words[0] != "0" && words[0] != "1" {
		return nil, fmt.Errorf(`guix-daemon asks %.200q, not "0|1 SYSTEM DERIVATION FEATURES"`, line)
	}
	drv, err := dir.ParsePath(words[2])
	if err != nil {
		return nil, err
	}
	if !drv.IsDerivation() || words[1] == "" {
		return nil, fmt.Errorf("guix-daemon asks %.200q, which names no derivation or no system", line)
	}
	q := &hookapi.Question{Derivation: drv, System: words[1], WantsLocal: words[0] == "1"}
	if words[3] != "" {
		q.Features = strings.Split(words[3], ",")
	}
	if err := q.Check(); err != nil {
		return nil, fmt.Errorf("guix-daemon asks about %s: %w", drv.Base(), err)
	}
	return q, nil
}

// answer tells guix-daemon whether the build is taken.
func (h *hook) answer(verdict string) { h.told.printf(h.Out, "# %s\n", verdict) }

// say tells the user something.
func (h *hook) say(format string, args ...any) {
	h.told.printf(h.Out, "lighter: %s\n", printable(fmt.Sprintf(format, args...)))
}

// ask asks the coordinator. Where none answers guix-daemon builds by itself.
func (h *hook) ask(q *hookapi.Question) string {
	// Without the list of keys no output could be checked.
	if _, err := signature.LoadACL(h.ACL); err != nil {
		h.sayOnce(fmt.Sprintf("%v: nothing is offloaded", err))
		return hookapi.Decline
	}
	old := h.conn
	a, err := h.put(q)
	if err != nil && old != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		// The coordinator was started again since the last question.
		h.hangUp()
		a, err = h.put(q)
	}
	if err != nil {
		h.hangUp()
		return h.unanswered(q, err)
	}
	h.goneSince = time.Time{}
	switch a.Verdict {
	case hookapi.Accept:
	case hookapi.Decline:
		h.sayOnce(fmt.Sprintf("%s is not offloaded: %s", q.Derivation.Base(), a.Reason))
	case hookapi.Postpone:
		h.sayOnce(fmt.Sprintf("%s waits: %s", q.Derivation.Base(), a.Reason))
	}
	return a.Verdict
}

// unanswered is what guix-daemon is told while no coordinator answers. Where it can build by itself now,
// it does. Else it is asked to wait for as long as a build that was accepted is kept: the coordinator
// may just be restarting, and with --max-jobs=0 a no would be the end of the build.
func (h *hook) unanswered(q *hookapi.Question, err error) string {
	if h.goneSince.IsZero() {
		h.goneSince = time.Now()
	}
	switch {
	case q.WantsLocal, errors.Is(err, fs.ErrPermission):
		h.sayOnce(fmt.Sprintf("no coordinator answers (%v): %s is not offloaded", err, q.Derivation.Base()))
	case time.Since(h.goneSince) < h.Patience:
		h.sayOnce(fmt.Sprintf("no coordinator answers (%v); waiting up to %s for it", err, h.Patience))
		return hookapi.Postpone
	default:
		h.sayOnce(fmt.Sprintf("no coordinator answers (%v), for %s: %s is not offloaded", err, h.Patience, q.Derivation.Base()))
	}
	return hookapi.Decline
}

// sayOnce tells the user something unless it was the last that he was told.
func (h *hook) sayOnce(text string) {
	if text != h.reason {
		h.say("%s", text)
	}
	h.reason = text
}

func (h *hook) put(q *hookapi.Question) (*hookapi.Answer, error) {
	if h.conn == nil {
		var err error
		if h.conn, err = dial(h.Socket); err != nil {
			return nil, err
		}
	}
	if err := h.conn.SetDeadline(time.Now().Add(h.answerTimeout)); err != nil {
		return nil, err
	}
	if err := hookapi.WriteJSON(h.conn, hookapi.Ask, q); err != nil {
		return nil, err
	}
	kind, payload, err := h.conn.frames.Next()
	if err != nil {
		return nil, err
	}
	var a hookapi.Answer
	if kind != hookapi.Reply {
		return nil, hookapi.ErrFrame
	}
	if err := hookapi.Decode(payload, &a); err != nil {
		return nil, err
	}
	return &a, h.conn.SetDeadline(time.Time{})
}

func (h *hook) hangUp() {
	if h.conn != nil {
		h.conn.Close()
		h.conn = nil
	}
}

// build has the accepted build done and returns the exit code.
func (h *hook) build(q *hookapi.Question) int {
	b, err := h.newBuild(q)
	if err != nil {
		h.say("%v", err)
		return ExitTransient
	}
	b.told.note(api.Queued, "handed to the coordinator")
	stop := b.keepTalking()
	code := b.run()
	stop()
	if code != ExitBuilt {
		b.removeAll()
	}
	awaitReader(h.Log)
	return code
}

func (h *hook) newBuild(q *hookapi.Question) (*build, error) {
	id, secret, err := hookapi.NewID()
	if err != nil {
		return nil, err
	}
	b := &build{hook: h, order: hookapi.Order{
		ID: id, Secret: secret, Derivation: q.Derivation,
		Timeout: api.Seconds(h.Timeout.Seconds()), MaxSilentTime: api.Seconds(h.MaxSilentTime.Seconds()),
		Client: clientUser("/proc", os.Getppid()),
	}}
	inputs, err := h.list()
	if err != nil {
		return nil, fmt.Errorf("guix-daemon's list of inputs: %w", err)
	}
	b.order.SetInputs(inputs)
	if b.order.Outputs, err = h.list(); err != nil {
		return nil, fmt.Errorf("guix-daemon's list of outputs: %w", err)
	}
	if len(b.order.Outputs) == 0 {
		return nil, errors.New("guix-daemon's list of outputs is empty")
	}
	return b, nil
}

// list reads a line of store items.
func (h *hook) list() ([]store.Path, error) {
	line, err := h.line(maxList)
	if err != nil {
		return nil, err
	}
	words := strings.Fields(line)
	paths := make([]store.Path, len(words))
	for i, w := range words {
		if paths[i], err = h.Dir.ParsePath(w); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// Environment returns the configuration that follows from the arguments of "guix offload",
// after that word, and from the environment. Its files are those of the process.
func Environment(args []string, getenv func(string) string) (Config, error) {
	if len(args) != 4 {
		return Config{}, errors.New("offload: want SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT, as guix-daemon gives them")
	}
	silent, err := seconds("MAX-SILENT-TIME", args[1])
	if err != nil {
		return Config{}, err
	}
	timeout, err := seconds("BUILD-TIMEOUT", args[3])
	if err != nil {
		return Config{}, err
	}
	dir, err := store.ParseDir(orElse(getenv("NIX_STORE_DIR"), string(store.DefaultDir)))
	if err != nil {
		return Config{}, fmt.Errorf("NIX_STORE_DIR: %w", err)
	}
	return Config{
		In: os.Stdin, Out: os.Stderr, Log: os.NewFile(logDescriptor, "log"),
		Socket: socketOf(getenv), Dir: dir,
		ACL:           filepath.Join(orElse(getenv("GUIX_CONFIGURATION_DIRECTORY"), "/etc/guix"), "acl"),
		MaxSilentTime: silent, Timeout: timeout,
	}, nil
}

// logDescriptor is where guix-daemon wants the builder's log.
const logDescriptor = 4

// socketOf returns the name of the coordinator's socket for a process of guix-daemon:
// $LIGHTER_SOCKET, else that of a coordinator for the whole computer.
func socketOf(getenv func(string) string) string {
	return orElse(getenv("LIGHTER_SOCKET"), orElse(getenv("LIGHTER_STATE"), "/var/lib/lighter")+"/coordinator.sock")
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func seconds(name, text string) (time.Duration, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("offload: %s %q: want seconds, 0 for no limit", name, text)
	}
	return time.Duration(n) * time.Second, nil
}
