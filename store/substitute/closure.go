package substitute

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
)

// FetchClosure makes the roots valid in a store, with whatever they refer to that the store
// lacks, references first. It returns what it fetched, also beside an error; items that
// another call is fetching into the same store are waited for and are not in it.
//
// The store must be a store.Substitutee. What such a store takes from no client it is asked
// to download by itself, if it is a store.Downloader. All items are leased while this runs,
// if the store is a store.Leaser; a caller that wants them to stay has a lease of its own.
//
// An item that no server has is a *MissingError.
func (c *Client) FetchClosure(ctx context.Context, target store.Store, roots []store.Path) ([]store.Path, error) {
	return c.fetchClosure(ctx, target, roots, new(closure))
}

// FetchWhatIsThere is FetchClosure for as much as can be had: what no server gives keeps only
// what refers to it from being fetched. That no server has an item is not an error; of other
// problems the error has the first ones.
func (c *Client) FetchWhatIsThere(ctx context.Context, target store.Store, roots []store.Path) ([]store.Path, error) {
	return c.fetchClosure(ctx, target, roots, &closure{partial: true, absent: make(map[store.Path]bool)})
}

// fetchClosure completes a closure that says no more than how it is to be fetched.
func (c *Client) fetchClosure(ctx context.Context, target store.Store, roots []store.Path, cl *closure) ([]store.Path, error) {
	to, ok := target.(store.Substitutee)
	if !ok {
		return nil, fmt.Errorf("fetch closure: this kind of store takes no substitutes: %w", errors.ErrUnsupported)
	}
	for _, r := range roots {
		if r.Dir() != c.opts.Dir || target.Dir() != c.opts.Dir {
			return nil, fmt.Errorf("fetch closure: %s: the servers are asked for items of %s, to go to %s", r, c.opts.Dir, target.Dir())
		}
	}
	acl, err := c.acl()
	if err != nil {
		return nil, err
	}
	cl.client, cl.acl, cl.store, cl.to, cl.neededBy = c, acl, target, to, make(map[store.Path]store.Path)
	if leaser, ok := target.(store.Leaser); ok {
		if cl.lease, err = leaser.Lease(ctx, "substitutes"); err != nil {
			return nil, fmt.Errorf("fetch closure: %w", err)
		}
		defer cl.lease.Release() //nolint:errcheck // a lease that stays ends with the store
	}
	fetched, err := cl.fetch(ctx, roots)
	if err = errors.Join(append(cl.problems, err)...); err != nil {
		return fetched, fmt.Errorf("fetch closure: %w", err)
	}
	return fetched, nil
}

// maxProblems is how many errors a closure that goes on after them keeps.
const maxProblems = 3

// closure is one run of FetchClosure, or of FetchWhatIsThere.
type closure struct {
	partial  bool                // what fails stops only what refers to it
	absent   map[store.Path]bool // where partial: what no server has, or none that can be asked
	problems []error             // where partial

	client *Client
	acl    *signature.ACL
	store  store.Store
	to     store.Substitutee
	lease  store.Lease // or nil

	neededBy map[store.Path]store.Path // of each item that was seen, one that refers to it
}

func (cl *closure) fetch(ctx context.Context, roots []store.Path) ([]store.Path, error) {
	infos, err := cl.plan(ctx, roots)
	if err != nil {
		return nil, err
	}
	if _, err := store.SortInfos(infos); err != nil {
		return nil, err // a cycle
	}
	return cl.run(ctx, infos)
}

// plan finds out what is to be fetched, one level of references after the other.
func (cl *closure) plan(ctx context.Context, roots []store.Path) ([]*store.Info, error) {
	var infos []*store.Info
	next := cl.unseen(roots, "")
	for len(next) > 0 {
		if err := cl.checkSize(); err != nil {
			return nil, err
		}
		found, err := cl.level(ctx, next)
		if err != nil {
			return nil, err
		}
		next = nil
		for _, info := range found {
			infos = append(infos, info)
			next = append(next, cl.unseen(info.References, info.Path)...)
			if err := cl.checkSize(); err != nil {
				return nil, err
			}
		}
	}
	return infos, nil
}

func (cl *closure) checkSize() error {
	if most := cl.client.opts.MaxItems; len(cl.neededBy) > most {
		return fmt.Errorf("there are more than %d items", most)
	}
	return nil
}

// unseen returns those of the paths that come up for the first time.
func (cl *closure) unseen(paths []store.Path, by store.Path) []store.Path {
	var fresh []store.Path
	for _, p := range paths {
		if _, ok := cl.neededBy[p]; !ok {
			cl.neededBy[p] = by
			fresh = append(fresh, p)
		}
	}
	return fresh
}

// level returns the narinfos of those of the paths that the store lacks.
func (cl *closure) level(ctx context.Context, paths []store.Path) ([]*store.Info, error) {
	if cl.lease != nil {
		// First this, then the question: what is found valid then stays.
		if err := cl.lease.Add(ctx, paths...); err != nil {
			return nil, err
		}
	}
	missing, err := store.Missing(ctx, cl.store, paths)
	if err != nil {
		return nil, err
	}
	answers, err := cl.client.infos(ctx, cl.acl, missing)
	if err != nil {
		return nil, err
	}
	infos := make([]*store.Info, 0, len(answers))
	for _, a := range answers {
		var absent *MissingError
		if errors.As(a.Err, &absent) {
			absent.NeededBy = cl.neededBy[absent.Path]
			if !cl.partial {
				return nil, absent
			}
			cl.absent[absent.Path] = true
			cl.problem(absent)
			continue
		}
		infos = append(infos, &a.Info.Info)
	}
	return infos, nil
}

