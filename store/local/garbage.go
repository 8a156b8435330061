package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lighter/nar"
	"lighter/store"
)

// orphanAge is how long data without an info file is left alone.
const orphanAge = time.Hour

// CollectGarbage implements store.Collector. The package comment says how items in
// use are kept. One process collects at a time; others wait. With Paths set, only those
// are deleted, after what refers to them; it is an error if a root or a lease needs one.
// What crashed processes left is removed too. An item that can't be deleted stays valid if
// its files are where they were, with all that it refers to.
func (s *Store) CollectGarbage(ctx context.Context, opts store.GCOptions) (*store.GCResult, error) {
	result, err := s.collectGarbage(ctx, opts)
	if err != nil {
		return result, fmt.Errorf("collect garbage: %w", s.layout.explainSpace(err))
	}
	return result, nil
}

func (s *Store) collectGarbage(ctx context.Context, opts store.GCOptions) (*store.GCResult, error) {
	c := &collector{layout: s.layout, claims: s.claims, trash: s.trash, items: s.items, opts: opts, records: make(map[string]*record), spared: make(map[store.Path]bool), damaged: make(map[string]bool), result: new(store.GCResult)}
	if opts.DryRun {
		_, err := c.plan(ctx)
		return c.result, err
	}
	if err := s.trash.gc.lock(ctx); err != nil {
		return c.result, err
	}
	err := c.run(ctx)
	return c.result, errors.Join(err, s.trash.gc.unlock())
}

// collector is one collection.
type collector struct {
	layout  layout
	claims  *claims
	trash   *trash
	items   *items
	opts    store.GCOptions
	census  *census
	records map[string]*record  // all that was ever found valid, by base name
	spared  map[store.Path]bool // what items that could not be deleted refer to
	damaged map[string]bool     // info files that make no sense, by base name; they and their data stay
	result  *store.GCResult
}

func (c *collector) run(ctx context.Context) error {
	if err := c.trash.acquitAll(); err != nil {
		return err
	}
	garbage, err := c.plan(ctx)
	if err != nil {
		return err
	}
	for len(garbage) > 0 && !c.enough(c.result.Freed) {
		var batch []*record
		batch, garbage = c.nextBatch(garbage)
		if err := c.deleteBatch(ctx, batch); err != nil {
			return err
		}
	}
	return c.tidy(ctx)
}

// enough reports whether no more is to be freed than so many bytes.
func (c *collector) enough(freed int64) bool { return c.opts.MaxFreed > 0 && freed >= c.opts.MaxFreed }

// nextBatch returns the items that are condemned together, and the rest. Whoever asks about one
// of them waits, so it takes no more than are needed.
func (c *collector) nextBatch(garbage []*record) (batch, rest []*record) {
	freed := c.result.Freed
	for i, r := range garbage {
		if len(batch) == store.GCBatch || c.enough(freed) {
			return batch, garbage[i:]
		}
		if c.spared[r.Path] {
			c.spare(r)
			continue
		}
		batch = append(batch, r)
		freed += r.NARSize
	}
	return batch, nil
}

// spare has what an item that stays refers to stay too. Referrers come first.
func (c *collector) spare(r *record) {
	for _, ref := range r.References {
		c.spared[ref] = true
	}
}

// plan finds what may be deleted, referrers first. In a dry run that is the result.
func (c *collector) plan(ctx context.Context) ([]*record, error) {
	var err error
	if c.census, err = c.claims.census(); err != nil {
		return nil, err
	}
	needed, err := c.needed()
	if err != nil {
		return nil, err
	}
	valid, err := c.look(ctx)
	if err != nil {
		return nil, err
	}
	if c.opts.OlderThan > 0 {
		for _, base := range valid {
			if r := c.records[base]; c.census.now.Sub(r.Registered) < c.opts.OlderThan {
				needed = append(needed, base)
			}
		}
	}
	garbage, err := c.garbage(valid, c.closure(needed))
	if err != nil {
		return nil, err
	}
	kept, err := c.keep(ctx, garbage)
	if err != nil {
		return nil, err
	}
	if len(kept) > 0 {
		alive := c.closure(kept)
		garbage = slices.DeleteFunc(garbage, func(r *record) bool { return alive[r.Path.Base()] })
	}
	if c.opts.DryRun {
		for _, r := range garbage {
			if c.enough(c.result.Freed) {
				break
			}
			c.count(r)
		}
	}
	return garbage, nil
}

