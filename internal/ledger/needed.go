package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"lighter/internal/api"
	"lighter/store"
)

// Needed returns those of the items that must not be deleted as garbage: outputs of builds that have
// succeeded or are not final, and derivations of those that are not final. Builds that have
// left the ledger need nothing.
func (l *Ledger) Needed(ctx context.Context, items []store.Path) (needed []store.Path, err error) {
	for _, p := range items {
		is, err := l.needs(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("is %s needed: %w", p, err)
		}
		if is {
			needed = append(needed, p)
		}
	}
	return needed, nil
}

func (l *Ledger) needs(ctx context.Context, p store.Path) (bool, error) {
	q := &query{all: [][]byte{termPrefix(outputTerm(string(p)))}, backward: true}
	states := append(NonFinal(), api.Succeeded)
	q.matches = func(b *api.Build) bool {
		for _, output := range b.OutputPaths {
			if output == p {
				return slices.Contains(states, b.State)
			}
		}
		return false
	}
	if p.IsDerivation() {
		states = NonFinal()
		q.all = [][]byte{termPrefix(drvTerm(string(p)))}
		q.matches = func(b *api.Build) bool { return b.Derivation == p && !b.State.Final() }
	}
	for _, state := range states {
		q.any = append(q.any, termPrefix(stateTerm(state)))
	}
	for _, err := range l.entries(ctx, q, everywhere()) {
		return err == nil, err
	}
	return false, nil
}

// Read opens a ledger that no process has open, has do read it, and closes it. Nothing in
// it is changed. It is an *InUseError if a coordinator has it open. The ledger that do gets
// must not be closed. Where there is no ledger yet, do is not called.
func Read(ctx context.Context, dir string, opts Options, do func(*Ledger) error) (err error) {
	l := newLedger(dir, opts)
	if _, err := l.db.opts.FS.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if l.db.lock, err = takeLock(dir, l.db.opts.FS); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.db.unlock()) }()
	err = l.db.await(func() (err error) {
		empty, err := l.openToRead()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.db.Close()) }()
		if empty {
			return nil
		}
		if err := l.checkComplete(); err != nil {
			return err
		}
		if err := l.samples.load(); err != nil {
			return err
		}
		return do(l)
	})
	if err != nil {
		return fmt.Errorf("read ledger %s: %w", dir, err)
	}
	return nil
}

// checkComplete returns an error if acknowledged changes are missing.
func (l *Ledger) checkComplete() error {
	found, err := readChanges(l.db)
	if err != nil && !isRecordError(err) {
		return err
	}
	isKnown := err == nil
	if err := l.readNumbers(&found); err != nil {
		return err
	}
	return l.checkAcknowledged(found, isKnown)
}
