package local

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"

	"golang.org/x/crypto/blake2s"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// fixedHash is the hash that a fixed-output derivation promises.
type fixedHash struct {
	recursive bool   // of the NAR, else of the one file
	algorithm string // without "r:"
	digest    []byte
}

// newFixedHash returns what an output of a fixed-output derivation promises.
func newFixedHash(o derivation.Output) (*fixedHash, error) {
	f := new(fixedHash)
	f.algorithm, f.recursive = strings.CutPrefix(o.HashAlgorithm, "r:")
	digest, err := hex.DecodeString(o.Hash)
	if err != nil {
		return nil, err
	}
	h, err := f.newHash()
	if err != nil {
		return nil, err
	}
	if len(digest) != h.Size() {
		return nil, fmt.Errorf("%d bytes are not a %s hash", len(digest), f.algorithm)
	}
	f.digest = digest
	return f, nil
}

// newHash returns an empty hash of the algorithm, which is one of guix-daemon's (newHash
// in libutil).
func (f *fixedHash) newHash() (hash.Hash, error) {
	switch f.algorithm {
	case "md5":
		return md5.New(), nil
	case "sha1":
		return sha1.New(), nil
	case "sha256":
		return sha256.New(), nil
	case "sha512":
		return sha512.New(), nil
	case "sha3-256":
		return sha3.New256(), nil
	case "sha3-512":
		return sha3.New512(), nil
	case "blake2s-256":
		return blake2s.New256(nil)
	}
	return nil, fmt.Errorf("the hash algorithm %q is unknown", f.algorithm)
}

// of computes the hash of the output at a path, until the context ends.
func (f *fixedHash) of(ctx context.Context, path string) ([]byte, error) {
	h, err := f.newHash()
	if err != nil {
		return nil, err
	}
	if f.recursive {
		if err := nar.Pack(stream.WriterUntil(ctx, h), path); err != nil {
			return nil, err
		}
		return h.Sum(nil), nil
	}
	file, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := io.Copy(h, stream.ReaderUntil(ctx, file)); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// format returns a hash as Guix prints it: nix-base32 after the algorithm.
func (f *fixedHash) format(digest []byte) string {
	return f.algorithm + ":" + store.EncodeBase32(digest)
}