// keep returns the base names of those items that are to be kept, though no root needs them.
func (c *collector) keep(ctx context.Context, garbage []*record) ([]string, error) {
	if c.opts.Keep == nil {
		return nil, nil
	}
	var bases []string
	for batch := range slices.Chunk(garbage, store.GCBatch) {
		paths := make([]store.Path, len(batch))
		for i, r := range batch {
			paths[i] = r.Path
		}
		kept, err := c.opts.Keep(ctx, paths)
		if err != nil {
			return nil, err
		}
		for _, p := range kept {
			bases = append(bases, p.Base())
		}
	}
	return bases, nil
}

// needed returns the base names of what roots and leases hold. It reads roots first.
func (c *collector) needed() ([]string, error) {
	roots, err := c.layout.readRoots()
	if err != nil {
		return nil, err
	}
	bases := make([]string, 0, len(roots))
	for _, p := range roots {
		bases = append(bases, p.Base())
	}
	err = c.layout.leased(c.census, func(base string) { bases = append(bases, base) })
	return bases, err
}

// look lists what is valid, and reads the records that are new to the collector.
func (c *collector) look(ctx context.Context) ([]string, error) {
	bases, err := c.layout.validBases()
	if err != nil {
		return nil, err
	}
	valid := bases[:0]
	for _, base := range bases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if c.records[base] == nil {
			r, err := c.items.read(base)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue // by someone who acquits for a dead collector
			case errors.As(err, new(*damagedError)):
				c.leaveDamaged(base, err)
				continue
			case err != nil:
				return nil, err
			}
			c.records[base] = r
		}
		valid = append(valid, base)
	}
	return valid, nil
}

func (c *collector) leaveDamaged(base string, err error) {
	if !c.damaged[base] {
		c.damaged[base] = true
		path, _ := c.layout.dir.Path(base) // empty if it is no item's name
		c.result.Leave(path, err)
	}
}

// closure returns the items and all that they refer to, as far as is known.
func (c *collector) closure(bases []string) map[string]bool {
	reached := make(map[string]bool)
	queue := slices.Clone(bases)
	for len(queue) > 0 {
		base := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if reached[base] {
			continue
		}
		reached[base] = true
		if r := c.records[base]; r != nil {
			for _, ref := range r.References {
				queue = append(queue, ref.Base())
			}
		}
	}
	return reached
}

// garbage returns the valid items that are not alive, or with Paths set those of them
// that must go, referrers first.
func (c *collector) garbage(valid []string, alive map[string]bool) ([]*record, error) {
	infos := make([]*store.Info, 0, len(valid))
	for _, base := range valid {
		infos = append(infos, &c.records[base].Info)
	}
	sorted, err := store.SortInfos(infos)
	if err != nil {
		return nil, err
	}
	going := make(map[store.Path]bool)
	for _, p := range c.opts.Paths {
		if alive[p.Base()] && c.records[p.Base()] != nil {
			return nil, fmt.Errorf("%s is in use", p)
		}
		going[p] = true
	}
	var garbage []*record
	for _, info := range sorted { // references first, so that going is complete
		if alive[info.Path.Base()] {
			continue
		}
		if len(c.opts.Paths) > 0 && !going[info.Path] && !slices.ContainsFunc(info.References, func(r store.Path) bool { return going[r] }) {
			continue
		}
		going[info.Path] = true
		garbage = append(garbage, c.records[info.Path.Base()])
	}
	slices.Reverse(garbage)
	return garbage, nil
}

