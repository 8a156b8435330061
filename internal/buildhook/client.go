package buildhook

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// maxProc bounds what is read of a file in /proc.
const maxProc = 256 << 10

// maxAbove is how many processes above the hook are looked at: guix-daemon starts it right below
// the process that serves the client, unless somebody put a script between.
const maxAbove = 8

// clientUser returns the number of the user whose client of guix-daemon wants what this hook is
// asked for; nil if that can't be told. pid is the hook's parent, and proc is /proc.
//
// guix-daemon forks for each client, and writes the client's pid, which the kernel told it, over
// its first argument in the fork (nix/nix-daemon/guix-daemon.cc, acceptConnection): as much of it
// as there is room for, and NULs after it. So the fork is the process whose arguments are its
// parent's but for that one. Where there is no room for the whole number nothing can be told.
// The pid may be somebody else's by now, if the client has gone: then its process is younger.
func clientUser(proc string, pid int) *uint32 {
	for range maxAbove {
		p, ok := readProcess(proc, pid)
		if !ok || p.parent <= 0 {
			return nil
		}
		if client := servedBy(readProc(proc, pid, "cmdline"), readProc(proc, p.parent, "cmdline")); client > 0 {
			c, ok := readProcess(proc, client)
			if !ok || c.began > p.began {
				return nil
			}
			return &c.user
		}
		pid = p.parent
	}
	return nil
}

// servedBy returns the pid of the client that a fork of guix-daemon serves, given the arguments of
// both, each with a NUL after it; 0 if that is not what it is.
func servedBy(fork, daemon []byte) int {
	first := bytes.IndexByte(daemon, 0) + 1
	room := bytes.IndexByte(daemon[first:], 0)
	if first == 0 || room < 0 || len(fork) != len(daemon) {
		return 0
	}
	rest := first + room
	if !bytes.Equal(fork[:first], daemon[:first]) || !bytes.Equal(fork[rest:], daemon[rest:]) {
		return 0
	}
	digits := bytes.TrimRight(fork[first:rest], "\x00")
	client, err := strconv.ParseUint(string(digits), 10, 31)
	if err != nil || len(digits) == room { // the number may have been cut
		return 0
	}
	return int(client)
}

// process is what is known of one.
type process struct {
	parent int
	user   uint32 // whose rights it has
	began  uint64 // in ticks since the computer's start
}

func readProcess(proc string, pid int) (p process, ok bool) {
	var err error
	for line := range bytes.Lines(readProc(proc, pid, "status")) {
		switch words := bytes.Fields(line); {
		case len(words) == 2 && string(words[0]) == "PPid:":
			p.parent, err = strconv.Atoi(string(words[1]))
		case len(words) == 5 && string(words[0]) == "Uid:":
			var uid uint64
			uid, err = strconv.ParseUint(string(words[2]), 10, 32)
			p.user, ok = uint32(uid), true
		}
		if err != nil {
			return p, false
		}
	}
	// The name, in parentheses, may have anything in it.
	stat := readProc(proc, pid, "stat")
	words := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const starttime = 22 - 3 // the first of these is the third of proc_pid_stat(5)
	if !ok || len(words) <= starttime {
		return p, false
	}
	p.began, err = strconv.ParseUint(string(words[starttime]), 10, 64)
	return p, err == nil
}

// readProc returns what a file says of a process; nothing if it can't be read.
func readProc(proc string, pid int, name string) []byte {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), name))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProc))
	if err != nil {
		return nil
	}
	return data
}
