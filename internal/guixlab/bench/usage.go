package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The environment of this program when guix-daemon runs it in the place of a hook.
const (
	measureVariable  = "LIGHTER_BENCH_MEASURE" // file to which lines are added
	measuredVariable = "LIGHTER_BENCH_GUIX"    // the program to be measured
)

// measure runs the real hook and writes down what it used: CPU seconds, and its greatest
// resident set in KiB. Everything else than a hook is not measured.
func measure() int {
	program := os.Getenv(measuredVariable)
	if len(os.Args) < 2 || os.Args[1] != "offload" {
		fmt.Fprintln(os.Stderr, syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ()))
		return 127
	}
	cmd := exec.Command(program, os.Args[1:]...) //nolint:noctx // guix-daemon ends it
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{nil, os.NewFile(4, "log")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return 127
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	f, err := os.OpenFile(os.Getenv(measureVariable), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err == nil {
		cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		_, err = fmt.Fprintf(f, "%f %d\n", cpu.Seconds(), usage.Maxrss)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return cmd.ProcessState.ExitCode()
}

// usage is what a piece of work took besides time.
type usage struct{ hooks, coordinator string }

// usage has the work done once more, and measured.
func (b *bench) usage(ctx context.Context, w *work, c *contender) (*usage, error) {
	file := filepath.Join(c.dir, "usage")
	if err := c.startDaemon(ctx, file); err != nil {
		return nil, err
	}
	var before time.Duration
	pid := 0
	if c.coordinator != nil {
		pid = c.coordinator.Process.Pid // setpriv and env become lighter
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return nil, err
		}
		before = cpuTime(pid)
	}
	if _, err := b.once(ctx, w, c); err != nil {
		return nil, err
	}
	u := &usage{}
	if pid != 0 {
		u.coordinator = fmt.Sprintf("%.2f s, %d MiB", (cpuTime(pid) - before).Seconds(), peakMemory(pid)>>20)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var cpu float64
	var most int64
	for line := range strings.Lines(string(text)) {
		var seconds float64
		var kib int64
		if _, err := fmt.Sscanf(line, "%f %d", &seconds, &kib); err != nil {
			return nil, err
		}
		cpu += seconds
		most = max(most, kib)
	}
	u.hooks = fmt.Sprintf("%.2f s, %d MiB", cpu, most>>10)
	return u, nil
}

// cpuTime returns the CPU time of a process, from /proc/PID/stat in ticks of 1/100 s.
func cpuTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peakMemory returns the greatest resident set of a process since it was reset, in bytes.
func peakMemory(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
