package nar

import (
	"lighter/store"
)

// The words of the export stream (exportPath in libstore).
const (
	itemFollows = 1
	endOfItems  = 0
	itemMagic   = 0x4558494e // "NIXE"
)

// Limits on what comes with an item.
const (
	maxStorePath  = 1024    // bytes
	maxReferences = 1 << 16 // of one item
	maxSignature  = 64 << 10
)

// Item is what an archive says of one store item, besides its NAR.
type Item struct {
	Path       store.Path
	References []store.Path
	Deriver    store.Path // empty where it is not known
	// Signature is the s-expression that signs SignedHash, or empty. The package does
	// not look into it; see package nar/signature.
	Signature string
	NARHash   store.Hash
	NARSize   int64 // bytes
	// NARState is the state of a Hasher after the NAR, where that is of some size and
	// so worth to be kept: with it, the item can be written again without its NAR
	// being hashed.
	NARState []byte
	// SignedHash is the SHA-256 of the NAR and of what follows it, up to and with
	// the deriver.
	SignedHash store.Hash
}
