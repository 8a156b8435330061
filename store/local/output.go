package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// register checks what the builder has left, and publishes it unless this is a check. It
// returns what is known of the outputs that were not valid before, or in a check of all.
func (b *build) register(ctx context.Context) (map[store.Path]*store.Info, error) {
	candidates := make([]store.Path, 0, len(b.inputs)+len(b.outputs))
	for _, r := range b.inputs {
		candidates = append(candidates, r.Path)
	}
	candidates = append(candidates, b.outputs...)
	b.budget = &nar.Budget{Nodes: b.store.opts.MaxOutputFiles, Bytes: b.store.opts.MaxOutput}
	infos := make(map[store.Path]*store.Info)
	trees := make(map[store.Path]*finished)
	var fresh []*store.Info
	for _, o := range b.drv.Outputs {
		if b.valid[o.Path] != nil {
			continue
		}
		it, err := b.finish(ctx, o, candidates)
		if err != nil {
			return nil, err
		}
		infos[o.Path], trees[o.Path] = it.info, it
		fresh = append(fresh, it.info)
	}
	if err := b.checkReferences(ctx, infos); err != nil {
		return nil, err
	}
	sorted, err := store.SortInfos(fresh)
	if err != nil {
		return nil, b.failure(store.FailedReferences, "%v", err)
	}
	if b.req.Check {
		return infos, nil // the trees go with the build's folder
	}
	var items []*finished
	for _, info := range sorted {
		items = append(items, trees[info.Path])
	}
	published, err := b.store.items.publish(ctx, items)
	if err != nil {
		return nil, err
	}
	for _, info := range published {
		infos[info.Path] = info
	}
	return infos, nil
}

// finish takes one output away from the builder, checks it, and finds its hash and
// references.
func (b *build) finish(ctx context.Context, o derivation.Output, candidates []store.Path) (*finished, error) {
	tree, err := b.takeAway(ctx, o)
	if err != nil {
		return nil, err
	}
	if o.HashAlgorithm != "" {
		if err := b.checkFixed(ctx, tree, o); err != nil {
			return nil, err
		}
	}
	scan := newScanner(candidates)
	var h nar.Hasher
	if err = b.pack(ctx, io.MultiWriter(&h, scan), tree, o.Name); err != nil {
		return nil, err
	}
	state, err := h.State()
	if err != nil {
		return nil, err
	}
	return &finished{tree: tree, state: state, info: &store.Info{
		Path:       o.Path,
		NARHash:    h.Sum(),
		NARSize:    h.Size(),
		References: scan.references(),
		Deriver:    b.req.Derivation,
	}}, nil
}

// pack writes an output's NAR to w, and in a check also to where the request wants it.
func (b *build) pack(ctx context.Context, w io.Writer, tree, output string) error {
	if !b.req.Check || b.req.Made == nil {
		return nar.Pack(stream.WriterUntil(ctx, w), tree)
	}
	made, err := b.req.Made(output)
	if err != nil {
		return err
	}
	err = nar.Pack(stream.WriterUntil(ctx, io.MultiWriter(w, made)), tree)
	return errors.Join(err, made.Close())
}

// inside returns the text of an error about an output, with the names that the builder
// knew, and not longer than people read.
func (b *build) inside(err error) string {
	text := strings.ReplaceAll(err.Error(), b.folder.store(), string(b.store.layout.dir))
	const most = 400
	if len(text) > most {
		text = text[:most/2] + "…" + text[len(text)-most/2:]
	}
	return human.ValidText(text)
}

// takeAway returns the canonical tree of an output, to which nobody else has access, not
// even by a descriptor. All processes of the sandbox have ended, and their descriptors
// are closed, so it is usually the tree that they made. But if the builder could have passed
// descriptors outside, the tree is copied before anything looks at it, by a reader that
// nobody can mislead.
func (b *build) takeAway(ctx context.Context, o derivation.Output) (string, error) {
	tree := b.folder.output(o.Path)
	if err := b.inspect(tree, o); err != nil {
		return "", err
	}
	if b.couldShare() {
		copied := b.folder.copied(o.Path)
		err := nar.Copy(ctx, tree, copied, nar.CopyOptions{Budget: b.budget, Room: b.store.disk.room})
		return copied, b.blameTree(err)
	}
	opts := nar.CanonicalizeOptions{Budget: b.budget}
	if b.folder.user.change {
		opts.Owner = &nar.Owner{}
	}
	return tree, b.blameTree(nar.Canonicalize(ctx, tree, opts))
}

