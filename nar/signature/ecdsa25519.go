package signature

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"

	"lighter/store"
)

// ECDSA on the group of Ed25519 as libgcrypt does it. The differences from what
// one might expect:
//
//   - the secret scalar d is 32 bytes, big-endian, used as it is and not hashed;
//   - the hash is cut to 253 bits, the length of the group's order L;
//   - r is the x coordinate of k·B on the Edwards curve, not on another model of it;
//   - nonces are those of RFC 6979 with HMAC-SHA256, where d is not reduced.
//
// All arithmetic is edwards25519's. In signing, its constant-time functions alone
// see secrets; the length of the loop that finds the nonce tells nothing of it.

// scalarLen is the length of scalars, and of compressed points, in bytes.
const scalarLen = 32

// hashShift is by how many bits a hash is longer than L.
const hashShift = 3

// newSecret returns a random secret scalar, clamped as libgcrypt does it.
func newSecret() [scalarLen]byte {
	var d [scalarLen]byte
	rand.Read(d[:]) // never fails
	d[0] = d[0]&0x7f | 0x40
	d[scalarLen-1] &^= 7
	return d
}

// publicPoint returns d·B, compressed.
func publicPoint(d [scalarLen]byte) []byte {
	return new(edwards25519.Point).ScalarBaseMult(reduce(d)).Bytes()
}

// sign returns the signature of a hash, each half as 32 bytes, big-endian.
func sign(d [scalarLen]byte, h store.Hash) (r, s [scalarLen]byte) {
	z := reduce(shift(h))
	nonces := newNonces(d, bigEndian(z))
	for {
		k := nonces.next()
		rs := xCoordinate(new(edwards25519.Point).ScalarBaseMult(k))
		ss := new(edwards25519.Scalar).MultiplyAdd(reduce(d), rs, z)
		ss.Multiply(ss, new(edwards25519.Scalar).Invert(k))
		if !isZero(rs) && !isZero(ss) {
			return bigEndian(rs), bigEndian(ss)
		}
	}
}

// errInvalid is the error about a signature that is not by the key.
var errInvalid = errors.New("the signature is invalid")

// verify checks a signature whose halves are big-endian numbers.
func verify(q []byte, h store.Hash, r, s []byte) error {
	point, err := new(edwards25519.Point).SetBytes(q)
	if err != nil {
		return errors.New("the public key is not a point of the curve")
	}
	rs, err := parseScalar(r)
	if err != nil {
		return err
	}
	ss, err := parseScalar(s)
	if err != nil {
		return err
	}
	inverse := new(edwards25519.Scalar).Invert(ss)
	a := new(edwards25519.Scalar).Multiply(rs, inverse)
	b := new(edwards25519.Scalar).Multiply(reduce(shift(h)), inverse)
	sum := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(a, point, b)
	if sum.Equal(edwards25519.NewIdentityPoint()) == 1 || xCoordinate(sum).Equal(rs) != 1 {
		return errInvalid
	}
	return nil
}

// parseScalar reads a number from 1 to L-1.
func parseScalar(b []byte) (*edwards25519.Scalar, error) {
	var padded [scalarLen]byte
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) > scalarLen {
		return nil, errInvalid
	}
	copy(padded[scalarLen-len(b):], b)
	slices.Reverse(padded[:])
	v, err := new(edwards25519.Scalar).SetCanonicalBytes(padded[:])
	if err != nil || isZero(v) {
		return nil, errInvalid
	}
	return v, nil
}

// reduce returns a big-endian number modulo L.
func reduce(b [scalarLen]byte) *edwards25519.Scalar {
	var wide [2 * scalarLen]byte
	slices.Reverse(b[:])
	copy(wide[:], b[:])
	v, err := new(edwards25519.Scalar).SetUniformBytes(wide[:])
	if err != nil {
		panic(err) // only for another length
	}
	return v
}

// shift divides a big-endian number by 8: it keeps its 253 leftmost bits.
func shift(b [scalarLen]byte) [scalarLen]byte {
	var out [scalarLen]byte
	carry := byte(0)
	for i, c := range b {
		out[i] = carry<<(8-hashShift) | c>>hashShift
		carry = c
	}
	return out
}

func bigEndian(v *edwards25519.Scalar) [scalarLen]byte {
	b := [scalarLen]byte(v.Bytes())
	slices.Reverse(b[:])
	return b
}

func isZero(v *edwards25519.Scalar) bool { return v.Equal(edwards25519.NewScalar()) == 1 }

// xCoordinate returns the affine x coordinate of a point modulo L.
func xCoordinate(p *edwards25519.Point) *edwards25519.Scalar {
	x, _, z, _ := p.ExtendedCoordinates()
	x.Multiply(x, new(field.Element).Invert(z))
	b := [scalarLen]byte(x.Bytes())
	slices.Reverse(b[:])
	return reduce(b)
}

// nonces is the generator of RFC 6979, section 3.2, with HMAC-SHA256.
type nonces struct {
	k, v []byte
}

// newNonces starts the generator (steps b to g) for a secret and a hash that was
// reduced modulo L.
func newNonces(d, h [scalarLen]byte) *nonces {
	n := &nonces{k: make([]byte, sha256.Size), v: make([]byte, sha256.Size)}
	for i := range n.v {
		n.v[i] = 1
	}
	n.update(0, d[:], h[:])
	n.update(1, d[:], h[:])
	return n
}

// next returns the next nonce (step h).
func (n *nonces) next() *edwards25519.Scalar {
	for {
		n.v = n.mac(n.v)
		candidate := shift([scalarLen]byte(n.v))
		slices.Reverse(candidate[:])
		k, err := new(edwards25519.Scalar).SetCanonicalBytes(candidate[:])
		// Further candidates, also after a signature that had a zero, start here.
		n.update(0)
		if err == nil && !isZero(k) {
			return k
		}
	}
}

func (n *nonces) update(separator byte, parts ...[]byte) {
	n.k = n.mac(append([][]byte{n.v, {separator}}, parts...)...)
	n.v = n.mac(n.v)
}

func (n *nonces) mac(parts ...[]byte) []byte {
	m := hmac.New(sha256.New, n.k)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}
