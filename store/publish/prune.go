package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"lighter/store"
	"lighter/store/narinfo"
)

// orphanAge is how old a file may become that no narinfo tells of, in case that one is on
// its way.
const orphanAge = 24 * time.Hour

// leastPrune is the least age at which something is removed.
const leastPrune = time.Hour

// parallelLoads is how many narinfos are read at a time; each takes a round trip where the
// folder is on another host.
const parallelLoads = 16

// narFolders are those in which NARs may be.
var narFolders = []string{"nar", "nar/" + narinfo.Zstd, "nar/" + narinfo.Gzip}

// Pruned says what Prune removed, or would remove.
type Pruned struct {
	Items []store.Path
	Files int   // of all kinds
	Freed int64 // bytes
}

// Prune removes items that were not published for longer than that, other than those to
// which an item refers that stays; and logs, failures and what broke off, if they are as
// old. That is an hour at least. What refers to an item goes before it. Items may be published meanwhile, by this
// process or another one: what is published again stays.
func (w *Writer) Prune(ctx context.Context, olderThan time.Duration) (*Pruned, error) {
	defer w.forget()
	return Prune(ctx, w.fs, w.opts.Dir, olderThan, false)
}

// Prune is Writer.Prune for who has no key. The result is there beside an error, too. With
// dryRun nothing is removed.
func Prune(ctx context.Context, folder FS, dir store.Dir, olderThan time.Duration, dryRun bool) (*Pruned, error) {
	if olderThan < leastPrune {
		return new(Pruned), fmt.Errorf("prune %s: %v is too short, since others may publish meanwhile: want %v or more", folder, olderThan, leastPrune)
	}
	p := &pruner{fs: folder, dir: dir, result: new(Pruned), items: make(map[string]*published), before: time.Now().Add(-olderThan)}
	if dryRun {
		p.would = make(map[string]bool)
	}
	err := p.run(ctx)
	if err != nil {
		err = fmt.Errorf("prune %s: %w", folder, err)
	}
	return p.result, err
}

// Remove removes items, whatever refers to them.
func (w *Writer) Remove(ctx context.Context, paths ...store.Path) error {
	defer w.forget()
	p := &pruner{fs: w.fs, dir: w.opts.Dir, result: new(Pruned)}
	for _, item := range paths {
		it, err := p.load(ctx, narinfo.Name(item))
		if err == nil {
			err = p.removeItem(ctx, it)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s from %s: %w", item, w.fs, err)
		}
	}
	return nil
}

type pruner struct {
	fs     FS
	dir    store.Dir
	before time.Time       // what is older goes
	would  map[string]bool // files that a dry run has counted; nil means that files are removed
	items  map[string]*published
	result *Pruned
}

// published is an item in the folder.
type published struct {
	info *narinfo.Info
	keep bool
}

func (p *pruner) run(ctx context.Context) error {
	if err := p.loadAll(ctx); err != nil {
		return err
	}
	old, err := p.old()
	if err != nil {
		return err
	}
	for _, it := range old {
		if it.keep {
			continue
		}
		// It may have been published again since it was listed.
		found, err := p.fs.Stat(ctx, narinfo.Name(it.info.Path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case !found.ModTime().Before(p.before):
			p.keep(it)
			continue
		}
		if err := p.removeItem(ctx, it); err != nil {
			return err
		}
		delete(p.items, it.info.Path.HashPart())
	}
	return p.removeFiles(ctx)
}

// loadAll reads all narinfos, and marks what stays.
func (p *pruner) loadAll(ctx context.Context) error {
	files, err := p.fs.List(ctx, ".")
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), ".narinfo") || !f.Mode().IsRegular() })
	loaded, err := p.loadThese(ctx, files)
	if err != nil {
		return err
	}
	for _, it := range loaded {
		if it != nil {
			p.items[it.info.Path.HashPart()] = it
		}
	}
	for i, it := range loaded {
		if it != nil && !files[i].ModTime().Before(p.before) {
			p.keep(it)
		}
	}
	return nil
}

