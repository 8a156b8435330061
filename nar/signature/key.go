package signature

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"lighter/store"
)

// PublicKey is a key that verifies. Two keys are the same if their s-expressions
// are, whatever form they were written in.
type PublicKey struct {
	sexp *Sexp // (public-key (ALGORITHM …))
}

// ParsePublicKey reads (public-key (ALGORITHM PARAMETER…)), where ALGORITHM is ecc,
// rsa or dsa. Keys that can't verify (DSA; ecc with other curves or with flags) are
// read as well, since an ACL may list them.
func ParsePublicKey(text []byte) (*PublicKey, error) {
	s, err := ParseSexp(text)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return newPublicKey(s)
}

func newPublicKey(s *Sexp) (*PublicKey, error) {
	if s.head() != "public-key" || len(s.list) != 2 {
		return nil, errors.New("public key: want (public-key (ALGORITHM …))")
	}
	switch algorithm := s.list[1].head(); algorithm {
	case "ecc", "rsa", "dsa":
		return &PublicKey{sexp: s}, nil
	case "":
		return nil, errors.New("public key: want (public-key (ALGORITHM …))")
	default:
		return nil, fmt.Errorf("public key: the algorithm %q is none of ecc, rsa, dsa", algorithm)
	}
}

// String returns the key as Guix writes it to a file.
func (k *PublicKey) String() string { return k.sexp.Advanced() }

// Fingerprint returns a short name of the key for people: "SHA256:" and the base64
// of the canonical form's SHA-256. Guix has no such thing.
func (k *PublicKey) Fingerprint() string {
	sum := sha256.Sum256(k.sexp.Canonical())
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Equal reports whether both are the same key.
func (k *PublicKey) Equal(other *PublicKey) bool {
	return other != nil && k.sexp.Equal(other.sexp)
}

// PrivateKey is a key that signs: ECDSA on the group of Ed25519.
type PrivateKey struct {
	d      [scalarLen]byte // big-endian, not reduced
	q      []byte
	public *PublicKey
}

// GenerateKey returns a new key of the kind that guix archive --generate-key makes.
// It reads the system's random numbers, which do not fail; the error is always nil.
func GenerateKey() (*PrivateKey, error) { return newPrivateKey(newSecret()), nil }

func newPrivateKey(d [scalarLen]byte) *PrivateKey {
	k := &PrivateKey{d: d, q: publicPoint(d)}
	k.public = &PublicKey{sexp: newList(newAtom("public-key"), newList(newAtom("ecc"), curveEd25519(), pair("q", k.q)))}
	return k
}

func curveEd25519() *Sexp { return pair("curve", "Ed25519") }

// ParsePrivateKey reads (private-key (ecc (curve Ed25519) (q Q) (d D))). Errors
// never quote the text.
func ParsePrivateKey(text []byte) (*PrivateKey, error) {
	s, err := ParseSexp(text)
	if err != nil {
		var syntax *SyntaxError
		errors.As(err, &syntax)
		return nil, fmt.Errorf("private key: no s-expression: offset %d", syntax.Offset)
	}
	if s.head() != "private-key" || len(s.list) != 2 || s.list[1].head() != "ecc" {
		return nil, errors.New("private key: want (private-key (ecc (curve Ed25519) (q …) (d …)))")
	}
	parameters := s.list[1]
	if curve, _ := parameters.value("curve"); string(curve) != "Ed25519" {
		return nil, errors.New("private key: the curve is not Ed25519")
	}
	if parameters.find("flags") != nil {
		return nil, errors.New("private key: keys with flags, such as eddsa, can't sign archives")
	}
	secret, ok := parameters.value("d")
	if !ok || len(secret) == 0 || len(secret) > scalarLen {
		return nil, fmt.Errorf("private key: want d with at most %d bytes", scalarLen)
	}
	var d [scalarLen]byte
	copy(d[scalarLen-len(secret):], secret)
	if isZero(reduce(d)) {
		return nil, errors.New("private key: d is zero")
	}
	k := newPrivateKey(d)
	if q, ok := parameters.value("q"); !ok || string(q) != string(k.q) {
		return nil, errors.New("private key: q does not belong to d")
	}
	return k, nil
}

// Public returns the public half.
func (k *PrivateKey) Public() *PublicKey { return k.public }

// String returns the key as Guix writes it to a file, secret included.
func (k *PrivateKey) String() string {
	return newList(newAtom("private-key"),
		newList(newAtom("ecc"), curveEd25519(), pair("q", k.q), pair("d", k.d[:]))).Advanced()
}

// Sign returns the signature of a hash as an s-expression, byte for byte what guix
// authenticate writes. The same hash gives the same signature; the error is always
// nil and there for other kinds of signers.
func (k *PrivateKey) Sign(h store.Hash) (string, error) {
	r, s := sign(k.d, h)
	return newList(newAtom("signature"),
		newList(newAtom("data"),
			pair("flags", "rfc6979"),
			newList(newAtom("hash"), newAtom("sha256"), newAtom(h[:]))),
		newList(newAtom("sig-val"),
			newList(newAtom("ecdsa"), pair("r", unsigned(r)), pair("s", unsigned(s)))),
		k.public.sexp).Advanced(), nil
}

// unsigned drops the zero bytes at the start of a number.
func unsigned(v [scalarLen]byte) []byte {
	b := v[:]
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	return b
}
