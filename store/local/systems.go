package local

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Personalities of Linux (linux/personality.h).
const (
	personalityLinux32        = 0x0008
	personalityNoRandomize    = 0x0040000
	personalityAsIs           = 0xffffffff
	firstMachineOf32BitOnAArm = "armhf-linux"
)

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
			return []string{"aarch64-linux", firstMachineOf32BitOnAArm}
		}
		return []string{"aarch64-linux"}
	case "ppc64le":
		return []string{"powerpc64le-linux"}
	default:
		if strings.HasPrefix(machine, "armv7") || strings.HasPrefix(machine, "armv8") {
			return []string{firstMachineOf32BitOnAArm}
		}
		return []string{machine + "-linux"}
	}
}
