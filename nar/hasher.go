package nar

import (
	"crypto/sha256"
	"encoding"
	"hash"

	"lighter/store"
)

// hasherBuffer is how much a Hasher collects before it hashes it in the background.
const hasherBuffer = 256 << 10

// Hasher computes the SHA-256 and the size of what is written to it. The work
// overlaps with what the caller does between writes: data is copied, and a full
// buffer is hashed by a goroutine while the next one fills. There is never more
// than one, it ends by itself with its buffer, and every method that needs its
// result waits for it. The zero value is ready for use. A Hasher is not safe for
// concurrent use.
type Hasher struct {
	state hash.Hash
	size  int64
	full  []byte
	spare []byte
	busy  chan struct{} // closed when the goroutine is done; nil if there is none
}

// Write adds p. It never fails.
func (h *Hasher) Write(p []byte) (int, error) {
	n := len(p)
	h.size += int64(n)
	for len(p) > 0 {
		k := min(len(p), hasherBuffer-len(h.full))
		h.full = append(h.full, p[:k]...)
		p = p[k:]
		if len(h.full) == hasherBuffer {
			h.start()
		}
	}
	return n, nil
}

// Size returns how many bytes were written.
func (h *Hasher) Size() int64 { return h.size }

// Sum returns the hash of all that was written so far; more may be written.
func (h *Hasher) Sum() store.Hash {
	h.wait()
	if h.state == nil {
		h.state = sha256.New()
	}
	h.state.Write(h.full)
	h.full = h.full[:0]
	return store.Hash(h.state.Sum(nil))
}

// stateFrom is the size, in bytes, from which on a state is worth its place.
const stateFrom = 64 << 10

// State returns the inner state of SHA-256 after all that was written so far, for
// Restore; nil if that was too little to be worth it. Programs of another version of
// Go may not understand it.
func (h *Hasher) State() ([]byte, error) {
	if h.size < stateFrom {
		return nil, nil
	}
	h.Sum()
	return h.state.(encoding.BinaryMarshaler).MarshalBinary()
}

// Restore makes the Hasher one that was given what the Hasher of State was: size
// bytes with the hash sum. It reports false, and is as after Reset, if the state is
// not that of such a Hasher, as far as one can tell.
func (h *Hasher) Restore(state []byte, size int64, sum store.Hash) bool {
	h.Reset()
	if h.state == nil {
		h.state = sha256.New()
	}
	if err := h.state.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil || h.Sum() != sum {
		h.Reset()
		return false
	}
	h.size = size
	return true
}

// Reset makes the Hasher as good as new, and keeps its memory.
func (h *Hasher) Reset() {
	h.wait()
	h.size, h.full = 0, h.full[:0]
	if h.state != nil {
		h.state.Reset()
	}
}

// start hashes the full buffer in the background and changes to the other one.
func (h *Hasher) start() {
	h.wait()
	if h.state == nil {
		h.state = sha256.New()
	}
	buf, state, done := h.full, h.state, make(chan struct{})
	h.full, h.spare, h.busy = h.spare[:0], buf, done
	go func() {
		state.Write(buf)
		close(done)
	}()
}

func (h *Hasher) wait() {
	if h.busy != nil {
		<-h.busy
		h.busy = nil
	}
}

// Hash returns the hash and the size of the NAR of the tree at path.
func Hash(path string) (store.Hash, int64, error) {
	var h Hasher
	if err := Pack(&h, path); err != nil {
		return store.Hash{}, 0, err
	}
	return h.Sum(), h.Size(), nil
}
