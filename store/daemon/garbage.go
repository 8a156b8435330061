package daemon

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"lighter/store"
)

// What a garbage collection is to do (GCOptions::GCAction in libstore).
const (
	gcReturnDead     = 1
	gcDeleteDead     = 2
	gcDeleteSpecific = 3
)

// CollectGarbage implements store.Collector. The daemon knows no ages and no sizes in
// advance: with OlderThan, Keep or DryRun it is asked what is dead, and what is known of that,
// first. With Paths, what refers to them is deleted too, and one that is needed is an
// error.
func (s *Store) CollectGarbage(ctx context.Context, opts store.GCOptions) (*store.GCResult, error) {
	result, err := s.collectGarbage(ctx, opts)
	if err != nil {
		return result, fmt.Errorf("collect garbage: %w", err)
	}
	return result, nil
}

func (s *Store) collectGarbage(ctx context.Context, opts store.GCOptions) (*store.GCResult, error) {
	if err := s.check(opts.Paths...); err != nil {
		return nil, err
	}
	// What idle connections protect nobody needs; nor what the one of the collection does.
	s.pool.clear(nil)
	c, err := s.pool.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var result *store.GCResult
	err = c.guarded(ctx, func() (err error) {
		result, err = s.collect(ctx, c, opts)
		return err
	})
	return result, err
}

func (s *Store) collect(ctx context.Context, c *conn, opts store.GCOptions) (*store.GCResult, error) {
	switch {
	case opts.DryRun, opts.OlderThan > 0, opts.Keep != nil:
	case len(opts.Paths) > 0:
		return s.gc(c, gcDeleteSpecific, opts.Paths, opts.MaxFreed)
	default:
		return s.gc(c, gcDeleteDead, nil, opts.MaxFreed)
	}
	dead, err := s.deadInfos(c)
	if err != nil {
		return nil, err
	}
	chosen := choose(dead, opts, time.Now(), nil)
	if opts.Keep != nil {
		kept := make(map[store.Path]bool)
		for batch := range slices.Chunk(store.PathsOf(chosen), store.GCBatch) {
			paths, err := opts.Keep(ctx, batch)
			if err != nil {
				return nil, err
			}
			for _, p := range paths {
				kept[p] = true
			}
		}
		chosen = choose(dead, opts, time.Now(), kept)
	}
	result := new(store.GCResult)
	for _, info := range chosen {
		if opts.MaxFreed > 0 && result.Freed >= opts.MaxFreed {
			break
		}
		result.Deleted = append(result.Deleted, info.Path)
		result.Freed += info.NARSize
	}
	if opts.DryRun || len(result.Deleted) == 0 {
		return result, nil
	}
	return s.gc(c, gcDeleteSpecific, result.Deleted, opts.MaxFreed)
}

// AddIndirectRoot has the daemon keep the item to which a symlink leads, as long as it does.
func (s *Store) AddIndirectRoot(ctx context.Context, link string) error {
	err := s.do(ctx, func(c *conn) error {
		c.op(opAddIndirectRoot)
		_ = c.w.String(link) // errors stay until call
		if err := c.call(nil); err != nil {
			return err
		}
		_, err := c.r.Uint64()
		return err
	})
	if err != nil {
		return fmt.Errorf("root %s: %w", link, err)
	}
	return nil
}

// deadInfos returns what is known of the items that nothing needs.
func (s *Store) deadInfos(c *conn) ([]*store.Info, error) {
	dead, err := s.gc(c, gcReturnDead, nil, 0)
	if err != nil {
		return nil, err
	}
	infos, err := s.infos(c, dead.Deleted)
	if err != nil {
		return nil, err
	}
	// What is not valid is left over from something; the daemon deletes it some time.
	return slices.DeleteFunc(infos, func(i *store.Info) bool { return i == nil }), nil
}

