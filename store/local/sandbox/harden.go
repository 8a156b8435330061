package sandbox

import (
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// harden leaves nothing in this process that the builder could use: where there are no other
// users, the two have the same user id.
//
// The kernel drops signals to the first process of a PID namespace that come from
// inside, SIGKILL and SIGSTOP too, unless the process handles them; and Go's runtime
// handles them all, most of them by dying. Nothing in this process needs them: it
// only waits, in system calls. Signals of the runtime to its own threads get lost as
// well, so the privileges, which Go drops in all threads by signals, must go first; in
// programs that use cgo that fails, which does no harm.
func (s *stage) harden() {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	for sig := range unix.Signal(lastSignal) {
		defaultAction(sig + 1)
	}
}

// lastSignal is _NSIG of the architectures that Go has, but MIPS.
const lastSignal = 64

func defaultAction(sig unix.Signal) {
	var action [64]byte // a struct sigaction with SIG_DFL
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, lastSignal/8, 0, 0)
}

// oomScore is /proc/self/oom_score_adj. Once this process is not dumpable, the file no longer
// belongs to it, so it is opened before and stays open.
type oomScore struct {
	fd  int
	own []byte
}

// offer makes the build the first to go if memory runs out.
func (o *oomScore) offer() {
	fd, err := unix.Open("/proc/self/oom_score_adj", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	own := make([]byte, len("-1000\n"))
	n, _ := unix.Read(fd, own)
	o.fd, o.own = fd, own[:max(0, n)]
	_, _ = unix.Pwrite(fd, []byte("1000"), 0)
}

// restore takes this process out of that once the builder has started. Otherwise a builder
// of many small processes, or one that fills /dev/shm, would have it killed.
func (o *oomScore) restore() {
	if o.fd != 0 {
		_, _ = unix.Pwrite(o.fd, o.own, 0)
		_ = unix.Close(o.fd)
	}
}

// maxInterpreters is how many #! lines the kernel follows, and one more.
const maxInterpreters = 6

// refuseOwnProgram fails if the builder, or what its #! line names, is this program:
// the process that is to become the builder finds it at /proc/self/exe, it belongs to
// the machine's owner, and kernels before 6.13 let some write to a program that runs
// (CVE-2019-5736 was such an attack). The inputs can't change meanwhile.
func (s *stage) refuseOwnProgram() {
	var own, st unix.Stat_t
	must("find this program", unix.Stat("/proc/self/exe", &own))
	name := s.Builder
	for range maxInterpreters {
		if unix.Stat(name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return // starting it will tell what is wrong
		}
		if st.Dev == own.Dev && st.Ino == own.Ino {
			fail(NoExec, "start the builder", unix.EACCES)
		}
		if name = interpreter(name); name == "" {
			return
		}
		if name[0] != '/' {
			name = s.Folder + "/" + name
		}
	}
}

// interpreter returns what the #! line of a file names, or nothing.
func interpreter(name string) string {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	head := make([]byte, 256) // BINPRM_BUF_SIZE
	n, err := unix.Read(fd, head)
	if err != nil {
		return ""
	}
	line, ok := strings.CutPrefix(string(head[:n]), "#!")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(line, "\n\x00"); i >= 0 {
		line = line[:i]
	}
	line = strings.TrimLeft(line, " \t")
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		line = line[:i]
	}
	return line
}
