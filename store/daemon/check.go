package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// differenceWords are what the daemon says of a check that made something different.
const differenceWords = "may not be deterministic"

// checkSuffix ends the name under which the daemon keeps an output that differs.
const checkSuffix = "-check"

// check has the daemon build in its mode for checks. Before that, outputs that are not valid
// are built as usual; if none was valid, that is all.
func (b *build) check(ctx context.Context, c *conn) error {
	valid, err := b.prepare(c)
	if err != nil {
		return err
	}
	if err := c.addTempRoots(b.keptOutputs()); err != nil {
		return err
	}
	if err := c.setOptions(b.options); err != nil {
		return err
	}
	began := time.Now()
	if len(valid) < len(b.drv.Outputs) {
		if err := b.realize(c, modeNormal); err != nil {
			return err
		}
	}
	var different error
	if len(valid) > 0 {
		if different = b.realize(c, modeCheck); different != nil && !b.keeps(different) {
			return different
		}
	}
	stopped := time.Now()
	outputs, err := b.outputs(c)
	if err == nil && different != nil {
		err = b.compare(outputs, different)
	}
	if err != nil {
		return err
	}
	if err := b.handOver(ctx, outputs, different); err != nil {
		return err
	}
	b.setResult(outputs, began, stopped)
	return nil
}

// keptOutputs returns the names under which the daemon may keep what it made.
func (b *build) keptOutputs() []store.Path {
	var kept []store.Path
	if !b.req.KeepFailed {
		return nil
	}
	for _, o := range b.drv.Outputs {
		if p, err := b.store.dir.ParsePath(string(o.Path) + checkSuffix); err == nil {
			kept = append(kept, p)
		}
	}
	return kept
}

// keeps reports whether an error says that an output differs, and where it is.
func (b *build) keeps(err error) bool {
	_, ok := b.differing(err)
	return ok
}

// differing returns the output that an error says differs from what is kept.
func (b *build) differing(err error) (derivation.Output, bool) {
	var said *Error
	if !errors.As(err, &said) || !strings.Contains(said.Message, differenceWords) {
		return derivation.Output{}, false
	}
	for _, o := range b.drv.Outputs {
		if strings.Contains(said.Message, fmt.Sprintf("output `%s' differs from `%s%s'", o.Path, o.Path, checkSuffix)) {
			return o, true
		}
	}
	return derivation.Output{}, false
}

// compare replaces what is known of the output that differs with what was made. The daemon
// compares outputs by name and stops at the first that differs: the later ones are dropped.
func (b *build) compare(outputs map[string]*store.Info, different error) error {
	o, _ := b.differing(different)
	hash, size, err := nar.Hash(b.store.PhysicalPath(o.Path) + checkSuffix)
	if err != nil {
		return fmt.Errorf("read what the check made: %w", err)
	}
	outputs[o.Name] = &store.Info{Path: o.Path, NARHash: hash, NARSize: size, Deriver: b.req.Derivation}
	for name := range outputs {
		if name > o.Name {
			delete(outputs, name)
		}
	}
	return nil
}

// handOver gives the outputs to whoever asked for the check.
func (b *build) handOver(ctx context.Context, outputs map[string]*store.Info, different error) error {
	if b.req.Made == nil {
		return nil
	}
	differs, _ := b.differing(different)
	for _, o := range slices.SortedFunc(slices.Values(b.drv.Outputs), func(x, y derivation.Output) int { return strings.Compare(x.Name, y.Name) }) {
		if outputs[o.Name] == nil {
			continue
		}
		file := b.store.PhysicalPath(o.Path)
		if o.Name == differs.Name {
			file += checkSuffix
		}
		if err := pack(ctx, b.req.Made, o.Name, file); err != nil {
			return fmt.Errorf("output %s: %w", o.Name, err)
		}
	}
	return nil
}

func pack(ctx context.Context, made func(string) (io.WriteCloser, error), output, file string) error {
	w, err := made(output)
	if err != nil {
		return err
	}
	return errors.Join(nar.Pack(stream.WriterUntil(ctx, w), file), w.Close())
}
