package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// processes are the programs that the demo has running, each in a process group
// of its own, so that an interrupt on the terminal reaches the demo alone.
type processes struct {
	executable string
	env        []string
	folder     string // for their logs

	mu  sync.Mutex
	all []*process
}

// process is a running program whose output goes to a log.
type process struct {
	name string
	cmd  *exec.Cmd
	out  *firstLines
	done chan struct{} // closed when it has ended
	err  error         // how; valid then
}

// start starts lighter with the arguments. Standard error goes to NAME.log.
func (p *processes) start(ctx context.Context, name string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(p.folder, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The context does not kill: stop asks first.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.executable, args...)
	cmd.Env = p.env
	cmd.Stderr = log
	// If this process is killed, so are those.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = 5 * time.Second
	started := &process{name: name, cmd: cmd, out: newFirstLines(), done: make(chan struct{})}
	cmd.Stdout = started.out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.mu.Lock()
	p.all = append(p.all, started)
	p.mu.Unlock()
	go func() {
		started.err = cmd.Wait()
		started.out.end()
		close(started.done)
	}()
	return started, nil
}

// stopAfter is how long a program may take to end by itself.
const stopAfter = 10 * time.Second

// stop ends all programs, the last one first, and what they started.
func (p *processes) stop() {
	p.mu.Lock()
	all := p.all
	p.all = nil
	p.mu.Unlock()
	for i := len(all) - 1; i >= 0; i-- {
		all[i].signal(syscall.SIGTERM)
	}
	patience := time.NewTimer(stopAfter)
	defer patience.Stop()
	for _, one := range all {
		select {
		case <-one.done:
		case <-patience.C:
			patience.Reset(0)
		}
		one.signal(syscall.SIGKILL)
		<-one.done
	}
}

// signal signals the whole group; that nobody is left in it is not an error.
func (p *process) signal(sig syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, sig) }

// logTail returns the end of what the program wrote to its log.
func (p *processes) logTail(name string) string {
	text, err := os.ReadFile(filepath.Join(p.folder, name+".log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// output runs lighter with the arguments and returns what it prints.
func (p *processes) output(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := p.run(ctx, &out, nil, args...)
	return strings.TrimSpace(out.String()), err
}

// run runs lighter with the arguments. With errors nil, what it prints there
// becomes part of the error. When ctx ends the program is interrupted, and killed
// only if that does not help.
func (p *processes) run(ctx context.Context, out, errs io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, p.executable, args...)
	cmd.Env = p.env
	cmd.Stdout, cmd.Stderr = out, errs
	var kept bytes.Buffer
	if errs == nil {
		cmd.Stderr = &kept
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopAfter
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && kept.Len() > 0 {
		return errors.New(strings.TrimSpace(strings.TrimPrefix(kept.String(), "lighter: ")))
	}
	if err != nil {
		return fmt.Errorf("lighter %s: %w", strings.Join(args[:min(2, len(args))], " "), err)
	}
	return nil
}

// firstLines keeps what a program prints first, up to an empty line.
type firstLines struct {
	mu       sync.Mutex
	text     bytes.Buffer
	complete chan struct{} // closed at the empty line, or at the end
	closed   bool
}

func newFirstLines() *firstLines { return &firstLines{complete: make(chan struct{})} }

// maxFirstLines bounds what is kept, in bytes.
const maxFirstLines = 1 << 16

func (f *firstLines) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.text.Write(p[:min(len(p), maxFirstLines-f.text.Len())])
		if bytes.Contains(f.text.Bytes(), []byte("\n\n")) || f.text.Len() == maxFirstLines {
			f.closeLocked()
		}
	}
	return len(p), nil
}

func (f *firstLines) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closeLocked()
}

func (f *firstLines) closeLocked() {
	if !f.closed {
		f.closed = true
		close(f.complete)
	}
}

// wait returns what was printed up to the first empty line.
func (f *firstLines) wait(ctx context.Context) (string, error) {
	select {
	case <-f.complete:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String(), nil
}
