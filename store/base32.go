package store

import "fmt"

// base32Digits is the alphabet that Guix and Nix use: no e, o, u, t.
const base32Digits = "0123456789abcdfghijklmnpqrsvwxyz"

var base32Values = func() (values [256]byte) {
	for i := range values {
		values[i] = 0xff
	}
	for i := range len(base32Digits) {
		values[base32Digits[i]] = byte(i)
	}
	return values
}()

// Base32Len returns the number of digits that n bytes take.
func Base32Len(n int) int { return (n*8 + 4) / 5 }

// EncodeBase32 encodes bytes as Guix does: digit k, counted from the end of the
// text, holds the 5 bits from bit 5k, and bits are counted from the least
// significant bit of the first byte (bytevector->nix-base32-string).
func EncodeBase32(src []byte) string {
	n := Base32Len(len(src))
	dst := make([]byte, n)
	for k := range n {
		bit := 5 * k
		i, shift := bit/8, bit%8
		v := src[i] >> shift
		if shift > 3 && i+1 < len(src) {
			v |= src[i+1] << (8 - shift)
		}
		dst[n-1-k] = base32Digits[v&31]
	}
	return string(dst)
}

// DecodeBase32 is the inverse of EncodeBase32. It refuses digits outside the
// alphabet and lengths and leading bits that no encoder writes.
func DecodeBase32(s string) ([]byte, error) {
	dst := make([]byte, len(s)*5/8)
	if Base32Len(len(dst)) != len(s) {
		return nil, fmt.Errorf("nix-base32: %d digits do not make whole bytes", len(s))
	}
	for k := range len(s) {
		c := s[len(s)-1-k]
		v := base32Values[c]
		if v == 0xff {
			return nil, fmt.Errorf("nix-base32: digit %q at offset %d", c, len(s)-1-k)
		}
		bit := 5 * k
		i, shift := bit/8, bit%8
		dst[i] |= v << shift
		if carry := v >> (8 - shift); shift > 3 {
			if i+1 < len(dst) {
				dst[i+1] |= carry
			} else if carry != 0 {
				return nil, fmt.Errorf("nix-base32: bits beyond the last byte are set")
			}
		}
	}
	return dst, nil
}
