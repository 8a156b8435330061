package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
)

// AddText implements store.Adder.
func (s *Store) AddText(ctx context.Context, name string, content []byte, references []store.Path) (store.Path, error) {
	path, err := s.dir.TextPath(name, content, references)
	if err == nil {
		err = s.check(references...)
	}
	if err == nil {
		err = s.do(ctx, func(c *conn) error { return s.addText(c, path, content, references) })
	}
	if errors.Is(err, store.ErrNotValid) {
		if missing, queryErr := store.Missing(ctx, s, references); queryErr == nil && len(missing) > 0 {
			err = fmt.Errorf("it refers to %w", store.NotValid(missing[0]))
		}
	}
	if err != nil {
		return "", fmt.Errorf("add %s: %w", name, err)
	}
	return path, nil
}

// addText adds the text item that path is the name of.
func (s *Store) addText(c *conn, path store.Path, content []byte, references []store.Path) error {
	c.rooted = true
	c.op(opAddTextToStore)
	_ = c.w.String(path.Name())
	_ = c.w.Bytes(content)
	c.putPaths(references)
	if err := c.call(nil); err != nil {
		return err
	}
	return s.wantPath(c, path)
}

// wantPath reads the name of what was added.
func (s *Store) wantPath(c *conn, want store.Path) error {
	path, err := c.getPath(s.dir, false)
	if err != nil {
		return err
	}
	if path != want {
		return garbled("it added %s in place of %s", path, want)
	}
	return nil
}

// AddNAR implements store.Adder. The daemon holds the whole NAR in memory.
func (s *Store) AddNAR(ctx context.Context, name string, r io.Reader) (store.Path, error) {
	path, err := s.addNAR(ctx, name, stream.ReaderUntil(ctx, r))
	if err != nil {
		return "", fmt.Errorf("add %s: %w", name, err)
	}
	return path, nil
}

func (s *Store) addNAR(ctx context.Context, name string, r io.Reader) (path store.Path, err error) {
	if err := store.CheckName(name); err != nil {
		return "", err
	}
	err = s.do(ctx, func(c *conn) error {
		c.rooted = true
		c.op(opAddToStore)
		_ = c.w.String(name) // errors stay until Flush
		_ = c.w.Uint64(1)    // was once a parameter
		_ = c.w.Bool(true)   // recursive
		_ = c.w.String("sha256")
		if err := c.flush(); err != nil {
			return err
		}
		c.answered = true // what is read of r cannot be read again
		var hash nar.Hasher
		if err := passNAR(io.MultiWriter(c.w, &hash), r); err != nil {
			return err
		}
		if path, err = s.dir.SourcePath(name, hash.Sum()); err != nil {
			return err
		}
		if err := c.call(nil); err != nil {
			return err
		}
		return s.wantPath(c, path)
	})
	return path, err
}

// passNAR checks a NAR while it copies it.
func passNAR(w io.Writer, r io.Reader) error {
	in, out := nar.NewReader(r), nar.NewWriter(w)
	buf := make([]byte, copyBuffer)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if h.Kind != nar.Regular {
			continue
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buf); err != nil {
			return err
		}
	}
}
