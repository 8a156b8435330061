package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"lighter/nar"
	"lighter/store"
)

// Warm makes sure that a connection with a helper is at hand, so that the next Import or
// Export need not wait for one to start. It takes a tenth of a second, or next to nothing
// if there is one.
//
// The cheapest way to start the helper is to import an item with something that is not a
// signature: the daemon reads a few bytes, asks the helper and says "corrupt signature
// data". Nothing is added, and nothing is left behind.
func (s *Store) Warm(ctx context.Context) error {
	err := s.with(ctx, withHelper, "", func(c *conn) error {
		if c.warm {
			return nil
		}
		c.heat(s.aclStamp())
		trial, err := s.trial()
		if err != nil {
			return err
		}
		c.op(opImportPaths)
		err = c.call(&streams{source: func(limit int) []byte { return trial.Next(limit) }})
		var said *Error
		switch {
		case err == nil:
			return garbled("it takes an item with the signature %q", notSignature)
		case errors.As(err, &said) && strings.Contains(said.Message, "corrupt signature data"):
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	return nil
}

const notSignature = "(signature)"

// trial returns an archive that no daemon takes.
func (s *Store) trial() (*bytes.Buffer, error) {
	path, err := s.dir.MakePath("text", store.Hash{}, "trial")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := nar.NewArchiveWriter(&b)
	writeNAR := func(w io.Writer) error {
		n := nar.NewWriter(w)
		if err := n.WriteHeader(&nar.Header{Kind: nar.Regular}); err != nil {
			return err
		}
		return n.Close()
	}
	sign := func(store.Hash) (string, error) { return notSignature, nil }
	if err := w.WriteItem(&nar.Item{Path: path}, writeNAR, sign); err != nil {
		return nil, err
	}
	return &b, w.Close()
}

// heat notes that the connection's helper is running now.
func (c *conn) heat(acl stamp) {
	if !c.warm {
		c.warm, c.acl = true, acl
	}
}
