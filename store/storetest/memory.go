// Package storetest has what tests of stores share: [Memory], a store in memory
// that checks what a real one checks, and [TestStore], the suite that every
// backend passes.
//
// A test of code that uses a store gives it a Memory. It is not a mock: a bad
// signature, a wrong hash or a missing reference is refused as by a real store.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

// maxNAR bounds the NARs that a Memory takes, in bytes.
const maxNAR = 256 << 20

// Memory is a store in memory. It implements all of package store but Builder.
type Memory struct {
	dir store.Dir
	key *signature.PrivateKey
	acl *signature.ACL

	mu     sync.Mutex // owns all below, and what the leases hold
	items  map[store.Path]*item
	leases map[*lease]bool
}

// item is a valid item. It is not changed once it is in Memory.items, but by Damage.
type item struct {
	info store.Info
	nar  []byte
}

var (
	_ store.Store     = (*Memory)(nil)
	_ store.Validator = (*Memory)(nil)
	_ store.Referrer  = (*Memory)(nil)
	_ store.NARWriter = (*Memory)(nil)
	_ store.Exporter  = (*Memory)(nil)
	_ store.Importer  = (*Memory)(nil)
	_ store.Adder     = (*Memory)(nil)
	_ store.Leaser    = (*Memory)(nil)
	_ store.Collector = (*Memory)(nil)
	_ store.Verifier  = (*Memory)(nil)
)

// NewMemory returns an empty store. It signs exports with key, and takes imports
// that are signed by a key in acl, which must not be changed any more.
func NewMemory(dir store.Dir, key *signature.PrivateKey, acl *signature.ACL) *Memory {
	return &Memory{dir: dir, key: key, acl: acl, items: make(map[store.Path]*item), leases: make(map[*lease]bool)}
}

// Dir implements store.Store.
func (m *Memory) Dir() store.Dir { return m.dir }

// Info implements store.Store.
func (m *Memory) Info(ctx context.Context, path store.Path) (*store.Info, error) {
	it, err := m.item(ctx, path)
	if err != nil {
		return nil, err
	}
	return it.copyInfo(), nil
}

// ValidPaths implements store.Validator.
func (m *Memory) ValidPaths(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var valid []store.Path
	for _, p := range paths {
		if m.items[p] != nil {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

// Referrers implements store.Referrer.
func (m *Memory) Referrers(ctx context.Context, paths []store.Path) ([][]store.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	to := make(map[store.Path][]store.Path)
	for p, it := range m.items {
		for _, r := range it.info.References {
			to[r] = append(to[r], p)
		}
	}
	referrers := make([][]store.Path, len(paths))
	for i, p := range paths {
		referrers[i] = slices.Clone(to[p])
	}
	return referrers, nil
}

// WriteNAR implements store.NARWriter.
func (m *Memory) WriteNAR(ctx context.Context, w io.Writer, path store.Path) error {
	it, err := m.item(ctx, path)
	if err != nil {
		return err
	}
	return it.write(ctx, w)
}

// Paths returns all valid items, sorted.
func (m *Memory) Paths() []store.Path {
	m.mu.Lock()
	defer m.mu.Unlock()
	paths := make([]store.Path, 0, len(m.items))
	for p := range m.items {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// AddText implements store.Adder.
func (m *Memory) AddText(ctx context.Context, name string, content []byte, references []store.Path) (store.Path, error) {
	refs := sortedCopy(references)
	path, err := m.dir.TextPath(name, content, refs)
	if err != nil {
		return "", fmt.Errorf("add text %s: %w", name, err)
	}
	if err := m.add(ctx, path, fileNAR(content), refs); err != nil {
		return "", fmt.Errorf("add text %s: %w", name, err)
	}
	return path, nil
}

// AddNAR implements store.Adder.
func (m *Memory) AddNAR(ctx context.Context, name string, r io.Reader) (store.Path, error) {
	var b bytes.Buffer
	if err := copyNAR(&b, stream.ReaderUntil(ctx, r)); err != nil {
		return "", fmt.Errorf("add %s: %w", name, err)
	}
	path, err := m.dir.SourcePath(name, sha256.Sum256(b.Bytes()))
	if err != nil {
		return "", fmt.Errorf("add %s: %w", name, err)
	}
	if err := m.add(ctx, path, b.Bytes(), nil); err != nil {
		return "", fmt.Errorf("add %s: %w", name, err)
	}
	return path, nil
}

// Damage flips one bit of an item's contents behind the store's back.
func (m *Memory) Damage(path store.Path) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	it := m.items[path]
	if it == nil {
		return store.NotValid(path)
	}
	damaged := bytes.Clone(it.nar)
	damaged[len(damaged)/2] ^= 1
	m.items[path] = &item{info: it.info, nar: damaged}
	return nil
}

// add makes an item valid unless it is. The references must be sorted.
func (m *Memory) add(ctx context.Context, path store.Path, contents []byte, references []store.Path) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := m.register(&item{
		nar: contents,
		info: store.Info{
			Path:       path,
			NARHash:    sha256.Sum256(contents),
			NARSize:    int64(len(contents)),
			References: references,
			Registered: time.Now(),
		},
	})
	return err
}

// register makes an item visible and returns what is known of it, which is older
// if the item was valid before. Its references, other than itself, must be valid.
func (m *Memory) register(it *item) (*store.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range it.info.References {
		if r != it.info.Path && m.items[r] == nil {
			return nil, fmt.Errorf("%s refers to %w", it.info.Path, store.NotValid(r))
		}
	}
	if old := m.items[it.info.Path]; old != nil {
		return old.copyInfo(), nil
	}
	m.items[it.info.Path] = it
	return it.copyInfo(), nil
}

func (m *Memory) item(ctx context.Context, path store.Path) (*item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if it := m.items[path]; it != nil {
		return it, nil
	}
	return nil, store.NotValid(path)
}

func (it *item) copyInfo() *store.Info {
	info := it.info
	info.References = slices.Clone(info.References)
	return &info
}

func (it *item) write(ctx context.Context, w io.Writer) error {
	for chunk := range slices.Chunk(it.nar, 64<<10) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
	return nil
}

func sortedCopy(paths []store.Path) []store.Path {
	sorted := slices.Clone(paths)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// copyNAR copies one NAR of at most maxNAR bytes, which it checks, and reads
// nothing after it.
func copyNAR(b *bytes.Buffer, r io.Reader) error {
	reader := nar.NewReader(io.TeeReader(io.LimitReader(r, maxNAR), b))
	for {
		switch _, err := reader.Next(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// fileNAR returns the NAR of a regular file that is not executable.
func fileNAR(content []byte) []byte {
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	// A bytes.Buffer takes everything, and one file is a right NAR.
	_ = w.WriteHeader(&nar.Header{Kind: nar.Regular, Size: int64(len(content))})
	_, _ = w.Write(content)
	_ = w.Close()
	return b.Bytes()
}