// problem keeps an error with which a partial closure goes on. That an item is on no server
// is none.
func (cl *closure) problem(err error) {
	var absent *MissingError
	if errors.As(err, &absent) && absent.Certain() || len(cl.problems) >= maxProblems {
		return
	}
	cl.problems = append(cl.problems, err)
}

// goesOn reports whether an error is about one item only. What the store says, such as that
// the disk is full, is about all.
func (cl *closure) goesOn(ctx context.Context, err error) bool {
	var missing *MissingError
	return cl.partial && ctx.Err() == nil && errors.As(err, &missing)
}

// outcome is how it went with one item.
type outcome struct {
	info    *store.Info
	fetched bool
	err     error
}

// run fetches the items, each once those are there to which it refers.
func (cl *closure) run(ctx context.Context, infos []*store.Info) (fetched []store.Path, first error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waits, users := cl.dependencies(infos)
	var ready []*store.Info
	for _, info := range infos {
		if waits[info.Path] == 0 {
			ready = append(ready, info)
		}
	}
	outcomes := make(chan outcome)
	var workers sync.WaitGroup
	defer workers.Wait()
	for running := 0; running > 0 || len(ready) > 0 && first == nil; {
		for running < cl.client.opts.Parallel && len(ready) > 0 && first == nil {
			info := ready[0]
			ready = ready[1:]
			running++
			workers.Go(func() {
				got, err := cl.item(ctx, info)
				outcomes <- outcome{info, got, err}
			})
		}
		o := <-outcomes
		running--
		switch {
		case cl.goesOn(ctx, o.err):
			cl.problem(o.err)
			continue // what refers to it waits forever
		case o.err != nil:
			if first == nil {
				first = o.err
				cancel()
			}
			continue
		case o.fetched:
			fetched = append(fetched, o.info.Path)
		}
		for _, user := range users[o.info.Path] {
			if waits[user.Path]--; waits[user.Path] == 0 {
				ready = append(ready, user)
			}
		}
	}
	return fetched, first
}

// dependencies returns for how many of the others each item waits, and who waits for it. What
// is absent is waited for as well, so that nothing that refers to it is fetched.
func (cl *closure) dependencies(infos []*store.Info) (map[store.Path]int, map[store.Path][]*store.Info) {
	waits := make(map[store.Path]int, len(infos))
	users := make(map[store.Path][]*store.Info)
	for _, info := range infos {
		waits[info.Path] = 0
	}
	for _, info := range infos {
		for _, ref := range info.References {
			if _, ok := waits[ref]; (ok || cl.absent[ref]) && ref != info.Path {
				waits[info.Path]++
				users[ref] = append(users[ref], info)
			}
		}
	}
	return waits, users
}

// flightKey is an item on its way into a store. Stores are compared as interfaces, which
// pointers are made for.
type flightKey struct {
	store store.Store
	path  store.Path
}

// item fetches one item, unless another call does or did.
func (cl *closure) item(ctx context.Context, info *store.Info) (bool, error) {
	c, key := cl.client, flightKey{cl.store, info.Path}
	for {
		c.mu.Lock()
		other := c.flights[key]
		if other == nil {
			own := make(chan struct{})
			c.flights[key] = own
			c.mu.Unlock()
			got, err := cl.get(ctx, info)
			c.mu.Lock()
			delete(c.flights, key)
			c.mu.Unlock()
			close(own)
			return got, err
		}
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-other: // and then see what became of it
		}
	}
}

// get fetches one item that the store lacked when it was asked.
func (cl *closure) get(ctx context.Context, info *store.Info) (bool, error) {
	if valid, err := store.IsValid(ctx, cl.store, info.Path); err != nil || valid {
		return false, err
	}
	err := cl.client.try(ctx, cl.acl, info.Path, func(found *narinfo.Info, r *narReader) (bool, error) {
		if !sameItem(&found.Info, info) {
			return false, errors.New("its narinfo differs from that of the server before it")
		}
		err := cl.to.AddSubstitute(ctx, &found.Info, r)
		// What has nothing to do with what the server sent is no reason to ask another one.
		return r.err == nil && !errors.Is(err, store.ErrCorrupt), err
	})
	if errors.Is(err, errors.ErrUnsupported) {
		err = cl.download(ctx, info.Path, err)
	}
	var absent *MissingError
	if errors.As(err, &absent) {
		absent.NeededBy = cl.neededBy[absent.Path]
	}
	if err == nil {
		cl.client.opts.Logger.Debug("substitute fetched", "item", string(info.Path), "bytes", info.NARSize)
	}
	return err == nil, err
}

// sameItem reports whether two servers mean the same. Builds are not always reproducible, so
// that both may be right; but one closure is made of one of them.
func sameItem(a, b *store.Info) bool {
	return a.NARHash == b.NARHash && slices.Equal(a.References, b.References)
}

// download has the store get what it takes from no client.
func (cl *closure) download(ctx context.Context, path store.Path, refused error) error {
	d, ok := cl.store.(store.Downloader)
	if !ok {
		return refused
	}
	var urls []string
	for _, s := range cl.client.servers {
		if s.base.Scheme != "file" {
			urls = append(urls, s.String())
		}
	}
	if err := d.Download(ctx, path, urls); err != nil {
		return fmt.Errorf("%w; and by its own download: %w", refused, err)
	}
	return nil
}
