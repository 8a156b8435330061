package agent

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/binfmt"
	"lighter/internal/disk"
	"lighter/nar/signature"
)

// machine finds out what the computer is.
type machine struct {
	diskDir  string
	buildDir string
	procDir  string
	started  time.Time
	secret   []byte // of which ids are made
	kernel   string
	name     string
	systems  []string
	hardware api.Hardware

	problems interface{ BuildProblem() error } // nil if the store has none

	mu      sync.Mutex // owns all below
	problem string
	checked time.Time
}

func newMachine(opts *Options) *machine {
	m := &machine{diskDir: opts.DiskDir, buildDir: opts.BuildDir, procDir: opts.procDir, started: time.Now(), secret: []byte(rand.Text())}
	m.problems, _ = opts.Store.(interface{ BuildProblem() error })
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.kernel = cString(uts.Sysname[:]) + " " + cString(uts.Release[:])
		m.name = cString(uts.Nodename[:])
		m.systems = systems(cString(uts.Machine[:]), runs32Bit)
	}
	if s, ok := opts.Store.(interface{ Systems() []string }); ok {
		m.systems = s.Systems()
	}
	// The kernel asks each processor for what is in cpuinfo, so this is not for
	// every question.
	m.hardware = api.Hardware{
		CPU: cpuModel(m.proc("cpuinfo")), Cores: runtime.NumCPU(), Memory: memory(m.proc("meminfo"), "MemTotal:"), Kernel: m.kernel,
	}
	return m
}

// cString returns what is before the first NUL.
func cString(field []byte) string {
	field, _, _ = bytes.Cut(field, []byte{0})
	return string(field)
}

// systems returns Guix's names of what a kernel of an architecture, as uname(2) calls
// it, can run, the native one first. It asks runs32Bit where that varies.
func systems(arch string, runs32Bit func() bool) []string {
	switch arch {
	case "x86_64":
		return []string{"x86_64-linux", "i686-linux"}
	case "i386", "i486", "i586", "i686":
		return []string{"i686-linux"}
	case "aarch64":
		if runs32Bit() {
			return []string{"aarch64-linux", "armhf-linux"}
		}
		return []string{"aarch64-linux"}
	case "armv7l", "armv8l":
		return []string{"armhf-linux"}
	case "ppc64le":
		return []string{"powerpc64le-linux"}
	case "ppc":
		return []string{"powerpc-linux"}
	}
	return []string{arch + "-linux"}
}

// perLinux32 is PER_LINUX32 of personality(2).
const perLinux32 = 8

// runs32Bit reports whether an arm64 kernel runs 32-bit programs: it refuses the
// personality where the processor cannot.
func runs32Bit() bool {
	ok := make(chan bool)
	go func() {
		// The personality is the thread's. It is not unlocked, so that it ends with
		// the goroutine.
		runtime.LockOSThread()
		_, _, errno := unix.Syscall(unix.SYS_PERSONALITY, perLinux32, 0, 0)
		ok <- errno == 0
	}()
	return <-ok
}

// How long an answer to why nothing can be built is believed: finding out takes a process.
// Who mends a problem looks at once whether it is gone.
const (
	problemInterval   = time.Second
	noProblemInterval = 30 * time.Second
)