func (c *collector) count(r *record) {
	c.result.Deleted = append(c.result.Deleted, r.Path)
	c.result.Freed += r.NARSize
}

// deleteBatch condemns the items, acquits those that are needed after all, and
// deletes the rest.
func (c *collector) deleteBatch(ctx context.Context, batch []*record) error {
	condemned, err := c.condemn(batch)
	if err == nil {
		err = ctx.Err()
	}
	var guilty []*record
	if err == nil {
		guilty, err = c.judge(ctx, condemned)
	}
	if err != nil {
		return errors.Join(err, c.trash.acquit(condemned))
	}
	for i, r := range guilty {
		switch {
		case c.enough(c.result.Freed):
			return c.trash.acquit(guilty[i:])
		case c.spared[r.Path]:
			c.spare(r)
			err = c.trash.acquit(guilty[i : i+1])
		default:
			err = c.delete(r)
		}
		if err != nil {
			return errors.Join(err, c.trash.acquit(guilty[i+1:]))
		}
	}
	return nil
}

// condemn makes items invalid, and returns those that it did.
func (c *collector) condemn(batch []*record) ([]*record, error) {
	condemned := make([]*record, 0, len(batch))
	for _, r := range batch {
		base := r.Path.Base()
		switch err := moveRecord(c.layout.info(base), c.layout.condemned(base)); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return condemned, err
		default:
			condemned = append(condemned, r)
		}
	}
	return condemned, nil
}

// judge looks again at who needs what, acquits what is needed, and returns the rest.
func (c *collector) judge(ctx context.Context, condemned []*record) ([]*record, error) {
	// In this order; see the package comment.
	needed, err := c.needed()
	if err != nil {
		return nil, err
	}
	valid, err := c.look(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := c.keep(ctx, condemned)
	if err != nil {
		return nil, err
	}
	alive := c.closure(slices.Concat(needed, kept, valid))
	var innocent, guilty []*record
	for _, r := range condemned {
		if alive[r.Path.Base()] {
			innocent = append(innocent, r)
		} else {
			guilty = append(guilty, r)
		}
	}
	return guilty, c.trash.acquit(innocent)
}

// delete deletes a condemned item, unless it was acquitted. One whose files can't be moved
// away becomes valid again.
func (c *collector) delete(r *record) error {
	from := c.layout.condemned(r.Path.Base())
	sentence, err := c.trash.name()
	if err != nil {
		return err
	}
	switch err := os.Rename(from, sentence); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	moved, err := c.removeData(r.data())
	if err != nil && !moved {
		c.result.Leave(r.Path, err)
		c.spare(r)
		return c.trash.pardon(sentence, r.Path.Base())
	}
	delete(c.records, r.Path.Base())
	if err != nil {
		c.result.Leave(r.Path, err)
		c.result.Deleted = append(c.result.Deleted, r.Path)
	} else {
		c.count(r)
	}
	return os.Remove(sentence)
}

// removeData removes what has a name in store/, and reports whether nothing whole has that name
// any more. It moves it away in one step, so that there is never half an item under its name;
// the lower layer of an overlay can't do that.
func (c *collector) removeData(name string) (moved bool, err error) {
	gone, err := c.trash.name()
	if err != nil {
		return false, err
	}
	from := c.layout.data(name)
	switch err := moveTree(from, gone); {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case errors.Is(err, unix.EXDEV):
		return true, nar.RemoveAll(from)
	case err != nil:
		return false, err
	}
	return true, nar.RemoveAll(gone)
}

// moveTree moves an item's data, even a folder that its owner may not write to.
func moveTree(from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	folder, unlockErr := unlock(from)
	if unlockErr != nil || !folder {
		return errors.Join(err, unlockErr)
	}
	if err = os.Rename(from, to); err != nil {
		err = errors.Join(err, lock(from))
	}
	return err
}

// trash has the records of condemned items, and the lock of the process that condemns.
type trash struct {
	layout layout
	gc     gcLock
}

// name returns a new name for what is being deleted. It has nothing of the item's name, which
// may be as long as names can be, or end like that of a record.
func (t *trash) name() (string, error) {
	name, err := t.gc.ownName()
	return filepath.Join(t.layout.trash(), name), err
}

// pardon makes an item valid again whose record was sentenced.
func (t *trash) pardon(sentence, base string) error {
	err := moveRecord(sentence, t.layout.info(base))
	if errors.Is(err, fs.ErrExist) { // it was published again
		return remove(sentence)
	}
	return err
}

// acquit makes condemned items valid again.
func (t *trash) acquit(records []*record) error {
	var errs []error
	for _, r := range records {
		errs = append(errs, t.acquitBase(r.Path.Base()))
	}
	return errors.Join(errs...)
}

func (t *trash) acquitBase(base string) error {
	switch err := moveRecord(t.layout.condemned(base), t.layout.info(base)); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrExist):
		// It was published again. The old record is not needed any more; the old data may
		// be in use, and will be deleted as an orphan.
		return remove(t.layout.condemned(base))
	default:
		return err
	}
}

