package sshtransport

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"
)

// DirectoryError says why a folder on a machine can't have the agent. It matches its Errno.
type DirectoryError struct {
	Dir    string        // perhaps relative to the home
	Errno  syscall.Errno // EROFS, EDQUOT, ENOSPC or EACCES; EACCES for NoExec
	NoExec bool          // no program can be run from there
	Mount  string        // what is mounted so; empty where that is not known
	Cause  error
}

func (e *DirectoryError) Error() string {
	if e.NoExec {
		return fmt.Sprintf("no program can be run from %s: %s is mounted noexec", e.Dir, e.Mount)
	}
	return fmt.Sprintf("%s: %v (%v)", e.Dir, e.Errno, e.Cause)
}

// Unwrap returns the Errno and the cause.
func (e *DirectoryError) Unwrap() []error { return []error{e.Errno, e.Cause} }

// tellDirectory makes an error of what a command said about a folder.
func tellDirectory(err error, dir string) error {
	var failed *CommandError
	if !errors.As(err, &failed) {
		return err
	}
	for _, errno := range []syscall.Errno{syscall.EDQUOT, syscall.EROFS, syscall.ENOSPC, syscall.EACCES} {
		// Go has the words of the C library, but for their capitals.
		if strings.Contains(strings.ToLower(failed.Stderr), errno.Error()) {
			return &DirectoryError{Dir: dir, Errno: errno, Cause: err}
		}
	}
	return err
}

// maxMounts bounds the list of a machine's mounts, in bytes.
const maxMounts = 8 << 20

// mountsScript prints the folder $0 without symlinks in its name, and the kernel's list of mounts.
const mountsScript = `cd "$0" && printf '\nlighter-agent/1 content\n' && pwd -P && exec cat /proc/self/mountinfo`

// whyNotRun returns why no program can be run from a folder, or err if that is not known.
func (l *link) whyNotRun(err error, dir string) error {
	c, scriptErr := l.script(mountsScript, dir)
	if scriptErr != nil {
		return err
	}
	defer c.close()
	if c.expect(magicContent) != nil {
		return err
	}
	text, readErr := readAtMost(c.stdout, maxMounts)
	if readErr != nil {
		return err
	}
	real, mounts, _ := strings.Cut(text, "\n")
	if mount, options := mountOf(mounts, real); strings.Contains(","+options+",", ",noexec,") {
		return &DirectoryError{Dir: printable(dir), Errno: syscall.EACCES, NoExec: true, Mount: printable(mount), Cause: err}
	}
	return err
}

// mountOf returns where the mount is that a folder is on, and its options, by a list as
// proc_pid_mountinfo(5) describes it.
func mountOf(mounts, dir string) (mount, options string) {
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		// One that is mounted later hides those before it.
		if at := unescapeMount(fields[4]); isBelow(dir, at) && len(at) >= len(mount) {
			mount, options = at, fields[5]
		}
	}
	return mount, options
}

func isBelow(name, dir string) bool {
	return dir == "/" || name == dir || strings.HasPrefix(path.Clean(name), dir+"/")
}

// unescapeMount replaces octal escapes such as \040.
func unescapeMount(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
