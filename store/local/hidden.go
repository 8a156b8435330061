package local

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"lighter/store/local/sandbox"
)

// CheckSandboxPath returns an error if builds may not see a file or folder of this machine:
// it is not there, or it would show the store's folder or one of Options.Hidden.
func (s *Store) CheckSandboxPath(outside string) error {
	v, err := s.view()
	if err == nil {
		_, err = v.outside(outside)
	}
	return err
}

// view is what is mounted where, at one moment, and where the agent's own files are in it.
type view struct {
	mounts mounts
	own    []ownSpots
}

// ownSpots are the places of one of the agent's own files and folders.
type ownSpots struct {
	name  string
	spots []spot
}

func (s *Store) view() (*view, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	v := &view{mounts: mounts}
	for _, name := range append([]string{s.layout.root}, s.opts.Hidden...) {
		v.own = append(v.own, ownSpots{name, mounts.below(realName(name))})
	}
	return v, nil
}

// outside finds what a sandbox path names, and identifies it: whoever mounts it checks that
// it is still the same.
func (v *view) outside(name string) (sandbox.Bind, error) {
	var b sandbox.Bind
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return b, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return b, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return b, err
	}
	for _, p := range v.mounts.below(real) {
		for _, own := range v.own {
			if slices.ContainsFunc(own.spots, p.overlaps) {
				return b, fmt.Errorf("%s would show %s, which is the agent's own", name, own.name)
			}
		}
	}
	b.Outside, b.Device, b.Inode = real, st.Dev, st.Ino
	return b, nil
}

// realName returns a name without symlinks, as far as it exists.
func realName(name string) string {
	real, err := filepath.EvalSymlinks(name)
	if err == nil {
		return real
	}
	if dir := filepath.Dir(name); errors.Is(err, os.ErrNotExist) && dir != name {
		return filepath.Join(realName(dir), filepath.Base(name))
	}
	return name
}

// spot is a place in a file system, however that is mounted.
type spot struct{ device, name string }

// overlaps reports whether one is the other, or in it.
func (s spot) overlaps(t spot) bool {
	return s.device == t.device && (within(s.name, t.name) || within(t.name, s.name))
}

func within(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// mount is a line of /proc/self/mountinfo (proc(5)).
type mount struct {
	spot  // what is mounted
	point string
}

type mounts []mount

func readMounts() (mounts, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list mounts
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 5 {
			list = append(list, mount{spot{fields[2], sandbox.Unescape(fields[3])}, sandbox.Unescape(fields[4])})
		}
	}
	return list, nil
}

// below returns what can be seen at and below a name, which has no symlinks.
func (m mounts) below(name string) []spot {
	var at mount
	var spots []spot
	for _, x := range m {
		switch {
		case within(name, x.point) && len(x.point) >= len(at.point):
			at = x // of several at one point, the last is on top
		case within(x.point, name):
			spots = append(spots, x.spot)
		}
	}
	rest := strings.TrimPrefix(name, at.point)
	return append(spots, spot{at.device, path.Join("/", at.name, rest)})
}