// choose returns those of the dead items that are to be deleted, referrers first: with
// Paths those and what refers to them, and with OlderThan nothing that is younger, or that
// something younger needs; nor what is kept or needed by that.
func choose(dead []*store.Info, opts store.GCOptions, now time.Time, kept map[store.Path]bool) []*store.Info {
	sorted, err := store.SortInfos(dead)
	if err != nil {
		sorted = dead // the daemon has no cycles; it will say what is wrong
	}
	spared := make(map[store.Path]bool)
	wanted := make(map[store.Path]bool)
	for _, p := range opts.Paths {
		wanted[p] = true
	}
	for _, info := range slices.Backward(sorted) { // referrers first
		if spared[info.Path] || kept[info.Path] || opts.OlderThan > 0 && now.Sub(info.Registered) < opts.OlderThan {
			spared[info.Path] = true
			for _, r := range info.References {
				spared[r] = true
			}
		}
	}
	var chosen []*store.Info
	for _, info := range sorted {
		refers := slices.ContainsFunc(info.References, func(r store.Path) bool { return wanted[r] })
		if len(opts.Paths) > 0 && !wanted[info.Path] && !refers {
			continue
		}
		wanted[info.Path] = len(opts.Paths) > 0
		if !spared[info.Path] {
			chosen = append(chosen, info)
		}
	}
	slices.Reverse(chosen)
	return chosen
}

// gc makes one request.
func (s *Store) gc(c *conn, action uint64, paths []store.Path, maxFreed int64) (*store.GCResult, error) {
	limit := uint64(math.MaxUint64)
	if maxFreed > 0 {
		limit = uint64(maxFreed)
	}
	c.op(opCollectGarbage)
	_ = c.w.Uint64(action) // errors stay until call
	c.putPaths(paths)
	_ = c.w.Bool(false) // do not ignore that items are alive
	_ = c.w.Uint64(limit)
	for range 3 { // were once parameters
		_ = c.w.Uint64(0)
	}
	if err := c.call(nil); err != nil {
		return nil, err
	}
	names, err := c.r.Strings(maxPaths, maxPath)
	if err != nil {
		return nil, lost(err)
	}
	freed, err := c.r.Uint64()
	if err != nil {
		return nil, lost(err)
	}
	if _, err := c.r.Uint64(); err != nil { // was once a result
		return nil, lost(err)
	}
	result := &store.GCResult{Freed: int64(min(freed, math.MaxInt64))}
	for _, name := range names {
		// Among them are files that are not items, such as locks.
		if p, err := s.dir.ParsePath(name); err == nil {
			result.Deleted = append(result.Deleted, p)
		}
	}
	return result, nil
}

// Verify implements store.Verifier. The daemon says what is wrong in words for people: a
// problem without a Path is one that names none. An item whose files are gone, and that
// nothing refers to, the daemon strikes off its list when it finds that.
func (s *Store) Verify(ctx context.Context, contents bool, report func(store.VerifyProblem)) error {
	var lines lineReader
	problems := 0
	lines.line = func(line string) {
		if p, ok := s.problem(line); ok {
			problems++
			report(p)
		}
	}
	var wrong bool
	err := s.do(ctx, func(c *conn) (err error) {
		c.op(opVerifyStore)
		_ = c.w.Bool(contents) // errors come with call
		_ = c.w.Bool(false)    // repair nothing
		if err := c.call(&streams{log: lines.write}); err != nil {
			return err
		}
		wrong, err = c.getBool()
		return err
	})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	lines.end()
	if wrong && problems == 0 {
		report(store.VerifyProblem{Problem: "guix-daemon found errors, and does not say which"})
	}
	return nil
}

// problem makes sense of a line that verify-store prints.
func (s *Store) problem(line string) (store.VerifyProblem, bool) {
	if strings.HasSuffix(line, "...") && !strings.Contains(line, "`") {
		return store.VerifyProblem{}, false // "checking hashes..."
	}
	if line == "" || strings.HasPrefix(line, "checking contents of `") {
		return store.VerifyProblem{}, false
	}
	problem := store.VerifyProblem{Problem: printable(line)}
	if name, ok := between(line, "`", "'"); ok {
		if p, _, err := s.dir.ParsePathWithin(name); err == nil {
			problem.Path = p
			problem.Problem = printable(strings.Replace(line, "path `"+name+"' ", "", 1))
		}
	}
	return problem, true
}

// lineReader puts lines together.
type lineReader struct {
	part []byte
	line func(string)
}

func (l *lineReader) write(text []byte) {
	for line := range strings.Lines(string(text)) {
		if len(l.part)+len(line) <= maxNoteLen {
			l.part = append(l.part, line...)
		}
		if strings.HasSuffix(line, "\n") {
			l.end()
		}
	}
}

func (l *lineReader) end() {
	if len(l.part) > 0 {
		l.line(strings.TrimRight(string(l.part), "\n"))
		l.part = l.part[:0]
	}
}
