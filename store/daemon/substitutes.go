package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lighter/store"
	"lighter/store/derivation"
)

// Substitutable is what the daemon knows of an item that it could download.
type Substitutable struct {
	Path         store.Path
	Deriver      store.Path // empty where it is not known
	References   []store.Path
	DownloadSize int64 // bytes; 0 where it is not known
	NARSize      int64 // bytes; 0 where it is not known
}

// SubstitutablePaths returns those of the paths that the daemon could download, in the
// same order. It may take as long as the servers do.
func (s *Store) SubstitutablePaths(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	var found []store.Path
	err := s.check(paths...)
	if err == nil && len(paths) > 0 {
		found, err = s.subset(ctx, opQuerySubstitutable, paths)
	}
	if err != nil {
		return nil, fmt.Errorf("query substitutes of %d items: %w", len(paths), err)
	}
	return found, nil
}

// Substitute has the daemon download those of the paths that the servers have, and what they
// refer to. It returns the ones that are valid afterwards, also beside an error, which is
// about the others; what no server has is not an error. The daemon takes what is signed by a
// key of its ACL.
func (s *Store) Substitute(ctx context.Context, urls []string, paths []store.Path) ([]store.Path, error) {
	err := s.check(paths...)
	if err == nil && len(paths) > 0 {
		o := substituteOptions(urls)
		err = s.with(ctx, forBuild, o, func(c *conn) error {
			if err := c.addTempRoots(paths); err != nil {
				return err
			}
			if err := c.setOptions(o); err != nil {
				return err
			}
			c.op(opBuildThings)
			c.putPaths(paths)
			_ = c.w.Uint64(modeNormal) // the error comes with call
			if err := c.call(nil); err != nil {
				return err
			}
			return c.getDone()
		})
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	fetched, asked := s.ValidPaths(ctx, paths)
	if err = errors.Join(err, asked); err != nil {
		err = fmt.Errorf("substitute %d items: %w", len(paths), err)
	}
	return fetched, err
}

// SubstitutableInfos returns what is known of those of the paths that the daemon could
// download, in no order. It may take as long as the servers do.
func (s *Store) SubstitutableInfos(ctx context.Context, paths []store.Path) ([]Substitutable, error) {
	var found []Substitutable
	err := s.check(paths...)
	if err == nil && len(paths) > 0 {
		err = s.do(ctx, func(c *conn) (err error) {
			c.op(opQuerySubstitutables)
			c.putPaths(paths)
			if err := c.call(nil); err != nil {
				return err
			}
			found, err = s.getSubstitutables(c)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("query substitutes of %d items: %w", len(paths), err)
	}
	return found, nil
}

func (s *Store) getSubstitutables(c *conn) ([]Substitutable, error) {
	n, err := c.r.Int64(maxPaths)
	if err != nil {
		return nil, lost(err)
	}
	var found []Substitutable // grows with what arrives
	for range n {
		var it Substitutable
		if it.Path, err = c.getPath(s.dir, false); err != nil {
			return nil, err
		}
		if it.Deriver, err = c.getPath(s.dir, true); err != nil {
			return nil, err
		}
		if it.References, err = c.getPaths(s.dir); err != nil {
			return nil, err
		}
		if it.DownloadSize, err = c.getInt64(); err != nil {
			return nil, err
		}
		if it.NARSize, err = c.getInt64(); err != nil {
			return nil, err
		}
		found = append(found, it)
	}
	return found, nil
}

// Plan is what would have to be done to make items valid.
type Plan struct {
	Build    []store.Path    // derivations
	Download []Substitutable // outputs, and what they refer to
	Unknown  []store.Path    // neither can be had nor built
}

// MissingPaths returns what it would take to have the outputs of the derivations among
// paths, and the other items: what "guix build -n" prints. With Options.Substitutes the
// daemon is asked what it could download. Derivations are read from the disk.
func (s *Store) MissingPaths(ctx context.Context, paths []store.Path) (*Plan, error) {
	p := &planner{store: s, seen: make(map[string]bool), plan: new(Plan), building: make(map[store.Path]bool)}
	for _, path := range paths {
		p.want(path, nil)
	}
	for len(p.items) > 0 || len(p.derivations) > 0 {
		if err := p.step(ctx); err != nil {
			return nil, fmt.Errorf("plan %d items: %w", len(paths), err)
		}
	}
	return p.plan, nil
}

// planner walks from what is wanted to what is there, breadth first, so that the daemon is
// asked about many items at once.
type planner struct {
	store    *Store
	plan     *Plan
	seen     map[string]bool
	building map[store.Path]bool

	items       []store.Path // that are wanted, in this step
	derivations []derivation.Input
}

// want notes that an item is wanted, or outputs of a derivation: all if none is named.
func (p *planner) want(path store.Path, outputs []string) {
	key := string(path)
	for _, o := range outputs {
		key += "!" + o
	}
	if p.seen[key] {
		return
	}
	p.seen[key] = true
	if path.IsDerivation() {
		p.derivations = append(p.derivations, derivation.Input{Path: path, Outputs: outputs})
		return
	}
	p.items = append(p.items, path)
}

// wanted is a derivation with those of its outputs that are wanted.
type wanted struct {
	path    store.Path
	drv     *derivation.Derivation
	outputs []store.Path
}

func (p *planner) step(ctx context.Context) error {
	items, inputs := p.items, p.derivations
	p.items, p.derivations = nil, nil
	var drvs []wanted
	asked := slices.Clone(items)
	for _, in := range inputs {
		w, err := p.read(in)
		if errors.Is(err, errNoDerivation) {
			p.plan.Unknown = append(p.plan.Unknown, in.Path)
			continue
		}
		if err != nil {
			return err
		}
		drvs = append(drvs, w)
		asked = append(asked, w.outputs...)
	}
	missing, err := store.Missing(ctx, p.store, asked)
	if err != nil {
		return err
	}
	lacks, offers, err := p.offers(ctx, missing)
	if err != nil {
		return err
	}
	for _, item := range items {
		if !lacks[item] {
			continue
		}
		if !p.download(offers, item) {
			p.plan.Unknown = append(p.plan.Unknown, item)
		}
	}
	for _, w := range drvs {
		p.planDerivation(w, lacks, offers)
	}
	return nil
}

// offers returns the missing items as a set, and which of them can be downloaded.
func (p *planner) offers(ctx context.Context, missing []store.Path) (map[store.Path]bool, map[store.Path]*Substitutable, error) {
	lacks := make(map[store.Path]bool, len(missing))
	for _, m := range missing {
		lacks[m] = true
	}
	offers := make(map[store.Path]*Substitutable)
	if !p.store.substitutes {
		return lacks, offers, nil
	}
	found, err := p.store.SubstitutableInfos(ctx, missing)
	if err != nil {
		return nil, nil, err
	}
	for i := range found {
		offers[found[i].Path] = &found[i]
	}
	return lacks, offers, nil
}

var errNoDerivation = errors.New("the derivation cannot be read")

func (p *planner) read(in derivation.Input) (wanted, error) {
	text, err := p.store.readText(in.Path, derivation.MaxSize)
	if err != nil {
		return wanted{}, fmt.Errorf("%w: %w", errNoDerivation, err)
	}
	drv, err := derivation.Parse(p.store.dir, text)
	if err != nil {
		return wanted{}, fmt.Errorf("%s: %w", in.Path, err)
	}
	w := wanted{path: in.Path, drv: drv}
	for _, o := range drv.Outputs {
		if len(in.Outputs) == 0 || slices.Contains(in.Outputs, o.Name) {
			w.outputs = append(w.outputs, o.Path)
		}
	}
	return w, nil
}

// download plans to download an item if that can be done.
func (p *planner) download(offers map[store.Path]*Substitutable, item store.Path) bool {
	offer := offers[item]
	if offer == nil {
		return false
	}
	if p.seen["got "+string(item)] {
		return true
	}
	p.seen["got "+string(item)] = true
	p.plan.Download = append(p.plan.Download, *offer)
	for _, r := range offer.References {
		p.want(r, nil)
	}
	return true
}

func (p *planner) planDerivation(w wanted, lacks map[store.Path]bool, offers map[store.Path]*Substitutable) {
	missing := slices.DeleteFunc(slices.Clone(w.outputs), func(o store.Path) bool { return !lacks[o] })
	if len(missing) == 0 {
		return
	}
	offered := w.drv.SubstitutesAllowed() && !slices.ContainsFunc(missing, func(o store.Path) bool { return offers[o] == nil })
	if offered {
		for _, o := range missing {
			p.download(offers, o)
		}
		return
	}
	if p.building[w.path] {
		return
	}
	p.building[w.path] = true
	p.plan.Build = append(p.plan.Build, w.path)
	for _, source := range w.drv.Sources {
		p.want(source, nil)
	}
	for _, in := range w.drv.Inputs {
		p.want(in.Path, in.Outputs)
	}
}
