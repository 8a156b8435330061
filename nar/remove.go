package nar

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// RemoveAll deletes the file, symlink or tree at path, even where its folders are
// read-only, as those of store items are, or not readable at all. It follows no
// symlink in the tree. That nothing is there is no error. The tree may be deeper
// than any path can say. Where something can't be deleted, such as a file that is in use on
// NFS, it deletes what else it can, and returns the first error.
func RemoveAll(path string) error {
	parent, base, err := openParent(path)
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.close()
	return removeTree(parent, base)
}

// flattenDepth is how many folders removeTree holds open. What is deeper is moved
// up to the tree's root first.
const flattenDepth = 64

// remover is one run of removeTree.
type remover struct {
	root  openFolder
	moved int // how many folders were moved up
}

// removeTree deletes name in parent and everything in it.
func removeTree(parent openFolder, name string) error {
	err := parent.unlink(name, 0)
	if err == nil || isNotExist(err) {
		return nil
	}
	if st, statErr := parent.stat(name); statErr != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	root, err := openWritable(parent, name)
	if err != nil {
		return err
	}
	defer root.close()
	r := &remover{root: root}
	for {
		before := r.moved
		err := r.empty(root, 1)
		if r.moved > before {
			continue
		}
		if err != nil {
			return err
		}
		return parent.unlink(name, unix.AT_REMOVEDIR)
	}
}

// empty deletes everything in d, and returns the first error.
func (r *remover) empty(d openFolder, depth int) error {
	names, first := d.names()
	for _, name := range names {
		if err := r.remove(d, name, depth); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (r *remover) remove(d openFolder, name string, depth int) error {
	err := d.unlink(name, 0)
	if err == nil || isNotExist(err) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if d.unlink(name, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	child, openErr := openWritable(d, name)
	if errors.Is(openErr, unix.ENOTDIR) || errors.Is(openErr, unix.ELOOP) {
		return err // a file that can't be deleted
	}
	if openErr != nil {
		return openErr
	}
	defer child.close()
	if depth >= flattenDepth {
		return r.moveUp(d, name)
	}
	if err := r.empty(child, depth+1); err != nil {
		return err
	}
	return d.unlink(name, unix.AT_REMOVEDIR)
}

// moveUp moves a folder to the root of the tree, under a name that is free there.
func (r *remover) moveUp(d openFolder, name string) error {
	for {
		r.moved++
		err := d.rename(name, r.root, fmt.Sprintf(".removing-%d", r.moved))
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
}

// openWritable opens a folder after making it accessible to its owner.
func openWritable(parent openFolder, name string) (openFolder, error) {
	d, err := parent.ownFolder(name)
	if errors.Is(err, unix.EACCES) {
		if err := parent.chmod(name, 0o700); err != nil {
			return d, err
		}
		d, err = parent.ownFolder(name)
	}
	if err != nil {
		return d, err
	}
	if err := d.chmodSelf(0o700); err != nil {
		d.close()
		return d, err
	}
	return d, nil
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
