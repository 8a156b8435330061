package local

import (
	"runtime"
	"slices"
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
		return []string{"x86_64-linux", "i686-linux"}
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

// personality returns the personality of builders for a system: no randomized
// addresses, and for the 32-bit systems of 64-bit machines what makes uname say so.
func personality(system string) uint32 {
	if (system == "i686-linux" || system == armhf) && machineSystems()[0] != system {
		return personalityNoRandomize | personalityLinux32
	}
	return personalityNoRandomize
}
