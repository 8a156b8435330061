package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lighter/internal/api"
	"lighter/internal/stream"
)

// Programs says how the programs of hooks are run. The zero value is good.
type Programs struct {
	// Socket is the coordinator's, so that a hook can run lighter.
	Socket string
	// Dir is the working directory; empty is the coordinator's own.
	Dir string
	// Env is the environment, to which the event's facts are added; nil is the
	// coordinator's own.
	Env []string

	grace time.Duration // 0 is killGrace; for tests
}

// killGrace is the time between SIGTERM and SIGKILL.
const killGrace = 3 * time.Second

// program is the built-in that runs a program.
type program struct {
	Programs
	command []string
}

// Run starts the program in a process group of its own and waits for it. What is left
// of the group when the program is over is killed.
func (p *program) Run(ctx context.Context, e *Event) (string, error) {
	input, err := json.Marshal(e)
	if err != nil {
		return "", Permanent(err)
	}
	output := &stream.Tail{Max: maxOutput}
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...)
	cmd.Dir = p.Dir
	cmd.Env = p.environment(e)
	// A program that does not read, or not all, is not an error: os/exec knows EPIPE.
	cmd.Stdin = bytes.NewReader(append(input, '\n'))
	cmd.Stdout, cmd.Stderr = output, output
	// A coordinator that is killed takes the program with it: the next one carries the
	// run out again, and both at the same time would be out of order. The signal comes
	// when the thread ends that started the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	// It also bounds the wait for pipes that a grandchild of a program that has ended
	// keeps open.
	if cmd.WaitDelay = p.grace; cmd.WaitDelay == 0 {
		cmd.WaitDelay = killGrace
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() && ctx.Err() == nil {
		err = nil // the program ended well, and left a process behind
	}
	if err != nil {
		err = fmt.Errorf("%s: %w%s", p.command[0], err, lastLine(output.String()))
	}
	return output.String(), err
}

// lastLine is the last line that a program wrote, after a colon: mostly that is why it failed.
func lastLine(output string) string {
	const most = 200
	output = strings.TrimSpace(output)
	line := strings.TrimSpace(output[strings.LastIndexByte(output, '\n')+1:])
	if line == "" {
		return ""
	}
	return ": " + api.Cut(strings.ToValidUTF8(line, "\uFFFD"), most)
}

// environment has the main facts of an event.
func (p *program) environment(e *Event) []string {
	env := p.Env
	if env == nil {
		env = os.Environ()
	}
	env = slices.Clone(env)
	room := maxEnvironment
	set := func(name, value string) {
		// What the kernel would refuse is in the JSON alone.
		size := len(name) + len(value) + 2 // with = and NUL
		if !strings.Contains(value, "\x00") && size <= min(maxVariable, room) {
			env = append(env, name+"="+value)
			room -= size
		}
	}
	set("LIGHTER_EVENT", e.Name)
	set("LIGHTER_EVENT_SEQ", strconv.FormatUint(e.Seq, 10))
	set("LIGHTER_BUILD_ID", e.Event.Build)
	set("LIGHTER_BUILD_STATE", string(e.Event.State)) // LIGHTER_STATE is lighter's state folder
	set("LIGHTER_MACHINE", e.Machine)
	if p.Socket != "" {
		set("LIGHTER_SOCKET", p.Socket)
	}
	b := e.Build
	if b == nil {
		b = &api.Build{}
	}
	var outputs []string
	for _, name := range slices.Sorted(maps.Keys(b.OutputPaths)) {
		outputs = append(outputs, string(b.OutputPaths[name]))
	}
	set("LIGHTER_DERIVATION", string(b.Derivation))
	set("LIGHTER_SYSTEM", b.System)
	set("LIGHTER_OUTPUTS", strings.Join(outputs, " "))
	for _, name := range slices.Sorted(maps.Keys(b.Tags)) {
		set("LIGHTER_TAG_"+variableName(name), b.Tags[name])
	}
	return env
}

// Limits on the environment, in bytes. Linux takes at most 128 KiB for one variable, and for
// all of them, with the arguments, a quarter of what the stack may have: mostly 2 MiB.
const (
	maxVariable    = 100 << 10
	maxEnvironment = 512 << 10 // of what an event adds
)

// variableName makes a name that shells can use of a tag's.
func variableName(tag string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, tag)
}

// maxOutput is how much of a run's output is kept, in bytes.
const maxOutput = 16 << 10

// clip bounds the output of a built-in as that of a program.
func clip(output string) string {
	t := &stream.Tail{Max: maxOutput}
	_, _ = t.Write([]byte(output))
	return t.String()
}
