package doctor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lighter/internal/cli/display"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/machinetest"
	"lighter/internal/quantity"
	"lighter/machines"
)

// What follows are the checks of what the head runs, and of the machines.

// goPlatforms are the names that Go has for the processors of Guix's systems. Of armhf
// there are several, and an agent for arm64 serves it.
var goPlatforms = map[string]string{
	"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "riscv64": "riscv64", "powerpc64le": "ppc64le",
}

// platforms returns the platforms of the machines in Go's words. A machine that can also
// build for the 32 bits of its processor needs one agent, for its 64.
func platforms(list []machines.Machine) [][2]string {
	var found [][2]string
	for i := range list {
		m := &list[i]
		if m.Local {
			continue
		}
		for _, system := range m.Systems {
			arch, goos, _ := strings.Cut(system, "-")
			smaller := arch == "i686" && slices.Contains(m.Systems, "x86_64-"+goos)
			if p := [2]string{goos, goPlatforms[arch]}; p[1] != "" && !smaller && !slices.Contains(found, p) {
				found = append(found, p)
			}
		}
	}
	return found
}

func (d *Doctor) checkAgents(ctx context.Context) {
	const check = "agents"
	finder := head.NewAgents(d.folders.Agents, d.getenv("LIGHTER_AGENTS"))
	for _, p := range platforms(d.machines) {
		agent, err := finder.Find(ctx, p[0], p[1])
		switch {
		case err != nil && finder.Folder() != "":
			d.problem(check, "make agents, and install build/agents/* to "+finder.Folder()+", or say with $LIGHTER_AGENTS where they are", "%v", err)
		case err != nil:
			d.problem(check, "make agents, and say with $LIGHTER_AGENTS where they are", "%v", err)
		default:
			d.ok(check, "lighter-agent for %s/%s, %s", p[0], p[1], quantity.Bytes(agent.Size))
		}
	}
}

// checkStore opens the head's store, and tries a sandbox where the head itself builds.
func (d *Doctor) checkStore(ctx context.Context) {
	const check = "store"
	if d.folders.StoreKind == machines.StoreDaemon {
		s, err := head.OpenStore(ctx, d.folders, slog.New(slog.DiscardHandler))
		if err != nil {
			d.problem(check, "start guix-daemon (systemctl start guix-daemon), or name its socket with --daemon-socket", "%v", err)
			return
		}
		defer func() { _ = s.Close() }() // it was looked at, no more
		d.ok(check, "guix-daemon's %s", s.Disk)
		return
	}
	if _, err := os.Stat(d.folders.Store()); errors.Is(err, fs.ErrNotExist) {
		d.note(check, "the coordinator makes it when it is first started", "%s is not there", d.folders.Store())
		return
	}
	s, err := head.OpenLocal(d.folders, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		d.problem(check, "run this as the coordinator's user; if that does not help, lighter store verify", "%v", err)
		return
	}
	defer s.Close()
	d.ok(check, "lighter's own, in %s", d.folders.Store())
	if !slices.ContainsFunc(d.machines, func(m machines.Machine) bool { return m.Local }) {
		return
	}
	// The head is a machine too.
	if err := s.BuildProblem(); err != nil {
		d.problem("sandbox", "do what it says, or take the local machine out of the machines file", "%v", err)
		return
	}
	d.ok("sandbox", "builds work here: user namespaces and mounts are allowed")
	if err := s.NetworkProblem(); err != nil {
		d.note("sandbox", "what listens on this machine's loopback addresses is within their reach", "%v", err)
	}
}

// checkDaemon looks whether guix-daemon offloads to lighter.
func (d *Doctor) checkDaemon(context.Context) {
	const check = "guix-daemon"
	pid, err := d.findProcess("guix-daemon")
	if err != nil || pid == "" {
		if d.folders.StoreKind == machines.StoreDaemon {
			d.note(check, "", "this process can't see it run, so where it offloads to is unknown")
		}
		return
	}
	environ, err := os.ReadFile(filepath.Join(d.host.proc, pid, "environ"))
	if err != nil {
		d.note(check, "run this as root to find out", "process %s: its environment can't be read, so where it offloads to is unknown", pid)
		return
	}
	guix := ""
	for v := range bytes.SplitSeq(environ, []byte{0}) {
		if value, ok := strings.CutPrefix(string(v), "GUIX="); ok {
			guix = value
		}
	}
	switch {
	case filepath.Base(guix) == "lighter-guix" && !head.IsFile(guix):
		d.problem(check, "make install, or name the right file in GUIX; then restart guix-daemon", "process %s offloads by %s, which is not there", pid, guix)
	case filepath.Base(guix) == "lighter-guix":
		d.ok(check, "process %s offloads by %s", pid, guix)
	default:
		d.note(check, "lighter help guix, step 6, says how it is told to; nothing to do if it is not meant to", "process %s does not offload to lighter (GUIX is %q)", pid, guix)
	}
}

// findProcess returns the number of the first process of that name, or "".
func (d *Doctor) findProcess(name string) (string, error) {
	entries, err := os.ReadDir(d.host.proc)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(d.host.proc, e.Name(), "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == name {
			return e.Name(), nil
		}
	}
	return "", nil
}

// Less than this on a disk is a problem, or worth a note.
const (
	tooLittleDisk = 1 << 30 // bytes
	littleDisk    = 10 << 30
	fewInodes     = 100_000
)

