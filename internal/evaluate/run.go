package evaluate

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lighter/internal/human"
	"lighter/internal/jsonerror"
	"lighter/internal/stream"
)

//go:embed evaluate.scm
var script []byte

// Request is what to evaluate, and how. Exactly one of All, Folders, Modules, Manifest and Command is wanted,
// but that All may stand beside Folders.
type Request struct {
	Guix     string   // the program; "guix" if empty
	Channels string   // a file as "guix describe -f channels" prints it: its Guix evaluates, not the one at hand
	All      bool     // all packages of the channels, and of Folders
	Folders  []string // collections of packages, as in GUIX_PACKAGE_PATH; alone, only their packages
	Modules  []string // only packages of these, "(gnu packages base)"
	Manifest string   // only what is in this file
	Package  string   // a regular expression for NAME@VERSION, as Guile has them; not for a manifest
	Grafts   bool     // of derivations with grafts; may have things built or substituted

	// Command is a program that prints lines in place of Guix, with its arguments.
	Command []string

	Root   string        // a folder for a link for each system and target, SYSTEM or SYSTEM-to-TARGET, which keeps the derivations; none if empty
	User   string        // whose account it runs in; the caller's if empty
	Memory uint64        // bytes of address space of each process; no limit if 0
	Time   time.Duration // of each process; no limit if 0
	Log    io.Writer     // what Guix and the packages print besides; discarded if nil
}

// Platform is what one process evaluates for. An empty System is this computer's.
type Platform struct{ System, Target string }

func (p Platform) String() string {
	switch system := cmp.Or(p.System, "this computer's system"); {
	case p.Target != "":
		return p.Target + ", cross-built on " + system
	default:
		return system
	}
}

// Progress is told of an evaluation while it runs. An error of Package ends it.
type Progress struct {
	Total   func(n int)                // about how many packages there are
	Module  func(module, error string) // a file could not be loaded: its packages are missing
	Package func(*Package) error
}

// message is what a line is that is no package.
type message struct {
	Total  *int   `json:"total"`
	Module string `json:"module"`
	Error  string `json:"error"`
	Done   bool   `json:"done"`
}

const (
	maxWords  = 4 << 10         // bytes of Guix's last words in an error
	killDelay = 5 * time.Second // for the pipes of a killed process
)

var platformForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

// Check says what is wrong with a request, in words of the command line.
func (r *Request) Check() error {
	kinds := 0
	for _, given := range []bool{r.All || len(r.Folders) > 0, len(r.Modules) > 0, r.Manifest != "", len(r.Command) > 0} {
		if given {
			kinds++
		}
	}
	if len(r.Folders) > 0 && len(r.Modules)+len(r.Manifest) > 0 {
		kinds-- // the modules, or the manifest, may need the folder
	}
	switch {
	case kinds == 0 && r.Package == "":
		return errors.New("which packages? --all, --package, --module, --manifest, --load-path or --command says it")
	case kinds > 1:
		return errors.New("only one of --all, --module, --manifest and --command can say which packages")
	case len(r.Command) > 0 && (r.Channels != "" || r.Package != "" || len(r.Folders) > 0 || r.Root != ""):
		return errors.New("--command prints what it prints: --channels, --package, --load-path and --root are for Guix")
	case r.Manifest != "" && r.Package != "":
		return errors.New("--package chooses among packages of Guix, and a manifest says itself what is in it")
	}
	for _, folder := range r.Folders {
		if strings.Contains(folder, ":") {
			return fmt.Errorf("--load-path %s: a folder with a colon in its name can't be given to Guix", folder)
		}
	}
	for _, module := range r.Modules {
		if strings.ContainsAny(module, "\n\x00") || strings.TrimSpace(strings.Trim(strings.TrimSpace(module), "()")) == "" {
			return fmt.Errorf("--module %q: want a name such as \"(gnu packages base)\"", module)
		}
	}
	return nil
}

// Run evaluates for one system or target, and returns when all of the process group has ended. An error that
// has Guix's own words is an *EvaluationError.
func (r *Request) Run(ctx context.Context, p Platform, progress Progress) error {
	for _, name := range []string{p.System, p.Target} {
		if name != "" && !platformForm.MatchString(name) {
			return fmt.Errorf("%q is no name of a system or target: want one such as x86_64-linux or aarch64-linux-gnu", name)
		}
	}
	folder, err := os.MkdirTemp("", "lighter-evaluate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "evaluate.scm")
	if err := os.WriteFile(file, script, 0o644); err != nil { // #nosec G306 -- the same in every copy of this program
		return err
	}
	if err := os.Chmod(folder, 0o755); err != nil { // #nosec G302 -- another user may have to read it
		return err
	}
	if r.Time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.Time, fmt.Errorf("it took longer than %s (--timeout)", r.Time))
		defer cancel()
	}
	cmd, err := r.command(ctx, file, p)
	if err != nil {
		return err
	}
	return r.run(ctx, cmd, progress)
}

