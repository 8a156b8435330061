package local

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Personalities of Linux (linux/personality.h).
const (
	personalityLinux32     = 0x0008
	personalityNoRandomize = 0x0040000
	personalityUnchanged   = 0xffffffff
)

const armhf = "armhf-linux"

// Systems returns the systems that the store can build for, the native one first:
// those of the kernel and Options.Systems.
func (s *Store) Systems() []string {
	systems := machineSystems()
	for _, extra := range s.opts.Systems {
		if !slices.Contains(systems, extra) {
			systems = append(systems, extra)
		}
	}
	return systems
}

// machineSystems returns the systems whose programs the kernel runs by itself.
func machineSystems() []string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil
	}
	switch machine := unix.ByteSliceToString(u.Machine[:]); machine {
	case "x86_64":
		if runsI386() {
			return []string{"x86_64-linux", "i686-linux"}
		}
		return []string{"x86_64-linux"}
	case "i386", "i486", "i586", "i686":
		return []string{"i686-linux"}
	case "aarch64":
		if runs32Bit() {
			return []string{"aarch64-linux", armhf}
		}
		return []string{"aarch64-linux"}
	case "ppc64le":
		return []string{"powerpc64le-linux"}
	default:
		if strings.HasPrefix(machine, "armv7") || strings.HasPrefix(machine, "armv8") {
			return []string{armhf}
		}
		return []string{machine + "-linux"}
	}
}

// runs32Bit reports whether a 64-bit ARM processor runs 32-bit programs. The kernel
// refuses their personality where it does not.
var runs32Bit = sync.OnceValue(func() bool {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, _, errno := unix.Syscall(unix.SYS_PERSONALITY, personalityUnchanged, 0, 0)
	if errno != 0 {
		return false
	}
	_, _, refused := unix.Syscall(unix.SYS_PERSONALITY, personalityLinux32, 0, 0)
	_, _, _ = unix.Syscall(unix.SYS_PERSONALITY, old, 0, 0)
	return refused == 0
})

// runsI386 reports whether a 64-bit x86 kernel runs 32-bit programs: it may have been made
// without support for them, or started with ia32_emulation=0.
var runsI386 = sync.OnceValue(func() bool { return runs(i386Program) })

// runs reports whether the kernel runs a program, by running it.
func runs(program []byte) bool {
	fd, err := unix.MemfdCreate("i386", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("i386", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return true // nothing is known
	}
	file := os.NewFile(uintptr(fd), "i386")
	defer file.Close()
	if _, err := file.Write(program); err != nil {
		return true
	}
	process, err := os.StartProcess("/proc/self/fd/"+strconv.Itoa(fd), []string{"i386"}, &os.ProcAttr{Env: []string{}})
	if err != nil {
		return !errors.Is(err, unix.ENOEXEC)
	}
	state, err := process.Wait()
	return err != nil || state.Success()
}

// i386Program is an ELF file of one segment: mov $1, %eax; xor %ebx, %ebx; int $0x80.
var i386Program = []byte("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x02\x00\x03\x00\x01\x00\x00\x00\x54\x80\x04\x08\x34\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x34\x00\x20\x00\x01\x00\x00\x00\x00\x00\x00\x00" +
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x80\x04\x08\x00\x80\x04\x08\x5d\x00\x00\x00\x5d\x00\x00\x00\x05\x00\x00\x00\x00\x10\x00\x00" +
	"\xb8\x01\x00\x00\x00\x31\xdb\xcd\x80")

// personality returns the personality of builders for a system: without randomized
// addresses, and for the 32-bit systems of 64-bit machines with what makes uname say so.
func personality(system string) uint32 {
	if (system == "i686-linux" || system == armhf) && machineSystems()[0] != system {
		return personalityNoRandomize | personalityLinux32
	}
	return personalityNoRandomize
}