func (d *Doctor) checkSpace(context.Context) {
	folders := []string{d.folders.State}
	if d.folders.StoreKind == machines.StoreDaemon {
		folders = append(folders, "/gnu/store")
	}
	for _, folder := range folders {
		const check = "disk"
		has, err := d.host.space(folder)
		const fix = "make room: lighter builds prune --older-than 30d, then lighter store gc, or guix gc; or move the folder"
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			d.problem(check, "", "%v", err)
		case has.Free < tooLittleDisk:
			d.problem(check, fix, "%s has only %s free", folder, quantity.Bytes(has.Free))
		case has.Inodes >= 0 && has.Inodes < fewInodes:
			d.problem(check, fix, "%s has only %s inodes free", folder, human.Number(int(has.Inodes)))
		case has.Free < littleDisk:
			d.note(check, fix, "%s has %s free", folder, quantity.Bytes(has.Free))
		default:
			d.ok(check, "%s has %s free", folder, quantity.Bytes(has.Free))
		}
	}
}

func (d *Doctor) checkClock(context.Context) {
	const check = "clock"
	now := d.host.now()
	synced, err := d.host.clockSynced()
	switch {
	case now.Year() < 2026:
		d.problem(check, "set the clock, by NTP for example", "it says %s", human.Stamp(now))
	case err == nil && !synced:
		d.note(check, "run an NTP client, unless the clock is kept from outside, as in a container", "the kernel says that it is not synchronized")
	default:
		d.ok(check, "%s", human.Stamp(now))
	}
	for _, m := range d.machineStatus() {
		if skew := m.ClockSkew.Duration(); skew.Abs() > machinetest.MaxSkew {
			d.note(check, machinetest.ClockFix, "that of %s differs by %s", m.Name, quantity.Duration(skew.Abs()))
		}
	}
}

// filesPerMachine is about how many files a machine's connections take, with transfers
// and the logs of its builds; filesOfItself what the coordinator takes anyhow.
const (
	filesPerMachine = 32
	filesOfItself   = 1024
)

// checkLimits compares how many files the coordinator may open with what it may need.
func (d *Doctor) checkLimits(context.Context) {
	const check = "open files"
	limit, whose := d.fileLimit()
	need := uint64(filesOfItself + filesPerMachine*max(len(d.machines), len(d.machineStatus())))
	if limit >= need {
		d.ok(check, "%s may open %d", whose, limit)
		return
	}
	d.problem(check, "LimitNOFILE=65536 in its systemd unit, or ulimit -Hn 65536 before it is started", "%s may open %d, and may need %d", whose, limit, need)
}

// fileLimit returns the hard limit, to which Go programs raise the soft one: of the
// coordinator, if that can be told, else of this process.
func (d *Doctor) fileLimit() (limit uint64, whose string) {
	if d.status != nil {
		text, err := os.ReadFile(filepath.Join(d.host.proc, strconv.Itoa(d.status.PID), "limits"))
		if n, ok := parseFileLimit(text); err == nil && ok {
			return n, "the coordinator"
		}
	}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, "this process"
	}
	return r.Max, "this process"
}

// parseFileLimit finds the hard limit in /proc/PID/limits, see proc_pid_limits(5).
func parseFileLimit(text []byte) (uint64, bool) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "Max open files")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			return 0, false
		}
		if fields[1] == "unlimited" {
			return 1 << 62, true
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		return n, err == nil
	}
	return 0, false
}

// checkCoordinator looks at what the coordinator says of itself.
func (d *Doctor) checkCoordinator(context.Context) {
	if d.status == nil {
		return
	}
	if d.status.Paused != "" {
		d.note("coordinator", "lighter coordinator resume, once the reason is gone", "nothing is placed: %s", d.status.Paused)
	}
	if d.status.MachinesFile.Error != "" {
		d.problem("machines file", "fix it: lighter machines check; the coordinator then takes it over", "the coordinator works with the previous machines: %s", d.status.MachinesFile.Error)
	}
}

func (d *Doctor) checkMachines(context.Context) {
	now := d.host.now()
	for _, m := range d.machineStatus() {
		word, why := display.MachineState(&m), display.MachineNote(&m, now)
		if why != "" {
			why = ": " + why
		}
		check := "machine " + m.Name
		switch word {
		case "down", "untrusted", "unfit":
			d.problem(check, "lighter machines test "+human.ShellWord(m.Name)+" says what to do", "it is %s%s", word, why)
		case "quarantined":
			d.problem(check, "look at what failed there (lighter builds list --state failed --machine "+m.Name+"), fix it, then: lighter machines resume "+m.Name, "it is quarantined%s", why)
		case "draining", "drained":
			d.note(check, "lighter machines resume "+m.Name+", when it should build again", "it is %s%s", word, why)
		case "up":
			d.ok(check, "up, %d of %s taken", m.Running, human.Count(m.ParallelBuilds, "slot"))
		case "refuses":
			d.note(check, "it passes by itself, unless the limits in the machines file are wrong", "it takes no builds now%s", why)
		default:
			d.note(check, "", "it is %s%s", word, why)
		}
	}
}

func (d *Doctor) checkHooks(context.Context) {
	if d.status == nil {
		return
	}
	if n := d.status.HooksParked; n > 0 {
		d.problem("event hooks", "lighter hooks list shows why; then lighter hooks retry", "%s failed again and again, and waits for you", human.Count(n, "run"))
		return
	}
	d.ok("event hooks", "%s to come, none parked", human.Count(d.status.HooksPending, "run"))
}

// folderSize sums the files of a folder up. Files that go meanwhile count as nothing.
func folderSize(ctx context.Context, folder string) (int64, error) {
	if _, err := os.Stat(folder); err != nil {
		return 0, err
	}
	var total int64
	err := filepath.WalkDir(folder, func(_ string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir():
			return nil
		}
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total, err
}
