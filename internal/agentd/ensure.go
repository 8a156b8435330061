package agentd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"lighter/internal/backoff"
	"lighter/internal/disk"
	"lighter/sshtransport"
)

const (
	pollInterval = 20 * time.Millisecond
	// maxLog is the size, in bytes, from which on the agent's log is put aside when
	// an agent starts.
	maxLog = 16 << 20
	// maxLogTail is how much of the log is shown of an agent that does not start.
	maxLogTail = 2 << 10
)

// Ensure makes sure that an agent serves, and says which. Of several calls at a time one
// starts it. An agent of another version is replaced unless it builds: its protocol is
// the same, since the socket's name depends on that.
func (o *Options) Ensure(ctx context.Context) (*sshtransport.StartAnswer, error) {
	p, err := o.place()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("not done after %s", o.Timeout))
	defer cancel()
	version, err := ProgramVersion()
	if err != nil {
		return nil, err
	}
	there, err := probe(ctx, p.socket)
	if err == nil && there.Version == version {
		return &there.StartAnswer, nil
	}
	unlock, err := lock(ctx, p.startLock())
	if err != nil {
		return nil, err
	}
	defer unlock()
	switch there, err = probe(ctx, p.socket); {
	case err == nil && (there.Version == version || there.running > 0):
		return &there.StartAnswer, nil
	case err == nil:
		if err := end(ctx, p, there.PID); err != nil {
			return nil, fmt.Errorf("agent of version %s: %w", there.Version, err)
		}
	case !errors.Is(err, ErrNoAgent):
		return nil, err
	}
	return o.spawn(ctx, p)
}

// spawn starts an agent that outlives this process, and waits until it answers.
func (o *Options) spawn(ctx context.Context, p place) (*sshtransport.StartAnswer, error) {
	if err := p.makeState(); err != nil {
		return nil, err
	}
	log, err := openLog(p.log())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	//nolint:noctx // the agent outlives the context
	cmd := exec.Command("/proc/self/exe", o.serveArgs(p)...) // whatever is in its place by now
	cmd.Args[0] = "lighter-agent"
	cmd.Dir = "/"
	cmd.Env = slices.DeleteFunc(os.Environ(), ofLogin)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	answer, err := awaitAgent(ctx, p.socket, cmd)
	if err != nil {
		return nil, fmt.Errorf("the agent does not start: %w%s", err, logTail(p.log(), before))
	}
	return answer, nil
}

// serveArgs are the arguments with which an agent has these settings.
func (o *Options) serveArgs(p place) []string {
	args := append([]string{"serve", "--settings="}, o.Args()...)
	return append(args, "--state="+string(p.Folders), "--socket="+o.Socket, "--store-directory="+string(o.StoreDir), "--linger="+o.Linger.String(), "--log-level="+o.LogLevel)
}

// awaitAgent waits until an agent answers. The process that was started to be it ends if
// it is another one: one whose socket was deleted, and which has made itself a new one.
func awaitAgent(ctx context.Context, socket string, cmd *exec.Cmd) (*sshtransport.StartAnswer, error) {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // until this process ends
	for {
		there, err := probe(ctx, socket)
		if err == nil && there.PID == cmd.Process.Pid {
			return &there.StartAnswer, nil
		}
		if err == nil {
			return &there.StartAnswer, kill(cmd, ended)
		}
		select {
		case status := <-ended:
			if status == nil {
				status = errors.New("it ended at once")
			}
			return nil, status
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), kill(cmd, ended))
		case <-time.After(pollInterval):
		}
	}
}

// kill ends a process that has nothing to tidy up yet.
func kill(cmd *exec.Cmd, ended <-chan error) error {
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	var status *exec.ExitError
	if err := <-ended; err != nil && !errors.As(err, &status) {
		return err
	}
	return nil
}

// ofLogin reports whether an environment variable is about the login that happens to
// start the agent.
func ofLogin(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return strings.HasPrefix(name, "SSH_") || strings.HasPrefix(name, "XDG_SESSION_") || name == "XDG_RUNTIME_DIR" || name == "DISPLAY"
}

func openLog(name string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	if info, err := os.Stat(name); err == nil && info.Size() > maxLog {
		if err := os.Rename(name, name+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// logTail returns the end of what was logged since the offset, as the end of a sentence.
func logTail(name string, offset int64) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(offset, info.Size()-maxLogTail), maxLogTail))
	if text = bytes.TrimSpace(text); err != nil || len(text) == 0 {
		return ""
	}
	return ": " + string(text)
}

// lock waits for a lock on a file, which goes with the process, however that ends.
// unlock removes the file, so that nothing is left.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		f, err := disk.Lock(name)
		if err == nil {
			return func() {
				os.Remove(name)
				f.Close()
			}, nil
		}
		if !errors.Is(err, disk.ErrLocked) {
			return nil, err
		}
		if err := backoff.Wait(ctx, pollInterval); err != nil {
			return nil, fmt.Errorf("lock %s, which another start holds: %w", name, err)
		}
	}
}
