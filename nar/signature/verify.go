package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"lighter/store"
)

// Limits on RSA keys: below, they are broken; above, verifying takes too long.
const (
	minRSABits = 1024
	maxRSABits = 16384
)

// signature is (signature (data (flags F) (hash sha256 H)) (sig-val V) KEY). As in
// Guix, the parts are looked up by name wherever they are.
type signature struct {
	sexp *Sexp
	data *Sexp
	key  *PublicKey
}

// parseSignature reads a signature so far that one can tell whose it is.
func parseSignature(text string) (*signature, error) {
	s, err := ParseSexp([]byte(text))
	if err != nil {
		return nil, err
	}
	data, subject := s.find("data"), s.find("public-key")
	if data == nil || subject == nil {
		return nil, errors.New("it has no data or no public key")
	}
	key, err := newPublicKey(subject)
	if err != nil {
		return nil, err
	}
	return &signature{sexp: s, data: data, key: key}, nil
}

// hash returns the hash that was signed.
func (sig *signature) hash() (store.Hash, error) {
	hash := sig.data.find("hash")
	if hash == nil || len(hash.list) != 3 || hash.list[1].kind != isAtom || hash.list[2].kind != isAtom {
		return store.Hash{}, errors.New("want (hash sha256 H)")
	}
	if name := string(hash.list[1].atom); name != "sha256" {
		return store.Hash{}, fmt.Errorf("the hash is %q, not sha256", name)
	}
	var h store.Hash
	if len(hash.list[2].atom) != len(h) {
		return store.Hash{}, fmt.Errorf("the hash has %d bytes, not %d", len(hash.list[2].atom), len(h))
	}
	return store.Hash(hash.list[2].atom), nil
}

// value returns (ALGORITHM …), which is what the key made.
func (sig *signature) value() (*Sexp, error) {
	value := sig.sexp.find("sig-val")
	if value == nil || len(value.list) != 2 || value.list[1].head() == "" {
		return nil, errors.New("want (sig-val (ALGORITHM …))")
	}
	return value.list[1], nil
}

// verify checks that the key made the value from the hash.
func (sig *signature) verify(h store.Hash) error {
	value, err := sig.value()
	if err != nil {
		return err
	}
	flags, _ := sig.data.value("flags")
	parameters := sig.key.sexp.list[1]
	switch algorithm := parameters.head(); algorithm {
	case "ecc":
		if string(flags) != "rfc6979" {
			return fmt.Errorf("the flags %q do not go with an ECDSA key", flags)
		}
		return verifyECC(parameters, h, value)
	case "rsa":
		if string(flags) != "pkcs1" {
			return fmt.Errorf("the flags %q do not go with an RSA key", flags)
		}
		return verifyRSA(parameters, h, value)
	default:
		return fmt.Errorf("signatures by %s keys can't be verified here: replace the key by one that guix archive --generate-key makes by default", algorithm)
	}
}

// verifyECC checks (ecdsa (r R) (s S)) with (ecc (curve C) (q Q)).
func verifyECC(parameters *Sexp, h store.Hash, value *Sexp) error {
	if parameters.find("flags") != nil {
		return errors.New("keys with flags, such as eddsa, can't be used for archives")
	}
	curve, _ := parameters.value("curve")
	q, ok := parameters.value("q")
	if !ok {
		return errors.New("the public key has no point")
	}
	r, ok1 := value.value("r")
	s, ok2 := value.value("s")
	if value.head() != "ecdsa" || !ok1 || !ok2 {
		return errors.New("want (ecdsa (r …) (s …))")
	}
	switch string(curve) {
	case "Ed25519":
		return verify(q, h, r, s)
	case "NIST P-256":
		return verifyNIST(elliptic.P256(), q, h, r, s)
	case "NIST P-384":
		return verifyNIST(elliptic.P384(), q, h, r, s)
	case "NIST P-521":
		return verifyNIST(elliptic.P521(), q, h, r, s)
	}
	return fmt.Errorf("the curve %q is none of Ed25519, NIST P-256, NIST P-384, NIST P-521", curve)
}

func verifyNIST(curve elliptic.Curve, q []byte, h store.Hash, r, s []byte) error {
	key, err := ecdsa.ParseUncompressedPublicKey(curve, q)
	if err != nil {
		return errors.New("the public key is not a point of the curve")
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(r) > size+1 || len(s) > size+1 {
		return errInvalid
	}
	if !ecdsa.Verify(key, h[:], new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
		return errInvalid
	}
	return nil
}

// verifyRSA checks (rsa (s S)) with (rsa (n N) (e E)), PKCS #1 version 1.5.
func verifyRSA(parameters *Sexp, h store.Hash, value *Sexp) error {
	n, ok1 := parameters.value("n")
	e, ok2 := parameters.value("e")
	s, ok3 := value.value("s")
	if value.head() != "rsa" || !ok3 {
		return errors.New("want (rsa (s …))")
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	switch {
	case !ok1 || !ok2:
		return errors.New("the public key has no modulus or no exponent")
	case modulus.BitLen() < minRSABits || modulus.BitLen() > maxRSABits:
		return fmt.Errorf("the RSA key has %d bits; want %d to %d", modulus.BitLen(), minRSABits, maxRSABits)
	case exponent.BitLen() > 31:
		return errors.New("the RSA key's exponent is larger than 31 bits")
	}
	key := &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
	size := key.Size()
	number := new(big.Int).SetBytes(s)
	if number.BitLen() > 8*size {
		return errInvalid
	}
	// libgcrypt leaves zero bytes at the start out, crypto/rsa wants them.
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, h[:], number.FillBytes(make([]byte, size))); err != nil {
		return errInvalid
	}
	return nil
}
