package sandbox

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// devices are bound from outside, where they are there.
var devices = []string{"full", "kvm", "null", "random", "tty", "urandom", "zero"}

// links are symlinks in the sandbox.
var links = []Bind{
	{Outside: "/proc/self/fd", Inside: "/dev/fd"},
	{Outside: "/proc/self/fd/0", Inside: "/dev/stdin"},
	{Outside: "/proc/self/fd/1", Inside: "/dev/stdout"},
	{Outside: "/proc/self/fd/2", Inside: "/dev/stderr"},
	{Outside: "/dev/pts/ptmx", Inside: "/dev/ptmx"},
}

// mount makes the sandbox's tree at Root. In the end all of it is read-only except
// the store directory, /tmp and /dev/shm.
func (s *stage) mount() {
	unix.Umask(0)
	s.root = s.Root
	// Otherwise mounts made here would appear outside, where the root is shared.
	must("make all mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must("mount the root", unix.Mount("tmpfs", s.root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"))
	for _, folder := range []string{s.StoreDir, "/dev/pts", "/dev/shm", "/proc", "/tmp"} {
		s.mkdir(folder)
	}
	for _, l := range links {
		must("make "+l.Inside, unix.Symlink(l.Outside, s.root+l.Inside))
	}
	for _, f := range s.Files {
		s.write(f)
	}
	for _, name := range devices {
		s.device("/dev/" + name)
	}
	for _, b := range s.Paths {
		s.path(b)
	}
	must("open the store to the builder", unix.Mount(s.Store, s.root+s.StoreDir, "", unix.MS_BIND, ""))
	for _, b := range s.Items {
		target := s.root + s.StoreDir + "/" + b.Inside
		if err := unix.Mount(b.Outside, target, "", unix.MS_BIND, ""); err != nil {
			fail(Failed, "mount "+b.Outside, err)
		}
	}
	shm := s.root + "/dev/shm"
	must("mount /dev/shm", unix.Mount(shm, shm, "", unix.MS_BIND, ""))
	must("set the mode of /dev/shm", unix.Chmod(shm, 0o1777))
	s.protect(s.root+s.StoreDir, shm)

	must("mount /tmp", unix.Mount(s.Tmp, s.root+"/tmp", "", unix.MS_BIND, ""))
	must("mount /dev/pts", unix.Mount("devpts", s.root+"/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"))
	must("mount /proc", unix.Mount("proc", s.root+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
}

// enter makes the tree the root, and leaves nothing of the old one.
func (s *stage) enter() {
	must("enter the sandbox's root", unix.Chdir(s.root))
	must("change the root", unix.PivotRoot(".", "."))
	must("unmount the old root", unix.Unmount(".", unix.MNT_DETACH))
	must("enter the root", unix.Chdir("/"))
}

// mkdir makes a folder and its parents.
func (s *stage) mkdir(inside string) {
	if inside == "/" {
		return
	}
	switch err := unix.Mkdir(s.root+inside, 0o755); err {
	case nil, unix.EEXIST:
	case unix.ENOENT:
		s.mkdir(parent(inside))
		s.mkdir(inside)
	default:
		fail(Failed, "make the folder "+inside, err)
	}
}

func (s *stage) write(f File) {
	s.mkdir(parent(f.Inside))
	fd, err := unix.Open(s.root+f.Inside, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	must("make "+f.Inside, err)
	if n, err := unix.Write(fd, []byte(f.Contents)); err != nil || n != len(f.Contents) {
		fail(Failed, "write "+f.Inside, err)
	}
	_ = unix.Close(fd)
}

// touch makes an empty file to mount something over, unless there is one.
func (s *stage) touch(inside string) {
	fd, err := unix.Open(s.root+inside, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	must("make "+inside, err)
	_ = unix.Close(fd)
}

func (s *stage) device(name string) {
	if unix.Access(name, unix.F_OK) == unix.ENOENT {
		return
	}
	s.touch(name)
	must("mount "+name, unix.Mount(name, s.root+name, "", unix.MS_BIND, ""))
}

// path binds a file or folder with all that is mounted in it: a part could show
// what the mounts hide, so the kernel only allows the whole. Where a place is in
// another of Paths, it must exist there, since nothing may be made outside.
//
// It mounts what it has opened and looked at: by now the name may lead elsewhere.
func (s *stage) path(b Bind) {
	fd, err := unix.Open(b.Outside, unix.O_PATH|unix.O_CLOEXEC, 0)
	must("find "+b.Outside, err)
	var st unix.Stat_t
	must("find "+b.Outside, unix.Fstat(fd, &st))
	if b.Inode != 0 && (st.Dev != b.Device || st.Ino != b.Inode) {
		fail(Failed, b.Outside+" was replaced", unix.ESTALE)
	}
	if !s.within(b.Inside) {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			s.mkdir(b.Inside)
		} else {
			s.mkdir(parent(b.Inside))
			s.touch(b.Inside)
		}
	}
	opened := "/proc/self/fd/" + strconv.Itoa(fd)
	must("mount "+b.Outside+" at "+b.Inside, unix.Mount(opened, s.root+b.Inside, "", unix.MS_BIND|unix.MS_REC, ""))
	_ = unix.Close(fd)
}

// within reports whether a place is in one of Paths.
func (s *stage) within(inside string) bool {
	for _, b := range s.Paths {
		if strings.HasPrefix(inside, b.Inside+"/") {
			return true
		}
	}
	return false
}

// protect makes all mounts of the sandbox read-only except those given.
func (s *stage) protect(writable ...string) {
	err := unix.MountSetattr(unix.AT_FDCWD, s.root, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID})
	if err == unix.ENOSYS { // before Linux 5.12
		s.protectEach(writable)
		return
	}
	must("make the sandbox read-only", err)
	for _, name := range writable {
		must("make "+name+" writable", unix.MountSetattr(unix.AT_FDCWD, name, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	}
}

// protectEach does protect's work mount by mount.
func (s *stage) protectEach(writable []string) {
	text, err := readFile("/proc/self/mountinfo")
	must("read /proc/self/mountinfo", err)
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		name := Unescape(fields[4])
		if name != s.root && !strings.HasPrefix(name, s.root+"/") {
			continue
		}
		flags := remountFlags(fields[5])
		if !slices.Contains(writable, name) {
			flags |= unix.MS_RDONLY
		}
		must("remount "+name, unix.Mount("", name, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|flags, ""))
	}
}

// remountFlags returns the flags that a mount has and that a remount must repeat,
// since a user namespace may not drop them.
func remountFlags(options string) uintptr {
	var flags uintptr
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "nodev":
			flags |= unix.MS_NODEV
		case "noexec":
			flags |= unix.MS_NOEXEC
		case "noatime":
			flags |= unix.MS_NOATIME
		case "nodiratime":
			flags |= unix.MS_NODIRATIME
		case "relatime":
			flags |= unix.MS_RELATIME
		}
	}
	return flags
}

// Unescape undoes the octal escapes of mountinfo.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func readFile(name string) (string, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var text []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return string(text), err
		}
		text = append(text, buf[:n]...)
	}
}
