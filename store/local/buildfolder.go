package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"lighter/nar"
	"lighter/store"
)

// buildFolder is the folder of a build: the sandbox's root is mounted over root, which is
// empty; tmp is /tmp inside; store is the store directory.
type buildFolder struct {
	layout layout
	name   string
	drv    string // "NAME.drv"
	user   buildUser
	users  *userPool // to which the user is given back
}

// makeFolder makes the folder of a build of the derivation named drv, "NAME.drv".
func (s *sandboxes) makeFolder(drv string) (buildFolder, error) {
	name, err := s.claims.ownName()
	if err != nil {
		return buildFolder{}, err
	}
	user, err := s.takeUser()
	if err != nil {
		return buildFolder{}, err
	}
	layout := s.claims.layout
	f := buildFolder{layout: layout, name: filepath.Join(layout.builds(), name), drv: drv, user: user, users: &s.users}
	for _, folder := range []struct {
		name string
		mode fs.FileMode
	}{{f.name, 0o700}, {f.root(), 0o700}, {f.store(), 0o755}, {f.tmp(), 0o777}, {f.top(), 0o700}} {
		if err := os.Mkdir(folder.name, folder.mode); err != nil {
			return buildFolder{}, errors.Join(err, f.remove())
		}
	}
	if err := f.makeAccessible(); err != nil {
		return buildFolder{}, errors.Join(err, f.remove())
	}
	return f, nil
}

// makeAccessible gives the builder the folders that it writes to.
func (f buildFolder) makeAccessible() error {
	if err := os.Chmod(f.tmp(), fs.ModeSticky|0o777); err != nil {
		return err
	}
	if u := f.user; u.change {
		if err := os.Lchown(f.store(), int(u.uid), int(u.gid)); err != nil {
			return err
		}
		return os.Lchown(f.top(), int(u.uid), int(u.gid))
	}
	return nil
}

func (f buildFolder) root() string  { return filepath.Join(f.name, "root") }
func (f buildFolder) tmp() string   { return filepath.Join(f.name, "tmp") }
func (f buildFolder) store() string { return filepath.Join(f.name, "store") }

// output returns where an output is after the build.
func (f buildFolder) output(p store.Path) string { return filepath.Join(f.store(), p.Base()) }

// copied returns where an output's copy is. Nobody else ever had access to that.
func (f buildFolder) copied(p store.Path) string {
	return filepath.Join(f.name, "copy-of-"+p.HashPart())
}

// top is where the builder starts; topInside is its name inside.
func (f buildFolder) top() string       { return filepath.Join(f.tmp(), filepath.Base(f.topInside())) }
func (f buildFolder) topInside() string { return "/tmp/guix-build-" + f.drv + "-0" }

// removeTries is how often the removal of a folder is tried in which files are still being
// made and swapped.
const removeTries = 20

func (f buildFolder) remove() error {
	if f.user.change {
		defer f.users.giveBack(f.user.uid)
	}
	var err error
	for range removeTries {
		if err = nar.RemoveAll(f.name); err == nil {
			break
		}
	}
	return err
}

// keep moves the folder in which the builder was started to failed/.
func (f buildFolder) keep() (string, error) {
	if _, err := unlock(f.top()); err != nil {
		return "", err
	}
	for n := 0; ; n++ {
		kept := filepath.Join(f.layout.failed(), f.drv+"-"+strconv.Itoa(n))
		// Rename alone would replace an empty folder.
		if _, err := os.Lstat(kept); err == nil {
			continue
		}
		err := renameNew(f.top(), kept)
		if errors.Is(err, errors.ErrUnsupported) {
			err = os.Rename(f.top(), kept)
		}
		if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
			continue
		}
		if err != nil {
			return "", err
		}
		return kept, nil
	}
}

// tryFile makes a small file and removes it.
func (f buildFolder) tryFile() error {
	name := filepath.Join(f.name, "try")
	err := writeNew(name, make([]byte, 4096))
	_ = os.Remove(name) // the folder is about to go
	return err
}

// mountPoints makes what inputs are mounted over, and a symlink for each input that is
// one: symlinks can't be mounted. It returns the other inputs.
func (b *build) mountPoints() (items []*record, err error) {
	for _, r := range b.inputs {
		if b.isOutput(r.Path) {
			continue // partly built before; the builder makes its own
		}
		data := b.store.layout.data(r.data())
		point := b.folder.output(r.Path)
		var st unix.Stat_t
		if err := unix.Lstat(data, &st); err != nil {
			return nil, &fs.PathError{Op: "stat", Path: data, Err: err}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			var target string
			if target, err = os.Readlink(data); err == nil {
				err = os.Symlink(target, point)
			}
		case unix.S_IFDIR:
			items = append(items, r)
			err = os.Mkdir(point, 0o755)
		default:
			items = append(items, r)
			err = writeNew(point, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("prepare the input %s: %w", r.Path, err)
		}
	}
	return items, nil
}

func (b *build) isOutput(p store.Path) bool {
	for _, o := range b.drv.Outputs {
		if o.Path == p {
			return true
		}
	}
	return false
}
