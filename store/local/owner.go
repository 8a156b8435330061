package local

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lighter/nar"
)

// heartbeat is how often a process renews its claims, and ownerTimeout how long it
// may fail to do so before processes on other machines take it for dead.
const (
	heartbeat    = 30 * time.Second
	ownerTimeout = 15 * time.Minute
)

// owner is an open store of a process, which owns files in the store's folder. They are
// named after it: NAME, or NAME.N for the N-th.
type owner struct {
	machine string // boot and PID namespace
	pid     int
	start   string // of the process, in clock ticks since the boot; tells reused pids apart
	number  uint64 // of the open store in its process
}

var openStores atomic.Uint64

// newOwner returns the owner for a store that is being opened.
func newOwner() owner {
	return owner{machine: thisMachine(), pid: os.Getpid(), start: processStart(os.Getpid()), number: openStores.Add(1)}
}

func (o owner) String() string {
	return fmt.Sprintf("%s-%d-%s-%d", o.machine, o.pid, o.start, o.number)
}

// parseOwner returns the owner that a file is named after.
func parseOwner(name string) (owner, bool) {
	name, _, _ = strings.Cut(name, ".")
	parts := strings.Split(name, "-")
	if len(parts) != 4 {
		return owner{}, false
	}
	pid, err := strconv.Atoi(parts[1])
	number, err2 := strconv.ParseUint(parts[3], 10, 64)
	if err != nil || err2 != nil || pid <= 0 {
		return owner{}, false
	}
	return owner{machine: parts[0], pid: pid, start: parts[2], number: number}, true
}

// thisMachine identifies this boot of this machine, and the PID namespace: processes that
// share it can see this one by its pid.
var thisMachine = sync.OnceValue(func() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = []byte("no boot id")
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		namespace = "no namespace"
	}
	host, err := os.Hostname()
	if err != nil {
		host = "no name"
	}
	h := sha256.Sum256([]byte(string(boot) + namespace + host))
	return hex.EncodeToString(h[:6])
})

// processStart returns when a process of this machine was started, or "" if it is
// not there (proc(5), field 22 of stat).
func processStart(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return ""
	}
	return string(fields[19])
}

// census remembers, during one look around, which owners are alive.
type census struct {
	leases layout
	now    time.Time // by the clock of the file system
	known  map[owner]bool
}

func (l layout) newCensus(now time.Time) *census {
	return &census{leases: l, now: now, known: make(map[owner]bool)}
}

// alive reports whether the owner's process still runs. In doubt it says so.
func (c *census) alive(o owner) bool {
	alive, ok := c.known[o]
	if !ok {
		alive = c.look(o)
		c.known[o] = alive
	}
	return alive
}

func (c *census) look(o owner) bool {
	if o.machine == thisMachine() {
		return processStart(o.pid) == o.start && o.start != "" || errors.Is(syscall.Kill(o.pid, 0), nil) && o.start == ""
	}
	info, err := os.Stat(c.leases.lease(o.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || c.now.Sub(info.ModTime()) < ownerTimeout
}

// census begins a look around.
func (c *claims) census() (*census, error) {
	now, err := c.clock()
	return c.layout.newCensus(now), err
}

// clock returns the time by the clock of the file system, with which the times of files
// can be compared.
func (c *claims) clock() (time.Time, error) {
	name, err := c.tmpName()
	if err != nil {
		return time.Time{}, err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return time.Time{}, err
	}
	defer os.Remove(name)
	defer f.Close()
	if _, err := f.WriteString("\n"); err != nil {
		return time.Time{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// claims are what this open store owns in the folder: a heartbeat file, which shows others
// that it is alive, a folder in tmp, leases, and whatever else is named after it. The first
// two are made when they are first needed, so that a process that only reads leaves no trace.
type claims struct {
	layout layout
	logger *slog.Logger
	owner  owner
	names  atomic.Uint64 // of files of the owner

	appeared sync.Once
	err      error         // of that
	stop     chan struct{} // nil if there is no heartbeat
	done     chan struct{}

	mu     sync.Mutex
	leases map[*lease]bool // those that hold something; guarded by mu
}

// beThere makes the heartbeat and the folder.
func (c *claims) beThere() error {
	c.appeared.Do(func() { c.err = c.appear() })
	return c.err
}

// ownName returns a new name for a file of this owner.
func (c *claims) ownName() (string, error) {
	return c.owner.String() + "." + strconv.FormatUint(c.names.Add(1), 10), c.beThere()
}

// tmpName returns a new name in this owner's folder for unfinished work.
func (c *claims) tmpName() (string, error) {
	return filepath.Join(c.layout.tmpOf(c.owner), strconv.FormatUint(c.names.Add(1), 10)), c.beThere()
}

func (c *claims) appear() error {
	if err := writeNew(c.layout.lease(c.owner.String()), nil); err != nil {
		return err
	}
	if err := os.Mkdir(c.layout.tmpOf(c.owner), 0o700); err != nil {
		os.Remove(c.layout.lease(c.owner.String()))
		return err
	}
	c.stop, c.done = make(chan struct{}), make(chan struct{})
	go c.beat()
	return nil
}

// beat renews the claims until the store is closed.
func (c *claims) beat() {
	defer close(c.done)
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-ticker.C:
			if err := c.renew(); err != nil {
				c.logger.Warn("the claims on items of the store could not be renewed", "store", c.layout.root, "err", err)
			}
		}
	}
}

// sweepDead removes what dead processes of this machine have left unfinished. What
// can't be removed now is left for a garbage collection, which reports it.
func (c *claims) sweepDead() {
	for _, problem := range c.layout.sweep(c.layout.newCensus(time.Time{}), func(o owner) bool { return o.machine == thisMachine() }) {
		c.logger.Debug("what a dead process left was not removed", "store", c.layout.root, "err", problem)
	}
}

// sweep removes unfinished work and leases of those dead owners for which of is true.
func (l layout) sweep(c *census, of func(owner) bool) []error {
	var problems []error
	for _, folder := range []string{l.tmp(), l.builds(), l.leases()} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			problems = append(problems, err)
		}
		for _, e := range entries {
			o, ok := parseOwner(e.Name())
			if !ok || !of(o) || c.alive(o) {
				continue
			}
			if err := nar.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
				problems = append(problems, err)
			}
		}
	}
	return problems
}

// renew renews the heartbeat. If others took this process for dead, it makes its
// leases anew.
func (c *claims) renew() error {
	name := c.layout.lease(c.owner.String())
	now := time.Now()
	err := setTimeNow(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.logger.Warn("other processes took this one for dead; it claims its items again", "store", c.layout.root, "time", now)
	if err := writeNew(name, nil); err != nil {
		return err
	}
	if err := os.Mkdir(c.layout.tmpOf(c.owner), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return c.renewLeases()
}

// disappear ends the heartbeat and removes the folder, if they are there.
func (c *claims) disappear() error {
	c.appeared.Do(func() { c.err = errClosed })
	if c.stop == nil {
		return nil
	}
	close(c.stop)
	<-c.done
	return errors.Join(nar.RemoveAll(c.layout.tmpOf(c.owner)), remove(c.layout.lease(c.owner.String())))
}
