package signature

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"lighter/store"
)

// ACL is the list of the keys that may sign archives to be imported, the newest
// first. The zero value authorizes nobody. An ACL is not safe for concurrent use
// while it is changed.
type ACL struct {
	keys []*PublicKey
}

// ParseACL reads (acl (entry KEY (tag (guix import)))…). As in Guix, one entry that
// is not so makes the whole list an error. Of equal keys the first is kept.
func ParseACL(text []byte) (*ACL, error) {
	s, err := ParseSexp(text)
	if err != nil {
		return nil, fmt.Errorf("ACL: %w", err)
	}
	if s.head() != "acl" {
		return nil, errors.New("ACL: want (acl (entry …) …)")
	}
	acl := &ACL{}
	for i, entry := range s.list[1:] {
		key, err := parseEntry(entry)
		if err != nil {
			return nil, fmt.Errorf("ACL: entry %d: %w", i+1, err)
		}
		if !acl.Authorized(key) {
			acl.keys = append(acl.keys, key)
		}
	}
	return acl, nil
}

func parseEntry(entry *Sexp) (*PublicKey, error) {
	if entry.head() != "entry" || len(entry.list) != 3 {
		return nil, errors.New("want (entry KEY (tag (guix import)))")
	}
	if !entry.list[2].Equal(importTag()) {
		return nil, errors.New("the tag is not (guix import)")
	}
	return newPublicKey(entry.list[1])
}

func importTag() *Sexp {
	return newList(newAtom("tag"), newList(newAtom("guix"), newAtom("import")))
}

// Authorized reports whether the key is listed.
func (a *ACL) Authorized(key *PublicKey) bool { return slices.ContainsFunc(a.keys, key.Equal) }

// Add lists the key, in front, and reports whether it was not listed before.
func (a *ACL) Add(key *PublicKey) bool {
	if a.Authorized(key) {
		return false
	}
	a.keys = slices.Insert(a.keys, 0, key)
	return true
}

// Remove takes the key off the list and reports whether it was on it.
func (a *ACL) Remove(key *PublicKey) bool {
	before := len(a.keys)
	a.keys = slices.DeleteFunc(a.keys, key.Equal)
	return len(a.keys) < before
}

// Keys returns the keys, the newest first.
func (a *ACL) Keys() []*PublicKey { return slices.Clone(a.keys) }

// String returns the list as Guix writes it.
func (a *ACL) String() string {
	s := newList(newAtom("acl"))
	for _, key := range a.keys {
		s.list = append(s.list, newList(newAtom("entry"), key.sexp, importTag()))
	}
	return s.Advanced()
}

// Check decides whether an item may be imported whose archive has this signature
// and the hash signedHash (of everything that the signature is to cover). It makes
// the checks in the order of Guix: signature there and readable, key listed, hash
// the same, signature valid. It returns the key that signed. An error matches
// store.ErrUnauthorized if the key is not listed, else store.ErrCorrupt.
func (a *ACL) Check(text string, signedHash store.Hash) (*PublicKey, error) {
	if text == "" {
		return nil, fmt.Errorf("%w: it lacks a signature", store.ErrCorrupt)
	}
	sig, err := parseSignature(text)
	if err != nil {
		return nil, fmt.Errorf("%w: corrupt signature data: %w: %s", store.ErrCorrupt, err, excerpt(text))
	}
	if !a.Authorized(sig.key) {
		return nil, fmt.Errorf("%w: %s", store.ErrUnauthorized, sig.key.Fingerprint())
	}
	h, err := sig.hash()
	if err != nil {
		return nil, fmt.Errorf("%w: corrupt signature data by key %s: %w", store.ErrCorrupt, sig.key.Fingerprint(), err)
	}
	if h != signedHash {
		return nil, fmt.Errorf("%w: hash mismatch: key %s signed %s, the contents have %s",
			store.ErrCorrupt, sig.key.Fingerprint(), h, signedHash)
	}
	if err := sig.verify(h); err != nil {
		return nil, fmt.Errorf("%w: invalid signature by key %s: %w", store.ErrCorrupt, sig.key.Fingerprint(), err)
	}
	return sig.key, nil
}

// excerpt returns the start of a text that came from outside, fit to be shown.
func excerpt(text string) string {
	const most = 60
	if len(text) > most {
		text = text[:most] + "…"
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(text, string(utf8.RuneError)))
}