// couldShare reports whether the builder could pass descriptors to processes outside its
// sandbox: through the network namespace, or through a socket that a sandbox path is or
// contains. What is in a folder can change, so any folder counts.
func (b *build) couldShare() bool {
	if b.builtin() {
		return false
	}
	if _, fixed := b.drv.FixedOutput(); fixed {
		return true
	}
	for _, p := range b.req.SandboxPaths {
		_, outside, two := strings.Cut(p, "=")
		if !two {
			outside = p
		}
		if info, err := os.Stat(outside); err != nil || !info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// blameTree blames the derivation for an error about an output, unless it is the machine
// that fails.
func (b *build) blameTree(err error) error {
	var limit *nar.LimitError
	var errno unix.Errno
	switch {
	case err == nil:
		return nil
	case errors.As(err, &limit):
		return b.failure(store.FailedLimit, "%s for one build; this machine's limits are %d files and %s", b.inside(err), b.store.opts.MaxOutputFiles, quantity.Bytes(b.store.opts.MaxOutput))
	case errors.As(err, &errno) && !changed(errno):
		return err
	}
	return b.failure(store.FailedOutput, "%s", b.inside(err))
}

// changed reports whether an error comes from a tree that changes meanwhile: EINVAL comes
// from readlink, and EACCES from a mode that was changed back.
func changed(errno unix.Errno) bool {
	switch errno {
	case unix.ENOENT, unix.ELOOP, unix.ENOTDIR, unix.EISDIR, unix.EXDEV, unix.EINVAL, unix.EACCES:
		return true
	}
	return false
}

// inspect makes the checks that guix-daemon makes before it changes anything.
func (b *build) inspect(tree string, o derivation.Output) error {
	var st unix.Stat_t
	switch err := unix.Lstat(tree, &st); {
	case errors.Is(err, fs.ErrNotExist):
		return b.failure(store.FailedOutput, "the builder failed to produce the output path %s", o.Path)
	case err != nil:
		return &fs.PathError{Op: "stat", Path: tree, Err: err}
	}
	owner := uint32(os.Geteuid()) //nolint:gosec // user ids have 32 bits
	if u := b.folder.user; u.change && !b.builtin() {
		owner = u.uid
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&0o022 != 0 || st.Uid != owner {
		return b.failure(store.FailedOutput, "suspicious ownership or permission on %s; rejecting this build output", o.Path)
	}
	return b.inspectKind(&st, o)
}

// inspectKind checks what kind of file an output with a known hash is.
func (b *build) inspectKind(st *unix.Stat_t, o derivation.Output) error {
	if o.HashAlgorithm != "" && o.HashAlgorithm[0] != 'r' && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o100 != 0) {
		return b.failure(store.FailedOutput, "output path %s should be a non-executable regular file", o.Path)
	}
	return nil
}

func (b *build) builtin() bool {
	_, ok := b.drv.IsBuiltin()
	return ok
}

// checkFixed compares an output with the hash that its derivation promises.
func (b *build) checkFixed(ctx context.Context, tree string, o derivation.Output) error {
	var st unix.Stat_t
	if err := unix.Lstat(tree, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: tree, Err: err}
	}
	if err := b.inspectKind(&st, o); err != nil { // it may have been swapped before the copy
		return err
	}
	want, err := newFixedHash(o)
	if err != nil {
		return fmt.Errorf("output %s: %w", o.Path, err)
	}
	got, err := want.of(ctx, tree)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want.digest) {
		return b.failure(store.FailedHashMismatch, "hash mismatch for %s:\n  expected hash: %s\n  actual hash:   %s",
			o.Path, want.format(want.digest), want.format(got))
	}
	return nil
}
