package measure

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// procFS is where /proc is mounted.
type procFS string

// process is what /proc/PID/stat says of a process (proc(5)).
type process struct {
	pid, parent int
	state       byte
	threads     int
	waited      time.Duration // processor time of the children that it has waited for, and theirs
	started     uint64        // in ticks; with the pid it tells a process from all others
}

// tick is the unit of times in /proc: USER_HZ, which is the same on all architectures that Go has.
const tick = time.Second / 100

// process returns what is known of a process.
func (p procFS) process(pid int) (process, bool) {
	var buf [1024]byte
	return p.stat(filepath.Join(strconv.Itoa(pid), "stat"), buf[:])
}

func (p procFS) stat(name string, buf []byte) (process, bool) {
	text, ok := p.read(name, buf)
	if !ok {
		return process{}, false
	}
	return parseStat(text)
}

// read reads a file of /proc, as far as there is room.
func (p procFS) read(name string, buf []byte) ([]byte, bool) {
	f, err := os.Open(filepath.Join(string(p), name))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	n, err := f.Read(buf)
	return buf[:n], n > 0 && (err == nil || err == io.EOF) //nolint:errorlint // as io.Reader says
}

// The fields of stat after the name, which may have spaces and parentheses, from 0.
const (
	fieldState       = 0
	fieldParent      = 1
	fieldWaitedUser  = 13
	fieldWaitedSys   = 14
	fieldThreads     = 17
	fieldStarted     = 19
	fieldsThatMatter = 20
)

func parseStat(text []byte) (process, bool) {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 1 || end < open {
		return process{}, false
	}
	fields := bytes.Fields(text[end+1:])
	if len(fields) < fieldsThatMatter {
		return process{}, false
	}
	number := func(b []byte) int {
		n, _ := strconv.Atoi(string(b)) // the kernel writes numbers
		return n
	}
	started, _ := strconv.ParseUint(string(fields[fieldStarted]), 10, 64)
	return process{
		pid: number(bytes.TrimSpace(text[:open])), parent: number(fields[fieldParent]), state: fields[fieldState][0],
		threads: number(fields[fieldThreads]), started: started,
		waited: tick * time.Duration(number(fields[fieldWaitedUser])+number(fields[fieldWaitedSys])),
	}, true
}

// Waited returns the processor time of all children that a process has waited for so far, and of those that
// they have waited for; false if it is not seen.
func (m *Meter) Waited(pid int) (time.Duration, bool) {
	p, ok := m.proc.process(pid)
	return p.waited, ok
}

// Parent returns the process that has started another one, and the name of its program; false if they
// are not seen.
func (m *Meter) Parent(pid int) (parent int, program string, ok bool) {
	p, ok := m.proc.process(pid)
	if !ok || p.parent == 0 {
		return 0, "", false
	}
	var buf [4096]byte
	text, ok := m.proc.read(filepath.Join(strconv.Itoa(p.parent), "cmdline"), buf[:])
	text, _, _ = bytes.Cut(text, []byte{0})
	return p.parent, filepath.Base(string(text)), ok
}

// table is all processes of the machine at one time.
type table struct {
	all      map[int]process
	children map[int][]int
	buf      [1024]byte
}

func (t *table) read(p procFS) {
	t.all, t.children = make(map[int]process, len(t.all)), make(map[int][]int, len(t.children))
	dir, err := os.Open(string(p))
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what was read counts
	for _, name := range names {
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		if s, ok := p.stat(filepath.Join(name, "stat"), t.buf[:]); ok {
			t.all[s.pid] = s
			t.children[s.parent] = append(t.children[s.parent], s.pid)
		}
	}
}

// tree returns a process and its descendants; nothing if it has ended.
func (t *table) tree(root process) []process {
	if there, ok := t.all[root.pid]; !ok || root.pid == 0 || there.started != root.started {
		return nil
	}
	members := []process{t.all[root.pid]}
	for i := 0; i < len(members); i++ {
		for _, pid := range t.children[members[i].pid] {
			members = append(members, t.all[pid])
		}
	}
	return members
}

// memory returns how much memory processes have, in bytes: what is each one's alone or is a copy not yet made,
// and the most that one of them shares, which are programs and libraries.
func (p procFS) memory(members []process) int64 {
	var sum, shared int64
	var buf [256]byte
	for _, m := range members {
		text, _ := p.read(filepath.Join(strconv.Itoa(m.pid), "statm"), buf[:])
		fields := bytes.Fields(text)
		if len(fields) < 3 {
			continue // it has ended
		}
		resident, _ := strconv.ParseInt(string(fields[1]), 10, 64) // the kernel writes numbers
		files, _ := strconv.ParseInt(string(fields[2]), 10, 64)
		sum += resident - files
		shared = max(shared, files)
	}
	return (sum + shared) * int64(os.Getpagesize())
}

// active returns how many threads of processes count as load: they run, or would if they could, or can't
// be interrupted.
func (p procFS) active(members []process) int {
	n := 0
	var buf [1024]byte
	for _, m := range members {
		if m.threads <= 1 {
			n += countActive(m.state)
			continue
		}
		tasks := filepath.Join(strconv.Itoa(m.pid), "task")
		dir, err := os.Open(filepath.Join(string(p), tasks))
		if err != nil {
			continue // it has ended
		}
		names, _ := dir.Readdirnames(-1) // what was read counts
		dir.Close()
		for _, name := range names {
			if s, ok := p.stat(filepath.Join(tasks, name, "stat"), buf[:]); ok {
				n += countActive(s.state)
			}
		}
	}
	return n
}

func countActive(state byte) int {
	if slices.Contains([]byte("RD"), state) {
		return 1
	}
	return 0
}
