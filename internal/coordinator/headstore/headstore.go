// Package headstore is the store of the head with a memory for what does not change: the infos of
// items, and what the coordinator needs of derivations (a [Node]).
package headstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"sync"

	"lighter/nar"
	"lighter/scheduler/estimate"
	"lighter/store"
	"lighter/store/derivation"
)

const (
	// maxDerivation bounds the text of a derivation, in bytes.
	maxDerivation = 64 << 20
	// maxInfos, maxNodes and maxPaths bound how many items, derivations, and names of their
	// inputs are remembered.
	maxInfos = 1 << 15
	maxNodes = 1 << 14
	maxPaths = 1 << 16
)

// Backend is what the coordinator needs of the head's store. It uses optional abilities of package
// store, such as Leaser and Informer, if there are any.
type Backend interface {
	store.Store
	store.NARWriter
	store.Exporter
	store.Importer
}

// Error is a failure of the head itself, such as one of its store, for which no machine and no
// derivation is to blame.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// LostError says that inputs of a build are no longer anywhere. It matches store.ErrNotValid.
type LostError struct {
	Paths []store.Path // at least one
	Why   string
}

func (e *LostError) Error() string { return e.Paths[0].String() + ": " + e.Why }

// Is reports whether the error matches another.
func (e *LostError) Is(target error) bool { return target == store.ErrNotValid }

// Lost returns the inputs that an error says are lost, or nil.
func Lost(err error) []store.Path {
	var e *LostError
	if errors.As(err, &e) {
		return e.Paths
	}
	return nil
}

// Store is the store of the head, with a memory for what does not change.
type Store struct {
	Backend

	mu    sync.Mutex
	infos map[store.Path]*store.Info // of items that were valid when they were asked for
	nodes map[store.Path]*Node
	paths map[store.Path]store.Path // one copy in memory of each name
}

// New returns the store with an empty memory.
func New(s Backend) *Store {
	return &Store{Backend: s, infos: make(map[store.Path]*store.Info), nodes: make(map[store.Path]*Node), paths: make(map[store.Path]store.Path)}
}

// Lease protects items in the head's store from its garbage collector until it is released.
func (h *Store) Lease(ctx context.Context, name string, paths ...store.Path) (store.Lease, error) {
	leaser, ok := h.Backend.(store.Leaser)
	if !ok {
		return NoLease{}, nil
	}
	l, err := leaser.Lease(ctx, name)
	if err != nil {
		return nil, &Error{err}
	}
	if err := l.Add(ctx, paths...); err != nil {
		return nil, &Error{errors.Join(err, l.Release())}
	}
	return l, nil
}

// NoLease is the lease of a store that never collects garbage while it is used.
type NoLease struct{}

func (NoLease) Add(context.Context, ...store.Path) error { return nil }
func (NoLease) Release() error                           { return nil }

// Recall returns the info of an item from memory, or else from the store. The item may not be valid
// any longer; if it is not remembered and not valid the error matches store.ErrNotValid. The
// result is shared and must not be changed.
func (h *Store) Recall(ctx context.Context, p store.Path) (*store.Info, error) {
	h.mu.Lock()
	info := h.infos[p]
	h.mu.Unlock()
	if info != nil {
		return info, nil
	}
	info, err := h.Info(ctx, p)
	if err != nil {
		return nil, err
	}
	h.Remember(info)
	return info, nil
}

// Prefetch remembers the infos of items, if the store can tell many at once. An error shows again
// when an item is asked for.
func (h *Store) Prefetch(ctx context.Context, paths []store.Path) {
	s, ok := h.Backend.(store.Informer)
	if !ok {
		return
	}
	h.mu.Lock()
	var unknown []store.Path
	for _, p := range paths {
		if h.infos[p] == nil {
			unknown = append(unknown, p)
		}
	}
	h.mu.Unlock()
	if len(unknown) == 0 {
		return
	}
	infos, err := s.Infos(ctx, unknown)
	if err != nil {
		return
	}
	h.Remember(slices.DeleteFunc(infos, func(info *store.Info) bool { return info == nil })...)
}

// Remember remembers infos of valid items.
func (h *Store) Remember(infos ...*store.Info) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, info := range infos {
		makeRoom(h.infos, maxInfos)
		h.infos[info.Path] = info
	}
}

