package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestFilter asks the filter of each architecture, with an interpreter of its own.
func TestFilter(t *testing.T) {
	const allowed = unix.Errno(0)
	for goarch, list := range architectures {
		f := filter(goarch, true)
		if len(f) > 200 {
			t.Errorf("%s: %d instructions", goarch, len(f))
		}
		for _, c := range list {
			for _, tt := range []struct {
				what string
				call uint32
				args [6]uint64
				want unix.Errno
			}{
				{"socket(AF_INET)", c.socket, [6]uint64{unix.AF_INET}, allowed},
				{"socket(AF_UNIX)", c.socket, [6]uint64{unix.AF_UNIX}, allowed},
				{"socket(AF_ALG)", c.socket, [6]uint64{unix.AF_ALG}, allowed},
				{"socket(AF_VSOCK)", c.socket, [6]uint64{unix.AF_VSOCK, 1}, unix.EAFNOSUPPORT},
				{"socket(AF_VSOCK) with a high half", c.socket, [6]uint64{unix.AF_VSOCK | 1<<32}, unix.EAFNOSUPPORT},
				{"socketpair(AF_VSOCK)", c.socketpair, [6]uint64{unix.AF_VSOCK}, unix.EAFNOSUPPORT},
				{"ioctl(TCGETS)", c.ioctl, [6]uint64{0, unix.TCGETS}, allowed},
				{"ioctl(TIOCSTI)", c.ioctl, [6]uint64{0, unix.TIOCSTI}, unix.EIO},
				{"ioctl(TIOCSTI) with a high half", c.ioctl, [6]uint64{0, unix.TIOCSTI | 1<<63}, unix.EIO},
				{"ioctl of a descriptor like TIOCSTI", c.ioctl, [6]uint64{unix.TIOCSTI, 0}, allowed},
				{"prlimit(0)", c.prlimit64, [6]uint64{0}, allowed},
				{"prlimit(1)", c.prlimit64, [6]uint64{1}, unix.EPERM},
				{"prlimit(2)", c.prlimit64, [6]uint64{2}, allowed},
				{"bpf", c.bpf, [6]uint64{}, unix.EPERM},
				{"kexec_load", c.kexec, [6]uint64{}, unix.EPERM},
				{"kexec_file_load", c.kexecFile, [6]uint64{}, unix.EPERM},
				{"open_by_handle_at", c.byHandle, [6]uint64{}, unix.EPERM},
				{"keyctl", c.addKey + 2, [6]uint64{}, allowed},
				{"a call taken back", none, [6]uint64{}, allowed},
			} {
				if tt.call == none && tt.want != allowed {
					continue
				}
				if got := run1(t, f, c.arch, tt.call, tt.args); got != tt.want {
					t.Errorf("%s, %#x: %s: %v, want %v", goarch, c.arch, tt.what, got, tt.want)
				}
			}
			keyless := filter(goarch, false)
			for n := range uint32(3) {
				if got := run1(t, keyless, c.arch, c.addKey+n, [6]uint64{}); got != unix.ENOSYS {
					t.Errorf("%s, %#x: key call %d: %v", goarch, c.arch, n, got)
				}
			}
		}
		if got := run1(t, f, 0x1234, 1, [6]uint64{}); got != unix.ENOSYS {
			t.Errorf("%s: an unknown architecture: %v", goarch, got)
		}
	}
	for _, call := range []uint32{x32, x32 | 41, x32 | 514} {
		if got := run1(t, filter("amd64", true), unix.AUDIT_ARCH_X86_64, call, [6]uint64{}); got != unix.ENOSYS {
			t.Errorf("x32 call %#x: %v", call, got)
		}
	}
	if filter("sparc64", true) != nil {
		t.Error("a filter for an unknown architecture")
	}
}

// run1 returns what a filter says of one call.
func run1(t *testing.T, f []unix.SockFilter, arch, call uint32, args [6]uint64) unix.Errno {
	t.Helper()
	data := []uint32{call, arch, 0, 0}
	for _, arg := range args {
		data = append(data, uint32(arg), uint32(arg>>32))
	}
	var loaded uint32
	for pc := 0; pc < len(f); pc++ {
		in := f[pc]
		jump := false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			loaded = data[in.K/4]
			continue
		case unix.BPF_RET | unix.BPF_K:
			if in.K == unix.SECCOMP_RET_ALLOW {
				return 0
			}
			return unix.Errno(in.K &^ unix.SECCOMP_RET_ERRNO)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump = loaded == in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump = loaded >= in.K
		default:
			t.Fatalf("instruction %d has code %#x", pc, in.Code)
		}
		if jump {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	t.Fatal("the filter runs off its end")
	return 0
}