// loadThese reads narinfos; of those that are gone meanwhile it returns nil.
func (p *pruner) loadThese(ctx context.Context, files []fs.FileInfo) ([]*published, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	loaded := make([]*published, len(files))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(parallelLoads, len(files)) {
		workers.Go(func() {
			for i := range next {
				it, err := p.load(ctx, files[i].Name())
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					cancel(err)
				}
				loaded[i] = it
			}
		})
	}
	for i := range files {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	return loaded, context.Cause(ctx)
}

func (p *pruner) load(ctx context.Context, name string) (*published, error) {
	text, err := p.fs.Read(ctx, name, narinfo.MaxSize)
	if err != nil {
		return nil, err
	}
	info, err := narinfo.Parse(p.dir, text)
	if err == nil && narinfo.Name(info.Path) != name {
		err = fmt.Errorf("it is about %s", info.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &published{info: info}, nil
}

// keep marks an item, and what it refers to.
func (p *pruner) keep(it *published) {
	todo := []*published{it}
	for len(todo) > 0 {
		it := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if it.keep {
			continue
		}
		it.keep = true
		for _, ref := range it.info.References {
			if other := p.items[ref.HashPart()]; other != nil {
				todo = append(todo, other)
			}
		}
	}
}

// old returns what is not marked, references last.
func (p *pruner) old() ([]*published, error) {
	var infos []*store.Info
	for _, it := range p.items {
		if !it.keep {
			infos = append(infos, &it.info.Info)
		}
	}
	sorted, err := store.SortInfos(infos)
	if err != nil {
		return nil, err
	}
	slices.Reverse(sorted)
	old := make([]*published, 0, len(sorted))
	for _, info := range sorted {
		old = append(old, p.items[info.Path.HashPart()])
	}
	return old, nil
}

// removeItem removes an item: its narinfo first, so that no client is told of a NAR that is
// gone.
func (p *pruner) removeItem(ctx context.Context, it *published) error {
	if err := p.remove(ctx, narinfo.Name(it.info.Path)); err != nil {
		return err
	}
	for _, d := range it.info.Downloads {
		name, err := url.PathUnescape(d.URL)
		if err != nil || !strings.HasPrefix(name, "nar/") || !fs.ValidPath(name) {
			continue // another publisher's, on another server
		}
		if err := p.remove(ctx, name); err != nil {
			return err
		}
	}
	p.result.Items = append(p.result.Items, it.info.Path)
	return nil
}

func (p *pruner) remove(ctx context.Context, name string) error {
	if p.would[name] {
		return nil
	}
	found, err := p.fs.Stat(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && p.would == nil {
		err = p.fs.Remove(ctx, name)
	}
	if err != nil {
		return err
	}
	if p.would != nil {
		p.would[name] = true
	}
	p.result.Files++
	p.result.Freed += found.Size()
	return nil
}

// removeFiles removes old logs and failures, NARs without a narinfo, and what is left of
// writing that broke off.
func (p *pruner) removeFiles(ctx context.Context) error {
	orphaned := time.Now().Add(-orphanAge)
	for _, dir := range slices.Concat([]string{".", "log", "failures"}, narFolders) {
		files, err := p.fs.List(ctx, dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			if !f.Mode().IsRegular() {
				continue
			}
			before := orphaned
			switch {
			case strings.HasPrefix(f.Name(), temporary):
			case dir == "log" || dir == "failures":
				before = p.before
			case dir == "." || p.hasNarinfo(f.Name()):
				continue
			}
			if !f.ModTime().Before(before) {
				continue
			}
			if err := p.remove(ctx, path.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasNarinfo reports whether the NAR with that name is of an item that is there.
func (p *pruner) hasNarinfo(base string) bool {
	return p.items[base[:min(len(base), store.HashPartLen)]] != nil
}
