// Package ahead finds out what comes after a build that guix-daemon asks for. guix-daemon asks for one derivation after
// the other, each when it can be built, and does not say for what; but before a client has something built, all
// derivations for it are in the head's store. So those that refer to a derivation, and whose outputs are not there, are
// those that wait for it.
//
// A [Scout] goes through them in a goroutine of its own, a limited number at a time, and remembers them for a while, so
// that a build which nobody needs costs one question to the store, and a graph of many thousands is read once for all
// its builds. [Coming] has what is asked for next, when outputs that are on their way are there.
package ahead

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/mailbox"
	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
	"lighter/store"
)

const (
	// maxNodes bounds how many derivations are remembered: more than all packages have.
	maxNodes = 100_000
	// maxAtOnce is how many derivations are read for one question before the next has its turn.
	maxAtOnce = 2000
	// batch is how many derivations the store is asked about together.
	batch = 64
	// maxReferrers is how many of the referrers of one derivation are looked at.
	maxReferrers = 8192
	// fresh is how long it counts who needs a derivation; clients come and go.
	fresh = 10 * time.Minute
	// idle is after how long without a question everything is forgotten.
	idle = time.Hour
	// generation is how much older than the newest of its referrers others may be that count. What the store
	// has from earlier versions of the same packages is not being built.
	generation = 72 * time.Hour
)

// Need is what waits for a derivation.
type Need struct {
	// After is the longest path of builds that follow it, at speed 1, without its own.
	After time.Duration
	// Dependants is how many derivations need it directly.
	Dependants int
}

// Successor is a derivation that can be built when others have been.
type Successor struct {
	Node     *headstore.Node
	Estimate estimate.Estimate
	Need     Need
	// Waits are the derivations whose outputs it needs and which are not there yet.
	Waits []store.Path
}

// Options are what a Scout works with. All are required.
type Options struct {
	Head   *headstore.Store
	Ledger *ledger.Ledger // has what was measured of earlier builds
	Logger *slog.Logger
	Now    func() time.Time
	// Wanted reports whether it still counts what more is found about a derivation.
	Wanted func(store.Path) bool
	// Needed gets the answer to Ask: the first one soon, and further ones while more is found.
	Needed func(store.Path, Need)
	// Next gets the answer to AskNext, the most urgent first; it is not called if there are none.
	Next func(store.Path, []Successor)
}

// Scout answers questions about what comes after builds. Ask and AskNext may be called by any goroutine, and Run by one.
type Scout struct {
	opts      Options
	referrer  store.Referrer // nil if the store can't tell
	questions *mailbox.Mailbox[question]

	nodes map[store.Path]*node // of the goroutine of Run
}

type question struct {
	drv  store.Path
	next bool
}

// node is a derivation in the head's store.
type node struct {
	path       store.Path
	registered time.Time
	expected   time.Duration // 0 until it was read
	outputs    []store.Path  // none if it can't be read
	asked      time.Time     // when waiting was found out; zero: never
	waiting    []*node       // those that need it and are not there
	after      time.Duration
	ranked     time.Time // when after was found out, with all that it depends on
}

// New returns a scout that has not looked at anything.
func New(o Options) *Scout {
	s := &Scout{opts: o, questions: mailbox.New[question](), nodes: make(map[store.Path]*node)}
	s.referrer, _ = o.Head.Backend.(store.Referrer)
	return s
}

// Ask asks what waits for a derivation.
func (s *Scout) Ask(drv store.Path) { s.put(question{drv: drv}) }

// AskNext asks what can be built once a derivation's outputs are at home, perhaps with those of a few others.
func (s *Scout) AskNext(drv store.Path) { s.put(question{drv, true}) }

func (s *Scout) put(q question) {
	if s.referrer != nil {
		s.questions.Put(q)
	}
}

// Run answers questions until ctx ends.
func (s *Scout) Run(ctx context.Context) {
	var open []question
	for ctx.Err() == nil {
		if len(open) == 0 {
			if !s.wait(ctx) {
				return
			}
		}
		open = append(s.questions.Take(), open...)
		if len(open) == 0 {
			continue
		}
		q := open[0]
		if open = open[1:]; !s.answer(ctx, q) && s.opts.Wanted(q.drv) {
			open = append(open, q)
		}
	}
}

// wait waits for a question, and forgets everything if there is none for long.
func (s *Scout) wait(ctx context.Context) bool {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.questions.Ready():
			return true
		case <-timer.C:
			clear(s.nodes)
		}
	}
}

