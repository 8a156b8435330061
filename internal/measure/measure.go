// Package measure finds out what builds use of their machine: processor time, memory, and which part of
// the load average is theirs.
//
// A [Meter] measures all builds of one store. Where this process may make control groups (cgroup v2), each
// build whose processes it starts gets one, and the kernel counts exactly. Elsewhere, and for builds
// whose processes another program starts, it looks at the tree of processes in /proc now and then. It
// never fails: what it can't measure it gives the reason for.
package measure

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"lighter/store"
)

// interval is how often running builds are looked at. Looking takes at most a fiftieth of the time of a
// processor, on machines with very many processes too.
const (
	interval = 250 * time.Millisecond
	share    = 50
	// minAge is how old a build without a control group must be for that: one that is over sooner
	// must not get slower.
	minAge = interval / 2
)

// Options are what a Meter is made with. The zero value is good.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged
	// NoCgroups has no control groups made.
	NoCgroups bool

	proc, mounts string // for tests; "" is /proc and /proc/self/mountinfo
}

// Meter measures builds. It may be used from several goroutines.
type Meter struct {
	proc   procFS
	logger *slog.Logger
	find   func() // finds the groups, before the first build: it may move this process

	mu       sync.Mutex // owns all below
	groups   *groups    // nil if there are none
	noGroups string     // why not
	builds   map[*Build]bool
	looking  bool // a goroutine looks at the builds
	table    table
	load     average
}

// New returns a Meter. It has nothing to close: what it started ends soon after the last build.
func New(opts Options) *Meter {
	m := &Meter{proc: procFS(opts.proc), logger: opts.Logger, builds: make(map[*Build]bool)}
	if m.proc == "" {
		m.proc = "/proc"
	}
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	m.find = sync.OnceFunc(func() { m.setGroups(findGroups(m.proc, opts.mounts)) })
	if opts.NoCgroups {
		m.find = func() {}
		m.noGroups = "none are wanted"
	}
	return m
}

func (m *Meter) setGroups(g *groups, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.groups = g; err != nil {
		m.groups, m.noGroups = nil, err.Error()
		m.logger.Debug("builds get no control groups", "why", m.noGroups)
		return
	}
	m.logger.Debug("builds get control groups", "in", g.base)
}

// Build is a build that is measured, from Own or Of to End. Its methods may be called on nil, and do
// nothing then.
type Build struct {
	meter *Meter
	group *group // nil if it has none
	// Of a group that could not be made, or has no limit.
	noGroup string
	limit   int64
	cpu     time.Duration // negative if it is not known
	largest int64         // 0 if it is not known
	ended   bool
	used    store.Measured

	// All below is under Meter.mu.
	root     process // of the tree; its pid is 0 if it is not known
	withRoot bool    // the root is one of the build's processes
	since    time.Time
	looks    int   // how often its memory was looked at
	peak     int64 // of those looks, in bytes
	cache    int64 // the most, in bytes, that the kernel could have dropped, of a group
	swapped  int64 // the most, in bytes, of a group
}

// Own returns a build whose processes this process starts, with a limit of memory, in bytes, for all of
// them, or 0. Without control groups there is none: End says so.
func (m *Meter) Own(limit int64) *Build {
	m.find()
	m.mu.Lock()
	b := &Build{meter: m, limit: limit, noGroup: m.noGroups, cpu: -1}
	groups := m.groups
	m.mu.Unlock()
	if groups == nil {
		return b
	}
	var err error
	if b.group, err = groups.make(limit); err != nil {
		b.noGroup = err.Error()
		m.logger.Warn("a build gets no control group", "err", err)
	}
	return b
}

// Attr has the process that starts with the attributes put into the build's control group from its
// first moment, and reports whether there is one.
func (b *Build) Attr(attr *syscall.SysProcAttr) bool {
	if b == nil || b.group == nil {
		return false
	}
	attr.UseCgroupFD, attr.CgroupFD = true, b.group.fd()
	return true
}

// GiveUpGroup says that the build's process could not be started in its group, and could without. No build
// gets one any more.
func (b *Build) GiveUpGroup(why error) {
	m := b.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	b.group.remove()
	b.group, b.noGroup = nil, fmt.Sprintf("no process can be started in a control group: %v", why)
	m.logger.Warn("builds get no control groups any more", "err", why)
	m.groups, m.noGroups = nil, b.noGroup
}

