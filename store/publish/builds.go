package publish

import (
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"

	"lighter/store"
)

// PutLog publishes the log of a derivation's build, in the place of an earlier one. It
// returns where that is served, relative to the folder.
func (w *Writer) PutLog(ctx context.Context, drv store.Path, log io.Reader) (string, error) {
	name := "log/" + drv.Base()
	err := w.start(ctx)
	if err == nil {
		err = w.fs.Put(ctx, name+".gz", func(out io.Writer) error {
			z := gzip.NewWriter(out)
			if _, err := io.Copy(z, log); err != nil {
				return err
			}
			return z.Close()
		})
	}
	if err != nil {
		return "", fmt.Errorf("publish log of %s in %s: %w", drv, w.fs, err)
	}
	return name, nil
}

// PutFailure publishes that a derivation's build failed; text says how, as JSON.
func (w *Writer) PutFailure(ctx context.Context, drv store.Path, text []byte) error {
	err := w.start(ctx)
	if err == nil {
		err = w.put(ctx, failureName(drv), text)
	}
	if err != nil {
		return fmt.Errorf("publish failure of %s in %s: %w", drv, w.fs, err)
	}
	return nil
}

// RemoveFailure removes what PutFailure published of a derivation, if it did.
func (w *Writer) RemoveFailure(ctx context.Context, drv store.Path) error {
	if err := w.fs.Remove(ctx, failureName(drv)); err != nil {
		return fmt.Errorf("remove failure of %s from %s: %w", drv, w.fs, err)
	}
	return nil
}

func failureName(drv store.Path) string { return "failures/" + drv.HashPart() }
