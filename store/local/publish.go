package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"lighter/nar"
	"lighter/store"
)

// finished is an item that is complete and checked, and not visible yet.
type finished struct {
	info *store.Info
	// tree is where its contents are, canonical, on the store's file system; empty
	// once they have moved.
	tree string

	state []byte // see nar.Item's NARState

	data string // its name in store/, once it is placed
	note string // its info file in tmp/, once that is written
}

// publish makes items valid, in order: an item may refer to earlier ones. A lease
// must hold them and what they refer to. It returns what is known of each; that is older
// if an item has become valid meanwhile. The trees are gone afterwards. An error is about
// the item after the last one returned; earlier ones are valid.
func (i *items) publish(ctx context.Context, items []*finished) ([]*store.Info, error) {
	infos, err := i.publishAll(ctx, items)
	for _, it := range items {
		err = errors.Join(err, it.discard(i.layout))
	}
	return infos, i.layout.explainSpace(err)
}

func (i *items) publishAll(ctx context.Context, items []*finished) ([]*store.Info, error) {
	for _, it := range items {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := i.prepare(it); err != nil {
			return nil, fmt.Errorf("publish %s: %w", it.info.Path, err)
		}
	}
	if !i.noSync {
		if err := i.syncer.sync(); err != nil {
			return nil, fmt.Errorf("publish %s: %w", items[0].info.Path, err)
		}
	}
	infos := make([]*store.Info, 0, len(items))
	for _, it := range items {
		info, err := i.reveal(ctx, it)
		if err != nil {
			return infos, fmt.Errorf("publish %s: %w", it.info.Path, err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// prepare moves an item's tree to its place and writes its info file under tmp/.
func (i *items) prepare(it *finished) error {
	if err := it.place(i.layout); err != nil {
		return err
	}
	it.info.Registered = time.Now().UTC().Truncate(time.Millisecond)
	it.info.References = slices.Clone(it.info.References)
	slices.Sort(it.info.References)
	r := &record{Info: *it.info, NARState: it.state}
	if base := it.info.Path.Base(); it.data != base {
		r.Data = it.data
	}
	text, err := r.encode()
	if err != nil {
		return err
	}
	note, err := i.claims.tmpName()
	if err != nil {
		return err
	}
	it.note = note
	return writeNew(note, text)
}

// place moves a tree to store/, under the item's own name if that is free.
func (it *finished) place(l layout) error {
	folder, err := unlock(it.tree)
	if err != nil {
		return err
	}
	base := it.info.Path.Base()
	it.data = base
	err = renameNew(it.tree, l.data(it.data))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, errors.ErrUnsupported) {
		it.data = otherName(base)
		err = os.Rename(it.tree, l.data(it.data))
	}
	if err != nil {
		it.data = ""
		return err
	}
	it.tree = ""
	if folder {
		return lock(l.data(it.data))
	}
	return nil
}

// unlock makes a tree's top writable if it is a folder, and reports whether it is.
// Moving a folder into another one takes the right to write to it.
func unlock(tree string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(tree, &st); err != nil {
		return false, &fs.PathError{Op: "stat", Path: tree, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, nil
	}
	return true, nar.Chmod(tree, 0o755)
}

// lock makes a folder what it was before unlock.
func lock(folder string) error {
	if err := nar.Chmod(folder, 0o555); err != nil {
		return err
	}
	storeTime := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, folder, storeTime, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: folder, Err: err}
	}
	return nil
}

// reveal links the info file. If the item is already valid, it leaves everything to
// discard.
func (i *items) reveal(ctx context.Context, it *finished) (*store.Info, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := linkNew(it.note, i.layout.info(it.info.Path.Base()))
		if err == nil {
			it.data = ""
			return (&record{Info: *it.info}).copyInfo(), nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		old, err := i.record(ctx, it.info.Path)
		switch {
		case err == nil:
			return old.copyInfo(), nil
		case !errors.Is(err, store.ErrNotValid):
			return nil, err
		}
		// It was deleted after the attempt to link.
	}
}

// discard removes what is left of an item, whether it was published or not.
func (it *finished) discard(l layout) error {
	var errs []error
	if it.tree != "" {
		errs = append(errs, nar.RemoveAll(it.tree))
	}
	if it.data != "" {
		errs = append(errs, nar.RemoveAll(l.data(it.data)))
	}
	if it.note != "" {
		errs = append(errs, remove(it.note))
	}
	it.tree, it.data, it.note = "", "", ""
	return errors.Join(errs...)
}
