package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// buildUIDs is how many user ids there are for the builds that run on a machine at the same
// time, starting with Options.BuildUID.
const buildUIDs = 1024

// uidFolder has a file for each id that was used since this machine started. All processes
// that build as root share it.
const uidFolder = "/run/lighter/build-users"

// userPool has the user ids of builds where this process is root: each running build has
// its own, so that builds can't reach each other's processes. An id belongs to this process
// while it holds a lock on the id's file, and is kept for the next build.
type userPool struct {
	mu     sync.Mutex
	free   []uint32
	claims []*os.File
}

// take returns an id that no other build has. It must not be given back before all
// processes of the build are dead.
func (p *userPool) take(folder string, first uint32) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		uid := p.free[n-1]
		p.free = p.free[:n-1]
		return uid, nil
	}
	taken := usersHere()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return 0, err
	}
	for uid := first; uid < first+buildUIDs; uid++ {
		if taken[uid] {
			continue
		}
		f, err := os.OpenFile(filepath.Join(folder, strconv.FormatUint(uint64(uid), 10)), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return 0, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			p.claims = append(p.claims, f)
			return uid, nil
		}
		f.Close()
	}
	return 0, fmt.Errorf("all user ids for builds, from %d to %d, are in use", first, first+buildUIDs-1)
}

func (p *userPool) giveBack(uid uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, uid)
}

func (p *userPool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var problems []error
	for _, f := range p.claims {
		problems = append(problems, f.Close())
	}
	p.free, p.claims = nil, nil
	return errors.Join(problems...)
}

// usersHere returns the ids that /etc/passwd names, and those of running processes.
func usersHere() map[uint32]bool {
	taken := make(map[uint32]bool)
	text, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(line, ":"); len(f) > 2 {
			if uid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				taken[uint32(uid)] = true
			}
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range processes {
		if info, err := os.Stat(name); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				taken[st.Uid] = true
			}
		}
	}
	return taken
}
