package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Hash is a SHA-256 digest: of a NAR, or of the contents of a flat file.
type Hash [sha256.Size]byte

// ParseHash reads "sha256:" followed by 52 digits of nix-base32 or 64 of
// base16. The prefix may be left out.
func ParseHash(s string) (Hash, error) {
	var h Hash
	digits := strings.TrimPrefix(s, "sha256:")
	switch len(digits) {
	case hex.EncodedLen(len(h)):
		if _, err := hex.Decode(h[:], []byte(digits)); err != nil {
			return Hash{}, fmt.Errorf("hash %q: %w", s, err)
		}
		return h, nil
	case Base32Len(len(h)):
		b, err := DecodeBase32(digits)
		if err != nil {
			return Hash{}, fmt.Errorf("hash %q: %w", s, err)
		}
		copy(h[:], b)
		return h, nil
	}
	return Hash{}, fmt.Errorf("hash %q: want sha256: and 52 digits of nix-base32 or 64 of base16", s)
}

// String returns the form of narinfos, "sha256:" and nix-base32.
func (h Hash) String() string { return "sha256:" + EncodeBase32(h[:]) }

// Base16 returns 64 lower-case hexadecimal digits.
func (h Hash) Base16() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether the hash is not set.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText implements encoding.TextMarshaler; the zero hash is empty text.
func (h Hash) MarshalText() ([]byte, error) {
	if h.IsZero() {
		return nil, nil
	}
	return []byte(h.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*h = Hash{}
		return nil
	}
	parsed, err := ParseHash(string(text))
	if err != nil {
		return err
	}
	*h = parsed
	return nil
}