// Watch says that all processes of the build descend from one, which is one of them itself if withRoot
// is set. It reports whether that one was found.
func (b *Build) Watch(pid int, withRoot bool) bool {
	if b == nil {
		return false
	}
	root, ok := b.meter.proc.process(pid)
	if !ok {
		return false
	}
	m := b.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	b.root, b.withRoot, b.since = root, withRoot, time.Now()
	m.builds[b] = true
	if !m.looking {
		m.looking = true
		m.load.add(b.since, 0) // nothing was active until now
		go m.look()            // it ends by itself
	}
	return true
}

// Of returns a build that another program makes, and whose processes descend from one or are it. If it
// is not found, nothing is measured. Nothing limits its memory.
func (m *Meter) Of(pid int, limit int64) *Build {
	b := &Build{meter: m, limit: limit, cpu: -1}
	b.Watch(pid, true)
	return b
}

// CPU says how much processor time the build's processes took, as far as somebody has waited for them.
func (b *Build) CPU(spent time.Duration) {
	if b != nil {
		b.cpu = spent
	}
}

// Largest says how much memory one process of the build had at most, in bytes.
func (b *Build) Largest(memory int64) {
	if b != nil {
		b.largest = memory
	}
}

// End ends the measurement, when all processes of the build are gone. It returns the same when it is called
// again.
func (b *Build) End() store.Measured {
	if b == nil {
		return store.Measured{}
	}
	m := b.meter
	m.mu.Lock()
	delete(m.builds, b)
	m.mu.Unlock()
	switch {
	case b.ended:
	case b.group != nil:
		b.used = b.endGroup()
	default:
		b.used = b.endTree()
	}
	b.ended = true
	return b.used
}

// endTree returns what is known of a tree of processes.
func (b *Build) endTree() store.Measured {
	u := store.Measured{Method: store.MeasuredProcesses, PeakMemory: max(b.peak, b.largest)}
	var lacks []string
	switch {
	case b.looks > 0 && b.largest > 0:
		lacks = append(lacks, fmt.Sprintf("memory: looked at %s; a shorter peak is known of the largest process alone", often(b.looks)))
	case b.looks > 0:
		lacks = append(lacks, fmt.Sprintf("memory: looked at %s; a shorter peak is not known", often(b.looks)))
	case b.largest > 0:
		lacks = append(lacks, "memory: that of the largest process alone, since the build ended too soon to look at all of them")
	case b.root.pid == 0:
		lacks = append(lacks, "memory: "+hiddenProcesses)
	default:
		lacks = append(lacks, "memory: the build ended too soon to look at it")
	}
	if b.cpu >= 0 {
		u.CPU = b.cpu.Seconds()
	} else {
		lacks = append(lacks, "processor time: "+hiddenProcesses)
	}
	if b.limit > 0 {
		lacks = append(lacks, "no limit of memory was set")
	}
	if b.noGroup != "" {
		lacks = append(lacks, "no control group: "+b.noGroup)
	}
	u.Unmeasured = strings.Join(lacks, "; ")
	return u
}

const hiddenProcesses = "the build's processes are not seen in /proc: they run elsewhere, in a container, or /proc is mounted with hidepid"

func often(looks int) string {
	if looks == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times, %s apart or more", looks, interval)
}

// look looks at the builds until there are none.
func (m *Meter) look() {
	wait := interval
	for {
		time.Sleep(wait)
		began := time.Now()
		m.mu.Lock()
		if len(m.builds) == 0 {
			m.looking = false
			m.mu.Unlock()
			return
		}
		m.lookAtAll(began)
		m.mu.Unlock()
		wait = max(interval, share*time.Since(began))
	}
}

// lookAtAll looks at all builds once; Meter.mu is held.
func (m *Meter) lookAtAll(now time.Time) {
	counts := m.load.due(now)
	trees := counts
	for b := range m.builds {
		if b.group != nil {
			b.lookAtGroup()
		} else if now.Sub(b.since) >= minAge {
			trees = true
		}
	}
	if !trees {
		return
	}
	m.table.read(m.proc)
	active := 0
	for b := range m.builds {
		members := m.table.tree(b.root)
		if counts {
			active += m.proc.active(members)
		}
		if !b.withRoot && len(members) > 0 {
			members = members[1:]
		}
		if b.group == nil && len(members) > 0 {
			b.looks++
			b.peak = max(b.peak, m.proc.memory(members))
		}
	}
	if counts {
		m.load.add(now, active)
	}
}

// OwnLoad returns the part of the machine's load average of a minute that the builds make, averaged as
// the kernel does.
func (m *Meter) OwnLoad() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.looking {
		return m.load.now() // the next count may just be due
	}
	return m.load.after(time.Now())
}
