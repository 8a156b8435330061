package sandbox

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The wait for the network interface that a program outside makes, in nanoseconds: how
// often to look for it, and for how long. Making it takes some 30 ms.
const (
	networkPoll = 1_000_000
	networkWait = 10_000_000_000
)

// awaitNetwork waits until there is a way out through the interface.
func (s *stage) awaitNetwork() {
	if s.Interface == "" {
		return
	}
	for range networkWait / networkPoll {
		if hasRoute("/proc/net/route", s.Interface, 0, 1) || hasRoute("/proc/net/ipv6_route", s.Interface, 9, 0) {
			return
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: networkPoll}, nil)
	}
	fail(Failed, "wait for the network", unix.ETIMEDOUT)
}

// hasRoute reports whether a table of routes has a default route through an interface,
// in the columns given.
func hasRoute(table, through string, interfaceColumn, destinationColumn int) bool {
	text, err := readFile(table)
	if err != nil {
		return false
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 9 && f[interfaceColumn] == through && strings.Trim(f[destinationColumn], "0") == "" {
			return true
		}
	}
	return false
}

// landlockScope is LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, of Linux 6.12.
const landlockScope = 1

// leaveAbstractSockets keeps a builder that shares the machine's network from the
// abstract sockets of others, where the kernel can.
func leaveAbstractSockets() {
	attr := struct{ files, network, scoped uint64 }{scoped: landlockScope}
	fd, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return
	}
	_, _, errno = unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
	_ = unix.Close(int(fd))
	if errno != 0 {
		fail(Failed, "leave the machine's abstract sockets", errno)
	}
}
