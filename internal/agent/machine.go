package agent

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/agentapi"
)

// machine tells what this machine is, and how busy.
func (a *Agent) machine() *agentapi.Machine {
	m := &agentapi.Machine{
		Protocol: agentapi.Protocol, Version: a.opts.Version, PID: os.Getpid(), Started: a.started,
		Kernel: kernel(), Systems: a.opts.Systems, Cores: runtime.NumCPU(), Load: load(), FreeMemory: freeMemory(),
		Now: time.Now(), StoreKind: a.opts.StoreKind, StoreDir: a.opts.Store.Dir(), PublicKey: a.opts.PublicKey,
		NeedsDerivations: a.opts.NeedsDerivations, Running: a.Running(),
	}
	m.Hostname, _ = os.Hostname() // for people alone
	if free, err := freeDisk(a.opts.DiskDir); err == nil {
		m.FreeDisk = free
	}
	if p, ok := a.opts.Store.(interface{ BuildProblem() error }); ok {
		if err := p.BuildProblem(); err != nil {
			m.BuildProblem = err.Error()
		}
	}
	return m
}

// nativeSystems returns the systems, in Guix's words, that this program's platform
// runs, its own first.
func nativeSystems() []string {
	switch runtime.GOARCH {
	case "amd64":
		return []string{"x86_64-linux", "i686-linux"}
	case "386":
		return []string{"i686-linux"}
	case "arm64":
		return []string{"aarch64-linux", "armhf-linux"}
	case "arm":
		return []string{"armhf-linux"}
	case "ppc64le":
		return []string{"powerpc64le-linux"}
	}
	return []string{runtime.GOARCH + "-linux"}
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// load returns the 1-minute load average (proc_loadavg(5)), 0 if it is not known.
func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	average, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return average
}

// freeMemory returns MemAvailable (proc_meminfo(5)) in bytes, 0 if it is not known.
func freeMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		rest, ok := strings.CutPrefix(s.Text(), "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return 0
		}
		return kib << 10
	}
	return 0
}

// freeDisk returns how many bytes an ordinary user may still write to a folder's disk.
func freeDisk(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:gosec,unconvert // far below 2^63; the types differ between platforms
}