// Forget forgets items that turned out to be no longer valid.
func (h *Store) Forget(paths ...store.Path) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range paths {
		delete(h.infos, p)
	}
}

// Size returns an item's NAR size in bytes if it is remembered, else 0.
func (h *Store) Size(p store.Path) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if info := h.infos[p]; info != nil {
		return info.NARSize
	}
	return 0
}

// makeRoom drops some entries of a memory that is full.
func makeRoom[K comparable, V any](m map[K]V, limit int) {
	if len(m) < limit {
		return
	}
	for k := range m {
		delete(m, k)
		if len(m) < limit*3/4 {
			return
		}
	}
}

// Text reads a derivation's contents.
func (h *Store) Text(ctx context.Context, p store.Path) ([]byte, error) {
	var b limitedBuffer
	if err := h.WriteNAR(ctx, &b, p); err != nil {
		return nil, fmt.Errorf("read derivation %s: %w", p, err)
	}
	r := nar.NewReader(&b)
	header, err := r.Next()
	if err == nil && header.Kind != nar.Regular {
		err = fmt.Errorf("it is a %s", header.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("read derivation %s: %w", p, err)
	}
	text := make([]byte, min(header.Size, maxDerivation)) // the size is a claim
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("read derivation %s: %w", p, err)
	}
	return text, nil
}

// limitedBuffer is a buffer that takes at most maxDerivation bytes.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxDerivation {
		return 0, fmt.Errorf("it has more than %d bytes", maxDerivation)
	}
	return b.Buffer.Write(p)
}

// Node returns a derivation of the head's store, without the outputs of its inputs.
// The result is shared and must not be changed.
func (h *Store) Node(ctx context.Context, p store.Path) (*Node, error) {
	h.mu.Lock()
	n := h.nodes[p]
	h.mu.Unlock()
	if n != nil {
		return n, nil
	}
	if !p.IsDerivation() {
		return nil, fmt.Errorf("%s is not a derivation", p)
	}
	text, err := h.Text(ctx, p)
	if err != nil {
		return nil, err
	}
	if n, err = h.parse(p, text); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.share(n)
	makeRoom(h.nodes, maxNodes)
	h.nodes[p] = n
	return n, nil
}

func (h *Store) parse(p store.Path, text []byte) (*Node, error) {
	drv, err := derivation.Parse(h.Dir(), text)
	if err != nil {
		return nil, fmt.Errorf("derivation %s: %w", p, err)
	}
	return newNode(p, drv), nil
}

// Glance returns what Node does, of a derivation that is valid, and is meant for very many: what it reads is not
// remembered, and it reads the file itself where there is one, so that the store keeps nothing for it.
func (h *Store) Glance(ctx context.Context, p store.Path) (*Node, error) {
	h.mu.Lock()
	n := h.nodes[p]
	h.mu.Unlock()
	if n != nil {
		return n, nil
	}
	text, err := h.glance(ctx, p)
	if err != nil {
		return nil, err
	}
	return h.parse(p, text)
}

func (h *Store) glance(ctx context.Context, p store.Path) ([]byte, error) {
	s, ok := h.Backend.(interface{ PhysicalPath(store.Path) string })
	if !ok {
		return h.Text(ctx, p)
	}
	f, err := os.Open(s.PhysicalPath(p))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxDerivation {
		return nil, fmt.Errorf("derivation %s is no file of at most %d bytes", p, maxDerivation)
	}
	return io.ReadAll(io.LimitReader(f, maxDerivation))
}

// share makes a node use the copies of names that other nodes use: most derivations have most of
// their inputs in common.
func (h *Store) share(n *Node) {
	for _, names := range [][]store.Path{n.Inputs, n.Sources} {
		for i, p := range names {
			known, ok := h.paths[p]
			if !ok {
				makeRoom(h.paths, maxPaths)
				h.paths[p], known = p, p
			}
			names[i] = known
		}
	}
}

// Node is what is remembered of a derivation. It does not change.
type Node struct {
	Path     store.Path
	System   string
	Features []string
	Inputs   []store.Path            // derivations
	wanted   map[store.Path][]string // outputs of inputs, where that is not "out" alone
	Sources  []store.Path
	Outputs  []derivation.Output
	Fixed    bool // it has a fixed output, whose hash is known before it is made
	// kind and buildSystem are parts of the key of its estimate.
	kind        estimate.Kind
	buildSystem string
}

