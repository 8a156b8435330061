package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/backoff"
	"lighter/store"
)

// maxRecord bounds the size of an info file, in bytes.
const maxRecord = 64 << 20

// record is what an info file holds. A record in use is never changed.
type record struct {
	store.Info
	// Data is the item's name in store/, if it is not the item's own.
	Data string `json:"data,omitempty"`
	// NARState saves exports from hashing the NAR: see nar.Item.
	NARState []byte `json:"narState,omitempty"`
}

// data returns the item's name in store/.
func (r *record) data() string {
	if r.Data != "" {
		return r.Data
	}
	return r.Path.Base()
}

func (r *record) copyInfo() *store.Info {
	info := r.Info
	info.References = slices.Clone(info.References)
	return &info
}

// encode returns the info file's text.
func (r *record) encode() ([]byte, error) {
	text, err := json.Marshal(r)
	return append(text, '\n'), err
}

// decodeRecord reads the info file of the item with the given base name.
func decodeRecord(dir store.Dir, base string, text []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, err
	}
	path, err := dir.Path(base)
	if err != nil {
		return nil, err
	}
	if r.Path != path {
		return nil, fmt.Errorf("it is about %q", r.Path)
	}
	if r.Data != "" && !isOtherName(r.Data, base) {
		return nil, fmt.Errorf("it says that the item's data is in %q", r.Data)
	}
	for _, ref := range r.References {
		if ref.Dir() != dir {
			return nil, fmt.Errorf("it has the reference %q to another store", ref)
		}
	}
	return r, nil
}

// items are the valid items of the store: what is known of them, and how more become valid.
type items struct {
	layout layout
	claims *claims
	trash  *trash
	cache  recordCache
	syncer syncer
	noSync bool
}

// record returns what is known of a valid item. If a garbage collection is deciding
// on it, it waits for the verdict.
func (i *items) record(ctx context.Context, path store.Path) (*record, error) {
	var r *record
	err := i.ask(ctx, path, func() (err error) {
		r, err = i.read(path.Base())
		return err
	})
	return r, err
}

// requireValid returns an error that names the first of the items that is not valid.
func (i *items) requireValid(ctx context.Context, paths []store.Path) error {
	for _, p := range paths {
		switch ok, err := i.isValid(ctx, p); {
		case err != nil:
			return err
		case !ok:
			return store.NotValid(p)
		}
	}
	return nil
}

// isValid reports whether an item is valid, without reading what is known of it.
func (i *items) isValid(ctx context.Context, path store.Path) (bool, error) {
	err := i.ask(ctx, path, func() error {
		ok, err := exists(i.layout.info(path.Base()))
		if err == nil && !ok {
			err = fs.ErrNotExist
		}
		return err
	})
	if errors.Is(err, store.ErrNotValid) {
		return false, nil
	}
	return err == nil, err
}

// ask calls look, and again while the item is missing only because of a pending verdict. It
// returns an error that matches store.ErrNotValid if it is missing for good.
func (i *items) ask(ctx context.Context, path store.Path, look func() error) error {
	if path.Dir() != i.layout.dir {
		return fmt.Errorf("%w, which is %s", store.NotValid(path), i.layout.dir)
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := look(); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		pending, err := i.trash.verdictPending(path.Base())
		if err != nil {
			return err
		}
		if !pending {
			// It may have been acquitted between the two looks.
			if err := look(); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return store.NotValid(path)
		}
		if err := backoff.Wait(ctx, pause); err != nil {
			return err
		}
	}
}

// read reads an info file. The error matches fs.ErrNotExist if there is none.
func (i *items) read(base string) (*record, error) {
	name := i.layout.info(base)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	id := fileID{st.Ino, st.Size, st.Mtim}
	if r := i.cache.get(base, id); r != nil {
		return r, nil
	}
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(i.layout.dir, base, text)
	if err != nil {
		return nil, &damagedError{name, err}
	}
	i.cache.put(base, id, r)
	return r, nil
}

// damagedError says what is wrong with an info file.
type damagedError struct {
	file string
	err  error
}

func (e *damagedError) Error() string { return e.file + ": " + e.err.Error() }
func (e *damagedError) Unwrap() error { return e.err }

// maxCached bounds how many records are kept in memory.
const maxCached = 20_000

// fileID tells one info file of an item from a later one.
type fileID struct {
	inode uint64
	size  int64
	time  unix.Timespec
}

// recordCache keeps records that were read. An entry is used only for the very file
// that it was read from, which the caller has open.
type recordCache struct {
	mu sync.Mutex
	m  map[string]cachedRecord
}

type cachedRecord struct {
	id     fileID
	record *record
}

func (c *recordCache) get(base string, id fileID) *record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry := c.m[base]; entry.id == id {
		return entry.record
	}
	return nil
}

func (c *recordCache) put(base string, id fileID, r *record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCached {
		c.m = make(map[string]cachedRecord)
	}
	c.m[base] = cachedRecord{id, r}
}
