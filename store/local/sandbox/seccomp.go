package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter of system calls forbids what leads out of the namespaces, and nothing
// that a build may need: what builds under guix-daemon, which has no filter for
// builders, shall build here. So ptrace, user namespaces, io_uring, userfaultfd,
// perf_event_open, setuid bits and extended attributes stay, since tests of packages
// use them; the mounts are nosuid, and outputs lose such bits. What is refused is
// refused as by a kernel that doesn't have it, or doesn't allow it to the builder:
//
//   - sockets of families that network namespaces don't confine, AF_VSOCK above all,
//     which leads to the host of a virtual machine. The filter can't look into the
//     arguments of socketcall(2), on which glibc for i686 depends, nor of io_uring, so
//     whoever uses these can still get one;
//   - typing into terminals (TIOCSTI);
//   - limits of the sandbox's first process, which may have the builder's user id;
//   - bpf(2), kexec and open_by_handle_at(2), which most kernels allow to no one
//     without privileges, or only within one's own mounts;
//   - keys, only where the builder could not get a keyring of its own.
//
// It is classic BPF written by hand: the rules are few, and a library would bring cgo.

// calls are the numbers of system calls that the filter knows, on one architecture.
type calls struct {
	arch, ioctl, socket, socketpair, prlimit64, bpf, kexec, kexecFile, byHandle uint32
	addKey                                                                      uint32 // and request_key and keyctl after it
}

// none is the number of a system call that an architecture doesn't have.
const none = ^uint32(0)

// architectures are those whose programs run on a kernel of a GOARCH: a 64-bit kernel
// takes the calls of 32-bit programs from all programs.
var architectures = map[string][]calls{
	"amd64":   {amd64, i386},
	"386":     {i386},
	"arm64":   {generic(unix.AUDIT_ARCH_AARCH64), arm},
	"arm":     {arm},
	"riscv64": {generic(unix.AUDIT_ARCH_RISCV64), generic(unix.AUDIT_ARCH_RISCV32)},
	"ppc64le": {ppc64le},
}

var (
	amd64   = calls{unix.AUDIT_ARCH_X86_64, 16, 41, 53, 302, 321, 246, 320, 304, 248}
	i386    = calls{unix.AUDIT_ARCH_I386, 54, 359, 360, 340, 357, 283, none, 342, 286}
	arm     = calls{unix.AUDIT_ARCH_ARM, 54, 281, 288, 369, 386, 347, 401, 371, 309}
	ppc64le = calls{unix.AUDIT_ARCH_PPC64LE, 54, 326, 333, 325, 361, 268, 382, 346, 269}
)

// generic has the numbers of asm-generic/unistd.h.
func generic(arch uint32) calls { return calls{arch, 29, 198, 199, 261, 280, 104, 294, 265, 217} }

// x32 is in the numbers of the system calls of x86's third kind of programs. Guix has
// none, and most kernels don't run them.
const x32 = 0x40000000

// unconfined are families of sockets that are the whole machine's.
var unconfined = []uint32{unix.AF_BLUETOOTH, unix.AF_IUCV, unix.AF_ISDN, unix.AF_NFC, unix.AF_VSOCK, unix.AF_QIPCRTR}

// filter returns the program for a GOARCH, or nothing if it is not known.
func filter(goarch string, keys bool) []unix.SockFilter {
	var f program
	if len(architectures[goarch]) == 0 {
		return nil
	}
	for _, c := range architectures[goarch] {
		f.load(archOffset)
		f.unlessEqual(c.arch, rules(&c, keys))
	}
	f.refuse(unix.ENOSYS)
	return f
}

// rules decides about the calls of one architecture.
func rules(c *calls, keys bool) program {
	var f program
	f.load(numberOffset)
	if c.arch == unix.AUDIT_ARCH_X86_64 {
		var third, allow program
		allow.allow()
		third.unlessEqual(none, allow) // a call that a debugger has taken back
		third.refuse(unix.ENOSYS)
		f.add(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, x32, 0, uint8(len(third))) //nolint:gosec // it is short
		f = append(f, third...)
	}
	for _, call := range []uint32{c.bpf, c.kexec, c.kexecFile, c.byHandle} {
		f.refuseCall(call, unix.EPERM)
	}
	if !keys {
		for n := range uint32(3) {
			f.refuseCall(c.addKey+n, unix.ENOSYS)
		}
	}
	f.refuseArgument(c.ioctl, 1, unix.EIO, unix.TIOCSTI) // as kernels with dev.tty.legacy_tiocsti=0
	f.refuseArgument(c.socket, 0, unix.EAFNOSUPPORT, unconfined...)
	f.refuseArgument(c.socketpair, 0, unix.EAFNOSUPPORT, unconfined...)
	f.refuseArgument(c.prlimit64, 0, unix.EPERM, 1)
	f.allow()
	return f
}

// Offsets in a struct seccomp_data.
const (
	numberOffset   = 0
	archOffset     = 4
	argumentOffset = 16
)

// program is a classic BPF program in the making.
type program []unix.SockFilter

func (f *program) add(code uint16, k uint32, yes, no uint8) {
	*f = append(*f, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (f *program) load(offset uint32) { f.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
func (f *program) allow()             { f.add(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW, 0, 0) }

func (f *program) refuse(errno unix.Errno) {
	f.add(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(errno), 0, 0) //nolint:gosec // a small number
}

// unlessEqual goes on with then if what was loaded is k, else after it.
func (f *program) unlessEqual(k uint32, then program) {
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, uint8(len(then))) //nolint:gosec // it is short
	*f = append(*f, then...)
}

func (f *program) refuseCall(call uint32, errno unix.Errno) {
	if call == none {
		return
	}
	var then program
	then.refuse(errno)
	f.unlessEqual(call, then)
}

// refuseArgument refuses a call if the lower half of an argument is one of some values.
// The kernel sees no more of an int. All architectures here are little-endian.
func (f *program) refuseArgument(call, argument uint32, errno unix.Errno, values ...uint32) {
	var then program
	then.load(argumentOffset + 8*argument)
	for _, v := range values {
		then.refuseCall(v, errno)
	}
	then.allow()
	f.unlessEqual(call, then)
}

// confine sets the filter for this thread and what it starts. A kernel without filters
// has none; guix-daemon never has one.
func confine() {
	f := filter(runtime.GOARCH, newKeyring())
	if len(f) == 0 {
		return
	}
	fprog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]} //nolint:gosec // it is short
	// Without the flag, older kernels slow programs with filters down.
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&fprog)))
	if errno == unix.EINVAL { // before Linux 4.17
		_, _, errno = unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	}
	if errno != 0 && errno != unix.ENOSYS && errno != unix.EINVAL {
		fail(Failed, "set the filter of system calls", errno)
	}
}

// newKeyring leaves the session keyring of the starter, with the keys of a person
// perhaps. It reports whether that could be done: another build of the same user may
// have used up the user's quota of keys.
func newKeyring() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	return errno == 0
}