func newNode(p store.Path, d *derivation.Derivation) *Node {
	_, fixed := d.FixedOutput()
	n := &Node{
		Path: p, System: d.System, Features: d.RequiredFeatures(), Inputs: make([]store.Path, len(d.Inputs)), Sources: slices.Clone(d.Sources),
		Outputs: d.Outputs, Fixed: fixed,
	}
	properties, _ := d.Getenv("guix properties")
	key := estimate.KeyOf(estimate.Build{Name: derivation.NameOf(p), System: d.System, Fixed: fixed, Properties: properties, Inputs: inputNames(d)})
	n.kind, n.buildSystem = key.Kind, key.BuildSystem
	for i, in := range d.Inputs {
		n.Inputs[i] = in.Path
		if slices.Equal(in.Outputs, onlyOut) {
			continue
		}
		if n.wanted == nil {
			n.wanted = make(map[store.Path][]string)
		}
		n.wanted[in.Path] = in.Outputs
	}
	return n
}

// inputNames yields the names of the derivations that one needs.
func inputNames(d *derivation.Derivation) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, in := range d.Inputs {
			if !yield(derivation.NameOf(in.Path)) {
				return
			}
		}
	}
}

// onlyOut is what is needed of most inputs. It is not changed.
var onlyOut = []string{"out"}

// InputOutputs returns the names of the outputs that are needed of an input.
func (n *Node) InputOutputs(input store.Path) []string {
	if names, ok := n.wanted[input]; ok {
		return names
	}
	return onlyOut
}

// NeededBy returns the names of the outputs that others need; nil for all, or none.
func (n *Node) NeededBy(others iter.Seq[*Node]) []string {
	var names []string
	for _, o := range n.Outputs {
		for other := range others {
			if slices.Contains(other.InputOutputs(n.Path), o.Name) {
				names = append(names, o.Name)
				break
			}
		}
	}
	if len(names) == len(n.Outputs) {
		return nil
	}
	return names
}

// OutputPaths returns the paths of the named outputs, or of all if none is named.
func (n *Node) OutputPaths(names []string) ([]store.Path, error) {
	if len(names) == 0 {
		paths := make([]store.Path, len(n.Outputs))
		for i, o := range n.Outputs {
			paths[i] = o.Path
		}
		return paths, nil
	}
	paths := make([]store.Path, 0, len(names))
	for _, name := range names {
		i := 0
		for i < len(n.Outputs) && n.Outputs[i].Name != name {
			i++
		}
		if i == len(n.Outputs) {
			return nil, fmt.Errorf("derivation %s has no output %q", n.Path, name)
		}
		paths = append(paths, n.Outputs[i].Path)
	}
	return paths, nil
}

// OutputMap returns the paths of all outputs by name.
func (n *Node) OutputMap() map[string]store.Path {
	paths := make(map[string]store.Path, len(n.Outputs))
	for _, o := range n.Outputs {
		paths[o.Name] = o.Path
	}
	return paths
}

// Key is that of the estimate of what a build of it takes.
func (n *Node) Key() estimate.Key {
	name, version := estimate.SplitName(derivation.NameOf(n.Path))
	return estimate.Key{Kind: n.kind, Name: name, System: n.System, Version: version, BuildSystem: n.buildSystem}
}

// VetOutputs returns an error unless the outputs that a machine says it made are those of the
// derivation. For a check some may be left out.
func (n *Node) VetOutputs(outputs map[string]*store.Info, check bool) error {
	for _, o := range n.Outputs {
		info, told := outputs[o.Name]
		if !told && check {
			continue // some machines tell only what differs; see package compare
		}
		if info == nil || info.Path != o.Path {
			return fmt.Errorf("its agent says that the build succeeded, but not that it made %s", o.Path)
		}
	}
	for name, info := range outputs {
		if info == nil || !n.Makes(info.Path) || !slices.ContainsFunc(n.Outputs, func(o derivation.Output) bool { return o.Name == name }) {
			return fmt.Errorf("its agent says that the build made an output %.60q, which %s does not have", name, n.Path)
		}
	}
	return nil
}

// Makes reports whether an item is an output of the derivation.
func (n *Node) Makes(p store.Path) bool {
	return slices.ContainsFunc(n.Outputs, func(o derivation.Output) bool { return o.Path == p })
}
