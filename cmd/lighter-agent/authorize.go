package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"lighter/internal/owner"
	"lighter/nar/signature"
)

// Limits on what start and authorize read, in bytes and in keys.
const (
	maxInput = 1 << 20
	maxKeys  = 256
)

// input is what start finds on its standard input.
type input struct {
	// Authorize are keys, as s-expressions, whose signatures the store accepts from
	// now on. Who may log in as this user could write them into the ACL anyway.
	Authorize []string `json:"authorize"`
}

// readInput reads the standard input of start, which may be empty.
func (s *settings) readInput(r io.Reader) error {
	if r == nil || isTerminal(r) {
		return nil
	}
	text, err := readBounded(r, "standard input")
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		return err
	}
	var in input
	if err := json.Unmarshal(text, &in); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	if len(in.Authorize) > maxKeys {
		return fmt.Errorf("standard input: %d keys, more than %d", len(in.Authorize), maxKeys)
	}
	var keys []*signature.PublicKey
	for i, text := range in.Authorize {
		key, err := signature.ParsePublicKey([]byte(text))
		if err != nil {
			return fmt.Errorf("standard input: key %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	return s.Authorize(keys)
}

// authorize accepts the keys in files.
func authorize(ctx context.Context, s *settings, files []string, io stdio) error {
	if len(files) == 0 {
		return usageError{errors.New("authorize: which FILE?")}
	}
	kind, err := s.StoreKind(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if kind == owner.StoreDaemon {
		return fmt.Errorf("authorize: guix-daemon has the store, and a list of its own; as root, run: guix archive --authorize < %s", files[0])
	}
	var keys []*signature.PublicKey
	for _, file := range files {
		key, err := readKey(file, io.in)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	if err := s.Authorize(keys); err != nil {
		return err
	}
	for _, key := range keys {
		fmt.Fprintf(io.out, "%s is accepted\n", key.Fingerprint())
	}
	return nil
}

func readKey(file string, stdin io.Reader) (*signature.PublicKey, error) {
	if file != "-" {
		return signature.LoadPublicKey(file)
	}
	text, err := readBounded(stdin, "standard input")
	if err != nil {
		return nil, err
	}
	key, err := signature.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return key, nil
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err == nil && len(text) > maxInput {
		err = fmt.Errorf("%s: longer than %d bytes", name, maxInput)
	}
	return text, err
}