// answer answers a question, as far as it is known, and reports whether that is all.
func (s *Scout) answer(ctx context.Context, q question) bool {
	n := s.node(q.drv)
	all, err := s.explore(ctx, n)
	if err != nil {
		if ctx.Err() == nil {
			s.opts.Logger.Debug("what a build is needed for is not known", "derivation", q.drv, "err", err)
		}
		return true
	}
	if !q.next {
		s.opts.Needed(q.drv, n.need())
		return all
	}
	next, err := s.next(ctx, n)
	if err != nil {
		s.opts.Logger.Debug("what comes after a build is not known", "derivation", q.drv, "err", err)
	}
	if len(next) > 0 {
		s.opts.Next(q.drv, next)
	}
	return true
}

func (n *node) need() Need { return Need{After: n.after, Dependants: len(n.waiting)} }

func (s *Scout) node(p store.Path) *node {
	n := s.nodes[p]
	if n == nil {
		n = &node{path: p}
		s.nodes[p] = n
	}
	return n
}

// explore finds out what waits for a derivation, directly or not, level by level, and reports whether
// that is all of it.
func (s *Scout) explore(ctx context.Context, root *node) (all bool, err error) {
	now := s.opts.Now()
	if now.Sub(root.ranked) < fresh {
		return true, nil
	}
	seen := map[*node]bool{root: true}
	level := []*node{root}
	left := maxAtOnce
	for len(level) > 0 {
		var old []*node
		for _, n := range level {
			if n.asked.IsZero() || now.Sub(n.asked) >= fresh {
				old = append(old, n)
			}
		}
		if len(s.nodes) >= maxNodes {
			s.makeRoom(now)
		}
		for part := range slices.Chunk(old, batch) {
			if left <= 0 || len(s.nodes) >= maxNodes {
				break
			}
			if err := s.look(ctx, part, now, &left); err != nil {
				return false, err
			}
		}
		var above []*node
		for _, n := range level {
			for _, w := range n.waiting {
				if !seen[w] {
					if seen[w] = true; now.Sub(w.ranked) >= fresh {
						above = append(above, w)
					}
				}
			}
		}
		level = above
	}
	all = left > 0 || len(s.nodes) >= maxNodes
	path := longest{done: make(map[*node]bool, len(seen)), now: now, all: all}
	path.follow(root)
	return all, nil
}

// makeRoom forgets what nobody has asked about lately.
func (s *Scout) makeRoom(now time.Time) {
	for p, n := range s.nodes {
		if now.Sub(n.asked) >= 2*fresh {
			delete(s.nodes, p)
		}
	}
}

// look finds out what waits directly for some derivations, and takes from left how many were looked at.
func (s *Scout) look(ctx context.Context, nodes []*node, now time.Time, left *int) error {
	paths := make([]store.Path, len(nodes))
	for i, n := range nodes {
		paths[i] = n.path
	}
	referrers, err := s.referrer.Referrers(ctx, paths)
	if err != nil {
		return err
	}
	*left -= len(nodes)
	unknown := make(map[store.Path]*node)
	for i := range referrers {
		referrers[i] = slices.DeleteFunc(referrers[i], func(p store.Path) bool { return !p.IsDerivation() || p == paths[i] })
		referrers[i] = referrers[i][:min(len(referrers[i]), maxReferrers)]
		for _, p := range referrers[i] {
			if s.nodes[p] == nil {
				unknown[p] = nil
			}
		}
	}
	if err := s.date(ctx, unknown); err != nil {
		return err
	}
	lately := make([][]*node, len(nodes))
	var outputs []store.Path
	for i := range nodes {
		lately[i] = s.lately(referrers[i], unknown)
		for _, n := range lately[i] {
			if n.expected == 0 {
				s.read(ctx, n)
				*left--
			}
			outputs = append(outputs, n.outputs...)
		}
	}
	slices.Sort(outputs)
	valid, err := store.ValidPaths(ctx, s.opts.Head.Backend, slices.Compact(outputs))
	if err != nil {
		return err
	}
	there := make(map[store.Path]bool, len(valid))
	for _, p := range valid {
		there[p] = true
	}
	for i, n := range nodes {
		n.asked, n.waiting = now, nil
		for _, w := range lately[i] {
			// One output is enough, since often no others were wanted from a substitute server.
			if len(w.outputs) > 0 && !slices.ContainsFunc(w.outputs, func(p store.Path) bool { return there[p] }) {
				n.waiting = append(n.waiting, w)
			}
		}
	}
	return ctx.Err()
}

// date makes nodes of derivations, with the times at which they came into the store.
func (s *Scout) date(ctx context.Context, unknown map[store.Path]*node) error {
	paths := make([]store.Path, 0, len(unknown))
	for p := range unknown {
		paths = append(paths, p)
	}
	infos, err := s.infos(ctx, paths)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if info != nil {
			unknown[info.Path] = &node{path: info.Path, registered: info.Registered}
		}
	}
	return nil
}

