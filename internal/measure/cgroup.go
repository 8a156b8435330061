package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"lighter/store"
)

// The names of the control groups that this package makes. That of this process itself is a leaf beside
// those of builds, since a group with processes can have no groups with controllers.
const (
	leafName    = "lighter-agent"
	baseName    = "lighter" // of the group for builds at the top, where nothing else manages groups
	buildPrefix = "lighter-build-"
)

// groups makes a control group for each build.
type groups struct {
	base string // the group, as a folder, in which they are
	made atomic.Int64
}

// systemdFolder is there where systemd is the first process: sd_booted(3).
const systemdFolder = "/run/systemd/system"

// findGroups returns where this process may make control groups, or why it may not: its own group was
// delegated to it, or it is root and nobody else manages groups. Other processes are not moved.
func findGroups(proc procFS, mounts string) (*groups, error) {
	mount, top, err := unifiedMount(proc, mounts)
	if err != nil {
		return nil, err
	}
	own, err := ownGroup(proc)
	if err != nil {
		return nil, err
	}
	within, err := filepath.Rel(top, own)
	if err != nil || strings.HasPrefix(within, "..") {
		return nil, fmt.Errorf("this process is in the group %s, which is not mounted", own)
	}
	g := &groups{base: filepath.Join(mount, within)}
	_, err = os.Stat(systemdFolder)
	managed := err == nil
	_, err = os.Stat(filepath.Join(mount, "cgroup.type")) // each group has it but the first one of all
	switch {
	case filepath.Base(own) == leafName:
		g.base = filepath.Dir(g.base) // somebody has moved this process there before
	case errors.Is(err, fs.ErrNotExist) && os.Geteuid() == 0 && !managed:
		if g.base, err = topGroup(mount); err != nil {
			return nil, err
		}
	}
	if err := g.mayUse(managed); err != nil {
		return nil, err
	}
	if err := g.enable(proc); err != nil {
		return nil, err
	}
	g.sweep(proc)
	trial, err := g.make(0)
	if err != nil {
		return nil, err
	}
	trial.remove()
	return g, nil
}

// unifiedMount returns where cgroup v2 is mounted, and which group is there.
func unifiedMount(proc procFS, mounts string) (mount, top string, err error) {
	if mounts == "" {
		mounts = filepath.Join(string(proc), "self", "mountinfo")
	}
	text, err := os.ReadFile(mounts)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(kind) < 1 || kind[0] != "cgroup2" {
			continue
		}
		controllers, err := os.ReadFile(filepath.Join(fields[4], "cgroup.controllers"))
		if err == nil && !slices.Contains(strings.Fields(string(controllers)), "memory") {
			return "", "", fmt.Errorf("cgroup v2 at %s does not count memory: the machine has cgroup v1 for that, or this process may not see it", fields[4])
		}
		return fields[4], fields[3], nil
	}
	return "", "", errors.New("cgroup v2 is not mounted")
}

// ownGroup returns the group of this process.
func ownGroup(proc procFS) (string, error) {
	text, err := os.ReadFile(filepath.Join(string(proc), "self", "cgroup"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if group, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(group), nil
		}
	}
	return "", errors.New("this process is in no group of cgroup v2")
}

// topGroup makes a group at the top.
func topGroup(mount string) (string, error) {
	base := filepath.Join(mount, baseName)
	if err := addMemory(mount); err != nil {
		return "", err
	}
	if err := os.Mkdir(base, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return base, nil
}

// mayUse returns why this process may not make groups in the base. managed says that systemd runs,
// which allows it only in groups that it has delegated.
func (g *groups) mayUse(managed bool) error {
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		file := filepath.Join(g.base, name)
		if err := unix.Access(file, unix.W_OK); err != nil {
			return fmt.Errorf("the group %s was not given to this user (Delegate=yes of systemd does that): %w", g.base, err)
		}
	}
	var value [8]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(g.base, name, value[:]); err == nil && string(value[:max(n, 0)]) == "1" {
			return nil
		}
	}
	// An ordinary user can't see what an older systemd noted. A group of its own user manager's is the
	// user's in any case.
	if managed && os.Geteuid() == 0 {
		return fmt.Errorf("the group %s is systemd's, which has not delegated it (Delegate=yes)", g.base)
	}
	return nil
}