// command makes the process of one platform. All that is wanted is in its environment: nothing that somebody
// gave is an option of guix, or code, but the file of channels, which is an absolute name.
func (r *Request) command(ctx context.Context, file string, p Platform) (*exec.Cmd, error) {
	words := r.Command
	if len(words) == 0 {
		guix := r.Guix
		if guix == "" {
			guix = "guix"
		}
		words = []string{guix}
		if r.Channels != "" {
			channels, err := filepath.Abs(r.Channels)
			if err != nil {
				return nil, err
			}
			words = append(words, "time-machine", "--channels="+channels, "--")
		}
		words = append(words, "repl", "--", file)
	}
	if r.Memory > 0 { // prlimit may not limit another account's processes
		words = append([]string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -v %d && exec "$0" "$@"`, r.Memory>>10)}, words...)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay
	env, err := r.environment(p)
	if err != nil {
		return nil, err
	}
	cmd.Env = env
	return cmd, r.become(cmd)
}

// environment is what the script reads.
func (r *Request) environment(p Platform) ([]string, error) {
	what, modules := "all", make([]string, len(r.Modules))
	switch {
	case r.Manifest != "":
		what = "manifest"
	case len(r.Modules) > 0:
		what = "modules"
	case len(r.Folders) > 0 && !r.All:
		what = "folders"
	}
	for i, module := range r.Modules {
		modules[i] = strings.Trim(strings.TrimSpace(module), "()")
	}
	manifest, root := r.Manifest, r.Root
	folders := slices.Clone(r.Folders)
	for _, name := range append([]*string{&manifest, &root}, pointers(folders)...) {
		if *name == "" {
			continue
		}
		absolute, err := filepath.Abs(*name)
		if err != nil {
			return nil, err
		}
		*name = absolute
	}
	grafts := "no"
	if r.Grafts {
		grafts = "yes"
	}
	env := append(os.Environ(), "LIGHTER_SYSTEM="+p.System, "LIGHTER_TARGET="+p.Target)
	if len(r.Command) > 0 {
		return env, nil
	}
	if path := append(slices.Clone(folders), os.Getenv("GUIX_PACKAGE_PATH")); len(folders) > 0 {
		env = append(env, "GUIX_PACKAGE_PATH="+strings.TrimSuffix(strings.Join(path, ":"), ":"))
	}
	return append(env, "LIGHTER_WHAT="+what, "LIGHTER_MODULES="+strings.Join(modules, "\n"), "LIGHTER_MANIFEST="+manifest,
		"LIGHTER_FOLDERS="+strings.Join(folders, ":"), "LIGHTER_PACKAGE="+r.Package, "LIGHTER_GRAFTS="+grafts, "LIGHTER_ROOT="+root,
		"GUILE_AUTO_COMPILE=0"), nil // which would write into the home of whoever this is
}

func pointers(texts []string) (all []*string) {
	for i := range texts {
		all = append(all, &texts[i])
	}
	return all
}

// become has the process run in another account, with nothing of this one's rights.
func (r *Request) become(cmd *exec.Cmd) error {
	if r.User == "" {
		return nil
	}
	account, err := user.Lookup(r.User)
	if err != nil {
		return err
	}
	groups, err := account.GroupIds()
	if err != nil {
		return err
	}
	ids := make([]uint32, 0, len(groups)+2)
	for _, text := range append([]string{account.Uid, account.Gid}, groups...) {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fmt.Errorf("user %s: %w", r.User, err)
		}
		ids = append(ids, uint32(id))
	}
	if int(ids[0]) == os.Geteuid() {
		return nil
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}
	cmd.Dir = "/"
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool {
		return strings.HasPrefix(s, "XDG_") || strings.HasPrefix(s, "SSH_") || strings.HasPrefix(s, "SUDO_")
	})
	cmd.Env = append(cmd.Env, "HOME="+account.HomeDir, "USER="+account.Username, "LOGNAME="+account.Username)
	return nil
}

// EvaluationError is that Guix, or the command in its place, ended before all was said.
type EvaluationError struct {
	Err   error  // how it ended
	Words string // its last ones, as it wrote them
}

func (e *EvaluationError) Error() string {
	if e.Words == "" {
		return "the evaluation ended: " + e.Err.Error()
	}
	return fmt.Sprintf("the evaluation ended: %v; its last words:\n%s", e.Err, e.Words)
}

func (e *EvaluationError) Unwrap() error { return e.Err }

func (r *Request) run(ctx context.Context, cmd *exec.Cmd, progress Progress) error {
	words := &stream.Tail{Max: maxWords}
	cmd.Stderr = words
	if r.Log != nil {
		cmd.Stderr = io.MultiWriter(words, r.Log)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	// A process that left the group may hold the other end.
	stop := context.AfterFunc(ctx, func() { out.Close() })
	defer stop()
	done, err := read(out, progress)
	if done || err != nil {
		_ = cmd.Cancel() // with all that it has started; it may have ended
	}
	ended := cmd.Wait()
	switch {
	case done:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case ended != nil:
		return &EvaluationError{ended, words.String()}
	case len(r.Command) == 0:
		return &EvaluationError{errors.New("it did not come to its end"), words.String()}
	}
	return nil
}

// read reads lines until the one that says that all was said, or the end.
func read(r io.Reader, progress Progress) (done bool, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), MaxLine)
	for number := 1; lines.Scan(); number++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		if number > maxPackages {
			return false, &human.InputError{Err: fmt.Errorf("the evaluation prints more than %d lines", maxPackages)}
		}
		if done, err := take(text, progress); done || err != nil {
			if errors.As(err, new(*lineError)) {
				err = &human.InputError{Err: fmt.Errorf("line %d of what the evaluation prints: %w", number, err)}
			}
			return done, err
		}
	}
	if err = lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		err = &human.InputError{Err: fmt.Errorf("the evaluation prints a line of more than %d bytes", MaxLine)}
	}
	return false, err
}

// lineError is that a line is wrong, rather than that its receiver failed.
type lineError struct{ error }

func take(text []byte, progress Progress) (done bool, err error) {
	var m message
	if err := json.Unmarshal(text, &m); err != nil {
		return false, &lineError{jsonerror.Explain(err)}
	}
	switch {
	case m.Done:
		return true, nil
	case m.Total != nil:
		progress.Total(*m.Total)
		return false, nil
	case m.Module != "":
		progress.Module(m.Module, m.Error)
		return false, nil
	}
	p, err := ParsePackage(text)
	if err != nil {
		return false, &lineError{err}
	}
	return false, progress.Package(p)
}
