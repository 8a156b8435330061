// Package wire reads and writes the encoding that NARs, archives and the
// protocol of guix-daemon share: integers of 8 bytes, little-endian, and byte
// strings that have their length in front and zeros behind, up to a multiple of
// 8 (serialise.cc and archive.cc in libstore).
//
// What comes from the other side is hostile until it has been checked: each
// length is compared with the caller's limit before memory is taken for it, and
// padding that is not zero is an error. A [Reader] never reads a byte that the
// caller did not ask for or promise; see [Reader.Promise].
//
// Neither type is safe for concurrent use.
package wire

import (
	"errors"
	"fmt"
)

// wordSize is what everything is aligned to, in bytes.
const wordSize = 8

// ErrPadding is matched by the error about padding that is not zero.
var ErrPadding = errors.New("padding is not zero")

// LimitError is the error about a number that is larger than it may be.
type LimitError struct {
	What  string // what the number is: "length", "count", "integer"
	Value uint64
	Limit uint64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s %d is more than %d", e.What, e.Value, e.Limit)
}

// Padding returns how many zero bytes follow n bytes of data.
func Padding(n int64) int { return int(-n & (wordSize - 1)) }

// StringSize returns how many bytes a string of n bytes takes when it is encoded.
func StringSize(n int64) int64 { return wordSize + n + int64(Padding(n)) }