func (m *machine) buildProblem() string {
	if m.problems == nil {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	interval := noProblemInterval
	if m.problem != "" {
		interval = problemInterval
	}
	if m.checked.IsZero() || time.Since(m.checked) > interval {
		m.problem, m.checked = "", time.Now()
		if err := m.problems.BuildProblem(); err != nil {
			m.problem = err.Error()
		}
	}
	return m.problem
}

// idFor returns the agent's id for a head. Each head has its own, as it sees no builds but its own.
func (m *machine) idFor(h *Head) string {
	mac := hmac.New(sha256.New, m.secret)
	mac.Write([]byte(h.prefix()))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// describe answers GET /v1/machine. What cannot be found out is left out.
func (a *Agent) describe() *agentapi.Machine {
	m := a.machine
	free, err := disk.Free(m.diskDir)
	if err != nil {
		a.log.Warn("the free disk is not known", "err", err)
	}
	build, err := disk.Free(m.buildDir)
	if err != nil {
		a.log.Warn("the free disk for builds is not known", "err", err)
	}
	return &agentapi.Machine{
		Protocol: agentapi.Protocol, Version: a.opts.Version, PID: os.Getpid(), Started: m.started,
		Kernel: m.kernel, Hostname: m.name, Systems: m.systems, Emulated: binfmt.Systems(), Cores: runtime.NumCPU(),
		Load: load(m.proc("loadavg")), OwnLoad: a.ownLoad(), FreeMemory: memory(m.proc("meminfo"), "MemAvailable:"), Now: time.Now(),
		FreeDisk: max(0, free.Free), FreeInodes: free.Inodes, BuildFreeDisk: build.Free, BuildFreeInodes: build.Inodes,
		CPUPressure: pressure(m.proc("pressure/cpu")), MemoryPressure: pressure(m.proc("pressure/memory")),
		Hardware:  m.hardware,
		StoreKind: a.opts.StoreKind, StoreDir: a.opts.Store.Dir(), PublicKey: a.publicKey(),
		AcceptsKeys:      a.acceptsKeys(),
		Uptime:           uptime(m.proc("uptime")),
		NeedsDerivations: a.opts.NeedsDerivations, BuildProblem: m.buildProblem(), BuildWarning: a.buildWarning(), Running: a.countRunning(),
	}
}

// ownLoad returns which part of the load the builds make, if the store knows.
func (a *Agent) ownLoad() float64 {
	if s, ok := a.opts.Store.(interface{ OwnLoad() float64 }); ok {
		return s.OwnLoad()
	}
	return 0
}

// buildWarning returns what builds lack here, if the store says so.
func (a *Agent) buildWarning() string {
	if s, ok := a.opts.Store.(interface{ NetworkProblem() error }); ok {
		if err := s.NetworkProblem(); err != nil {
			return err.Error()
		}
	}
	return ""
}

// publicKey returns the key with which the store signs, or nothing if it does not say.
func (a *Agent) publicKey() string {
	s, ok := a.opts.Store.(interface {
		PublicKey() (*signature.PublicKey, error)
	})
	if a.opts.PublicKey != "" || !ok {
		return a.opts.PublicKey
	}
	key, err := s.PublicKey()
	if err != nil {
		return "" // BuildProblem says what to do
	}
	return key.String()
}

// acceptsKeys returns the fingerprints of the keys whose archives the store takes, or
// nil if it does not say.
func (a *Agent) acceptsKeys() []string {
	s, ok := a.opts.Store.(interface {
		ACL() (*signature.ACL, error)
	})
	if !ok {
		return nil
	}
	acl, err := s.ACL()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil // it is not for this user to know
	}
	if err != nil {
		a.log.Warn("the list of authorized keys cannot be read", "err", err)
		return nil
	}
	prints := []string{} // null would say that it is not known
	for _, key := range acl.Keys() {
		prints = append(prints, key.Fingerprint())
	}
	return prints
}

// maxProcFile bounds what is read of a file in /proc: cpuinfo has a kilobyte for each
// processor, and its first one is enough.
const maxProcFile = 64 << 10

// proc returns what a file in /proc holds, or nothing if it is not there: /proc may not
// be mounted, and the kernel may not know of pressure.
func (m *machine) proc(name string) string {
	f, err := os.Open(filepath.Join(m.procDir, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxProcFile))
	if err != nil {
		return ""
	}
	return string(content)
}

// load returns the 1-minute average of /proc/loadavg, proc(5).
func load(loadavg string) float64 {
	first, _, _ := strings.Cut(loadavg, " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return v
}

// uptime returns the first field of /proc/uptime, proc(5).
func uptime(text string) api.Seconds {
	first, _, _ := strings.Cut(text, " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return api.Seconds(v)
}

// pressure returns the percentage of the last 10 seconds in which some task waited, of
// a file in /proc/pressure (the kernel's Documentation/accounting/psi.rst); negative if
// it does not say.
func pressure(text string) float64 {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "some avg10=")
		if !ok {
			continue
		}
		percent, _, _ := strings.Cut(rest, " ")
		if v, err := strconv.ParseFloat(percent, 64); err == nil && v >= 0 && v <= 100 {
			return v
		}
	}
	return -1
}

// oomKills returns how many processes the kernel has killed since it started because memory was
// short, on the machine or in a control group; negative if it does not say.
func (m *machine) oomKills() int64 {
	for line := range strings.Lines(m.proc("vmstat")) {
		if rest, ok := strings.CutPrefix(line, "oom_kill "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64); err == nil {
				return n
			}
		}
	}
	return -1
}

// cpuModel returns what /proc/cpuinfo calls the first processor, or nothing. The keys are
// those of x86, MIPS, RISC-V, POWER and, for a board, ARM.
func cpuModel(cpuinfo string) string {
	found := make(map[string]string)
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if _, ok := found[key]; !ok && value != "" {
			found[key] = value
		}
	}
	for _, key := range []string{"model name", "Model Name", "cpu model", "uarch", "cpu", "Model", "Hardware"} {
		if model := found[key]; model != "" {
			return model
		}
	}
	return ""
}

// memory returns a line of /proc/meminfo, such as that of "MemAvailable:", in bytes, or 0.
func memory(meminfo, key string) int64 {
	for line := range strings.Lines(meminfo) {
		if kib, ok := strings.CutPrefix(line, key); ok {
			v, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
			if err == nil && v >= 0 && v < math.MaxInt64>>10 {
				return v << 10
			}
		}
	}
	return 0
}