// acquitAll acquits what a dead collector had condemned. No other may be at work.
func (t *trash) acquitAll() error {
	if err := t.layout.refresh(t.layout.trash()); err != nil {
		return err
	}
	names, err := readNames(t.layout.trash())
	if err != nil {
		return err
	}
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, infoSuffix); ok {
			if err := t.acquitBase(base); err != nil {
				return err
			}
		}
	}
	return nil
}

// verdictPending reports whether a collection is deciding on an item. If the
// collector is dead, it acquits everything itself.
func (t *trash) verdictPending(base string) (bool, error) {
	pending, err := exists(t.layout.condemned(base))
	if err != nil || !pending {
		return false, err
	}
	running, err := t.gc.running()
	if err != nil || running {
		return true, err
	}
	return true, t.acquitAll()
}

// tidy removes what crashed processes and lost races have left.
func (c *collector) tidy(ctx context.Context) error {
	for _, problem := range c.layout.sweep(c.census, func(owner) bool { return true }) {
		c.result.Leave("", problem)
	}
	names, err := readNames(c.layout.trash())
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.HasSuffix(name, infoSuffix) {
			continue
		}
		if err := nar.RemoveAll(filepath.Join(c.layout.trash(), name)); err != nil {
			c.result.Leave("", err)
		}
	}
	return c.removeOrphans(ctx)
}

// removeOrphans removes data that no info file refers to.
func (c *collector) removeOrphans(ctx context.Context) error {
	names, err := readNames(c.layout.data(""))
	if err != nil {
		return err
	}
	leased := make(map[string]bool) // by hash, which is all that some names have of the item's
	if err := c.layout.leased(c.census, func(base string) { leased[hashOf(base)] = true }); err != nil {
		return err
	}
	// What has become valid since the names were read is too young to be an orphan.
	valid, err := c.look(ctx)
	if err != nil {
		return err
	}
	for base := range c.damaged {
		leased[hashOf(base)] = true
	}
	used := make(map[string]bool)
	for _, base := range valid {
		used[c.records[base].data()] = true
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if leased[hashOf(name)] || used[name] {
			continue
		}
		if err := c.removeOrphan(name); err != nil {
			c.result.Leave("", err)
		}
	}
	return nil
}

func (c *collector) removeOrphan(name string) error {
	var st unix.Stat_t
	file := c.layout.data(name)
	if err := unix.Lstat(file, &st); err != nil {
		return ignoreNotExist(&fs.PathError{Op: "stat", Path: file, Err: err})
	}
	if changed := time.Unix(st.Ctim.Unix()); c.census.now.Sub(changed) < orphanAge {
		return nil
	}
	_, err := c.removeData(name)
	return err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
