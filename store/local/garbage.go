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

const (
	// condemnBatch is how many items a collection condemns at a time. Whoever asks about
	// one of them waits.
	condemnBatch = 1000
	// orphanAge is how long data without an info file is left alone.
	orphanAge = time.Hour
)

// CollectGarbage implements store.Collector. The package comment says how items in
// use are kept. One process collects at a time; others wait. With Paths set, only those
// are deleted, after what refers to them; it is an error if a root or a lease needs one.
// What crashed processes left is removed too.
func (s *Store) CollectGarbage(ctx context.Context, opts store.GCOptions) (*store.GCResult, error) {
	result, err := s.collectGarbage(ctx, opts)
	if err != nil {
		return result, fmt.Errorf("collect garbage: %w", s.layout.explainSpace(err))
	}
	return result, nil
}

func (s *Store) collectGarbage(ctx context.Context, opts store.GCOptions) (*store.GCResult, error) {
	c := &collector{layout: s.layout, claims: s.claims, trash: s.trash, items: s.items, opts: opts, records: make(map[string]*record), result: new(store.GCResult)}
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
	records map[string]*record // all that was ever found valid, by base name
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
	for batch := range slices.Chunk(garbage, condemnBatch) {
		if err := c.deleteBatch(ctx, batch); err != nil {
			return err
		}
	}
	return c.tidy(ctx)
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
	alive := c.closure(needed)
	garbage, err := c.garbage(valid, alive)
	if err != nil {
		return nil, err
	}
	if c.opts.DryRun {
		c.result = new(store.GCResult)
	}
	return c.limit(garbage), nil
}

// needed returns the base names of what roots and leases hold. It reads roots first.
func (c *collector) needed() ([]string, error) {
	roots, err := c.layout.readRoots()
	if err != nil {
		return nil, err
	}
	var bases []string
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
			if errors.Is(err, fs.ErrNotExist) {
				continue // by someone who acquits for a dead collector
			}
			if err != nil {
				return nil, err
			}
			c.records[base] = r
		}
		valid = append(valid, base)
	}
	return valid, nil
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

// limit cuts the garbage off where MaxFreed is reached. In a dry run it counts what is left.
func (c *collector) limit(garbage []*record) []*record {
	var freed int64
	for i, r := range garbage {
		if c.opts.MaxFreed > 0 && freed >= c.opts.MaxFreed {
			garbage = garbage[:i]
			break
		}
		freed += r.NARSize
	}
	if c.opts.DryRun {
		for _, r := range garbage {
			c.count(r)
		}
	}
	return garbage
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
		if err := c.delete(r); err != nil {
			return errors.Join(fmt.Errorf("delete %s: %w", r.Path, err), c.trash.acquit(guilty[i+1:]))
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
	alive := c.closure(append(needed, valid...))
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

// delete deletes a condemned item, unless it was acquitted.
func (c *collector) delete(r *record) error {
	from := c.layout.condemned(r.Path.Base())
	sentence := from + sentenceSuffix
	switch err := os.Rename(from, sentence); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	delete(c.records, r.Path.Base())
	// In one step, so that there is never half an item under its name.
	gone := filepath.Join(c.layout.trash(), c.claims.owner.String()+"."+r.data())
	if err := ignoreNotExist(moveTree(c.layout.data(r.data()), gone)); err != nil {
		return err
	}
	c.count(r)
	return errors.Join(os.Remove(sentence), nar.RemoveAll(gone))
}

// moveTree moves an item's data, even a folder that its owner may not write to.
func moveTree(from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if _, err := unlock(from); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// sentenceSuffix ends the name of the record of an item whose data is being deleted.
const sentenceSuffix = ".deleting"

// trash has the records of condemned items, and the lock of the process that condemns.
type trash struct {
	layout layout
	gc     gcLock
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
	errs := c.layout.sweep(c.census, func(owner) bool { return true })
	names, err := readNames(c.layout.trash())
	errs = append(errs, err)
	for _, name := range names {
		if !strings.HasSuffix(name, infoSuffix) {
			errs = append(errs, nar.RemoveAll(filepath.Join(c.layout.trash(), name)))
		}
	}
	errs = append(errs, c.removeOrphans(ctx))
	return errors.Join(errs...)
}

// removeOrphans removes data that no info file refers to.
func (c *collector) removeOrphans(ctx context.Context) error {
	names, err := readNames(c.layout.data(""))
	if err != nil {
		return err
	}
	leased := make(map[string]bool)
	if err := c.layout.leased(c.census, func(base string) { leased[base] = true }); err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		base := dataBase(name)
		if leased[base] {
			continue
		}
		if r := c.records[base]; r != nil && r.data() == name {
			continue
		}
		if err := c.removeOrphan(name, base); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c *collector) removeOrphan(name, base string) error {
	var st unix.Stat_t
	file := c.layout.data(name)
	if err := unix.Lstat(file, &st); err != nil {
		return ignoreNotExist(&fs.PathError{Op: "stat", Path: file, Err: err})
	}
	if changed := time.Unix(st.Ctim.Unix()); c.census.now.Sub(changed) < orphanAge {
		return nil
	}
	switch r, err := c.items.read(base); {
	case err == nil && r.data() == name:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	gone := filepath.Join(c.layout.trash(), c.claims.owner.String()+"."+name)
	if err := moveTree(file, gone); err != nil {
		return ignoreNotExist(err)
	}
	return nar.RemoveAll(gone)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
