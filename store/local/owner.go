package local

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lighter/nar"
)

// heartbeat is how often a process renews its claims, and ownerTimeout how long it
// may fail to before processes on other machines take it for dead.
const (
	heartbeat    = 30 * time.Second
	ownerTimeout = 15 * time.Minute
)

// owner is an open store of a process: who left a file in the store's folder. Files
// are named after it, as NAME, or as NAME.N for its N-th.
type owner struct {
	machine string // boot and PID namespace
	pid     int
	start   string // of the process, in clock ticks since the boot; tells reused pids apart
	number  uint64 // of the open store in its process
}

var openStores atomic.Uint64

// newOwner returns the owner that a store is that is being opened.
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

// thisMachine identifies this boot of this machine, and the PID namespace: what
// shares it can see this process by its pid.
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

// census remembers, for the length of one look around, which owners are alive.
type census struct {
	leases layout
	now    time.Time // by the clock of the file system
	known  map[owner]bool
}

func (s *Store) newCensus(now time.Time) *census {
	return &census{leases: s.layout, now: now, known: make(map[owner]bool)}
}

// alive reports whether the owner's process still runs, as far as one can tell. In
// doubt it does.
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

// clock returns the time by the clock of the file system, which is what the times
// of files can be compared with.
func (s *Store) clock() (time.Time, error) {
	name, err := s.tmpName()
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

// presence is what shows others that this open store is alive: its heartbeat file
// and its folder in tmp. Both are made when they are first needed, so that who only
// reads leaves no trace.
type presence struct {
	once sync.Once
	err  error
	stop chan struct{}
	done chan struct{}
}

// beThere makes the presence.
func (s *Store) beThere() error {
	s.presence.once.Do(func() { s.presence.err = s.appear() })
	return s.presence.err
}

func (s *Store) appear() error {
	if err := writeNew(s.layout.lease(s.owner.String()), nil); err != nil {
		return err
	}
	if err := os.Mkdir(s.layout.tmpOf(s.owner), 0o700); err != nil {
		os.Remove(s.layout.lease(s.owner.String()))
		return err
	}
	s.presence.stop, s.presence.done = make(chan struct{}), make(chan struct{})
	go s.beat()
	return nil
}

// beat renews the claims until the store is closed.
func (s *Store) beat() {
	defer close(s.presence.done)
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-s.presence.stop:
			return
		case <-ticker.C:
			if err := s.renew(); err != nil {
				s.logger.Warn("the claims on items of the store could not be renewed", "store", string(s.layout), "err", err)
			}
		}
	}
}

// renew renews the heartbeat. If others took this process for dead, it makes its
// leases again.
func (s *Store) renew() error {
	name := s.layout.lease(s.owner.String())
	now := time.Now()
	err := setTimeNow(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.logger.Warn("other processes took this one for dead; it claims its items again", "store", string(s.layout), "time", now)
	if err := writeNew(name, nil); err != nil {
		return err
	}
	if err := os.Mkdir(s.layout.tmpOf(s.owner), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.renewLeases()
}

// disappear ends the presence, if there is one.
func (s *Store) disappear() error {
	s.presence.once.Do(func() { s.presence.err = errClosed })
	if s.presence.stop == nil {
		return nil
	}
	close(s.presence.stop)
	<-s.presence.done
	return errors.Join(nar.RemoveAll(s.layout.tmpOf(s.owner)), remove(s.layout.lease(s.owner.String())))
}