// enable has the base count the memory of the groups in it. For that this process, and those that it has
// started, leave the base if they are in it.
func (g *groups) enable(proc procFS) error {
	enabled, err := hasWord(filepath.Join(g.base, "cgroup.subtree_control"), "memory")
	if enabled || err != nil {
		return err
	}
	members, err := os.ReadFile(filepath.Join(g.base, "cgroup.procs"))
	if err != nil {
		return err
	}
	pids := strings.Fields(string(members))
	var t table
	t.read(proc)
	self, _ := proc.process(os.Getpid())
	family := t.tree(self)
	for _, pid := range pids {
		if !slices.ContainsFunc(family, func(p process) bool { return strconv.Itoa(p.pid) == pid }) {
			return fmt.Errorf("the group %s has other processes too, such as %s", g.base, pid)
		}
	}
	if len(pids) > 0 {
		leaf := filepath.Join(g.base, leafName)
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		for _, pid := range pids {
			err := write(filepath.Join(leaf, "cgroup.procs"), pid)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return addMemory(g.base)
}

func addMemory(group string) error {
	if err := write(filepath.Join(group, "cgroup.subtree_control"), "+memory"); err != nil {
		return fmt.Errorf("have memory counted: %w", err)
	}
	return nil
}

func hasWord(file, word string) (bool, error) {
	text, err := os.ReadFile(file)
	return slices.Contains(strings.Fields(string(text)), word), err
}

// write writes a file of the kernel's, which is there.
func write(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// sweep removes the groups of processes like this one that were killed.
func (g *groups) sweep(proc procFS) {
	folders, _ := os.ReadDir(g.base) // else nothing is removed
	for _, folder := range folders {
		rest, ours := strings.CutPrefix(folder.Name(), buildPrefix)
		pid, _, _ := strings.Cut(rest, "-")
		n, err := strconv.Atoi(pid)
		if !ours || err != nil {
			continue
		}
		if _, alive := proc.process(n); !alive {
			_ = unix.Rmdir(filepath.Join(g.base, folder.Name())) // what has processes stays
		}
	}
}

// make makes the group of a build, with a limit of memory in bytes, or 0.
func (g *groups) make(limit int64) (_ *group, err error) {
	name := fmt.Sprintf("%s%d-%d", buildPrefix, os.Getpid(), g.made.Add(1))
	b := &group{dir: filepath.Join(g.base, name)}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.remove()
		}
	}()
	if b.file, err = os.Open(b.dir); err != nil {
		return nil, err
	}
	if _, err := b.number("memory.current"); err != nil {
		return nil, fmt.Errorf("its memory is not counted: %w", err)
	}
	if limit > 0 {
		if err := write(filepath.Join(b.dir, "memory.max"), strconv.FormatInt(limit, 10)); err != nil {
			return nil, err
		}
		// What is above the limit must not just go to the disk. Kernels without swap lack the file.
		if err := write(filepath.Join(b.dir, "memory.swap.max"), "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return b, nil
}

// group is the control group of one build.
type group struct {
	dir  string
	file *os.File
}

func (g *group) fd() int { return int(g.file.Fd()) }

// Removal of a group whose processes have just ended may be too soon.
const (
	removeTries = 10
	removePause = 5 * time.Millisecond
)

// remove removes the group, or leaves that to the next sweep.
func (g *group) remove() {
	if g.file != nil {
		g.file.Close()
	}
	for range removeTries {
		if err := unix.Rmdir(g.dir); !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(removePause)
	}
}

// number reads a file with one number.
func (g *group) number(name string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// numbers reads a file with a name and a number on each line.
func (g *group) numbers(name string) (map[string]int64, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		return nil, err
	}
	numbers := make(map[string]int64)
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		numbers[key], _ = strconv.ParseInt(value, 10, 64) // the kernel writes numbers
	}
	return numbers, nil
}

// held are the parts of memory.stat that the kernel can't drop at will, but for a swap; shmem is also part of
// file, the rest of which is a cache.
var held = []string{"anon", "shmem", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock", "slab_unreclaimable"}

// lookAtGroup notes how much memory the group has now; Meter.mu is held.
func (b *Build) lookAtGroup() {
	stat, err := b.group.numbers("memory.stat")
	if err != nil {
		return
	}
	swapped, _ := b.group.number("memory.swap.current") // 0 without swap
	var sum int64
	for _, name := range held {
		sum += stat[name]
	}
	b.looks++
	b.peak = max(b.peak, sum+swapped)
	b.cache = max(b.cache, stat["file"]-stat["shmem"]+stat["slab_reclaimable"])
	b.swapped = max(b.swapped, swapped)
}

// endGroup returns what is known of a control group, and removes it.
//
// The kernel's peak of all memory has in it what was cached of files, which says nothing of what the build
// needs. What is above the largest cache that was seen is not of that; nor is what was seen now and then, and what
// the largest process had.
func (b *Build) endGroup() store.Measured {
	m, g := b.meter, b.group
	defer g.remove()
	m.mu.Lock()
	b.lookAtGroup()
	m.mu.Unlock()
	u := store.Measured{Method: store.MeasuredCgroup, MemoryLimit: b.limit}
	var lacks []string
	u.PeakMemory = max(b.peak, b.largest)
	events, err := g.numbers("memory.events")
	if err != nil {
		u.Method = store.MeasuredProcesses // which don't tell either
		lacks = append(lacks, "whether it was killed for memory: "+err.Error())
	}
	u.KilledForMemory = events["oom_kill"] > 0
	switch peak, err := g.number("memory.peak"); {
	case err == nil && u.KilledForMemory:
		u.PeakMemory = peak + b.swapped
	case err == nil:
		u.PeakMemory = min(max(u.PeakMemory, peak-b.cache), peak+b.swapped)
	default:
		lacks = append(lacks, fmt.Sprintf("memory: looked at %s, since the kernel, older than 5.19, tells no peak", often(b.looks)))
	}
	stat, err := g.numbers("cpu.stat")
	switch {
	case err == nil:
		u.CPU = (time.Duration(stat["usage_usec"]) * time.Microsecond).Seconds()
	case b.cpu >= 0:
		u.CPU = b.cpu.Seconds()
	default:
		lacks = append(lacks, "processor time: "+err.Error())
	}
	u.Unmeasured = strings.Join(lacks, "; ")
	return u
}