func (s *Scout) infos(ctx context.Context, paths []store.Path) ([]*store.Info, error) {
	if many, ok := s.opts.Head.Backend.(store.Informer); ok {
		return many.Infos(ctx, paths)
	}
	infos := make([]*store.Info, len(paths))
	for i, p := range paths {
		infos[i], _ = s.opts.Head.Info(ctx, p) // nil if it has gone
	}
	return infos, ctx.Err()
}

// lately returns the newest of some derivations, and those that came into the store within a generation of them.
func (s *Scout) lately(paths []store.Path, unknown map[store.Path]*node) []*node {
	list := make([]*node, 0, len(paths))
	var newest time.Time
	for _, p := range paths {
		n := cmp.Or(s.nodes[p], unknown[p])
		if n == nil {
			continue
		}
		list = append(list, n)
		if n.registered.After(newest) {
			newest = n.registered
		}
	}
	list = slices.DeleteFunc(list, func(n *node) bool { return newest.Sub(n.registered) > generation })
	for _, n := range list {
		s.nodes[n.path] = n
	}
	return list
}

// read reads what a derivation makes, and what that probably takes. Of one that can't be read nothing is expected.
func (s *Scout) read(ctx context.Context, n *node) {
	n.expected = time.Nanosecond
	d, err := s.opts.Head.Glance(ctx, n.path)
	if err != nil {
		s.opts.Logger.Debug("a derivation that needs others can't be read", "derivation", n.path, "err", err)
		return
	}
	n.outputs, _ = d.OutputPaths(nil) // naming none cannot fail
	n.expected = max(n.expected, s.estimate(ctx, d).Duration.Middle())
}

func (s *Scout) estimate(ctx context.Context, d *headstore.Node) estimate.Estimate {
	e, err := s.opts.Ledger.Estimate(ctx, d.Key())
	if err != nil {
		s.opts.Logger.Debug("what was measured of earlier builds is not known", "err", err)
	}
	return e
}

// longest finds the longest paths.
type longest struct {
	done map[*node]bool
	now  time.Time
	all  bool // they are final
}

// follow finds out the longest path that follows a node.
func (l *longest) follow(n *node) time.Duration {
	if l.done[n] || l.now.Sub(n.ranked) < fresh {
		return n.after
	}
	l.done[n] = true
	after := time.Duration(0)
	for _, w := range n.waiting {
		after = max(after, w.expected+l.follow(w))
	}
	if n.after = after; l.all {
		n.ranked = l.now
	}
	return after
}

const (
	// maxTried is of how many derivations it is found out whether they wait for few builds alone, and
	// maxNext how many of those are told.
	maxTried = 32
	maxNext  = 8
	// maxWaits is for how many builds such a derivation may wait.
	maxWaits = 16
)

// next returns the derivations that wait for this one and few others.
func (s *Scout) next(ctx context.Context, n *node) ([]Successor, error) {
	urgent := slices.SortedFunc(slices.Values(n.waiting), func(a, b *node) int {
		return cmp.Or(cmp.Compare(b.expected+b.after, a.expected+a.after), cmp.Compare(a.path, b.path))
	})
	var list []Successor
	for _, w := range urgent[:min(len(urgent), maxTried)] {
		waits, err := s.waitsFor(ctx, w.path)
		if err != nil {
			return list, err
		}
		if len(waits) == 0 || len(waits) > maxWaits {
			continue
		}
		d, err := s.opts.Head.Glance(ctx, w.path)
		if err != nil {
			return list, err
		}
		list = append(list, Successor{d, s.estimate(ctx, d), w.need(), waits})
		if len(list) == maxNext {
			break
		}
	}
	return list, nil
}

// waitsFor returns the derivations whose outputs a derivation needs and which are not there.
func (s *Scout) waitsFor(ctx context.Context, drv store.Path) ([]store.Path, error) {
	d, err := s.opts.Head.Glance(ctx, drv)
	if err != nil {
		return nil, err
	}
	of := make(map[store.Path]store.Path) // which derivation makes an output
	var outputs []store.Path
	for _, in := range d.Inputs {
		input, err := s.opts.Head.Node(ctx, in)
		if err != nil {
			return nil, err
		}
		paths, err := input.OutputPaths(d.InputOutputs(in))
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			of[p] = in
			outputs = append(outputs, p)
		}
	}
	valid, err := store.ValidPaths(ctx, s.opts.Head.Backend, outputs)
	if err != nil {
		return nil, err
	}
	for _, p := range valid {
		delete(of, p)
	}
	var waits []store.Path
	for _, in := range of {
		if !slices.Contains(waits, in) {
			waits = append(waits, in)
		}
	}
	slices.Sort(waits)
	return waits, nil
}
