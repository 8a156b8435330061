package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// MakePath computes the name of an item from its kind, the digest of what it is
// made of and its name (store-path in Guix, makeStorePath in libstore).
func (d Dir) MakePath(kind string, digest Hash, name string) (Path, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	h := sha256.Sum256([]byte(kind + ":sha256:" + digest.Base16() + ":" + string(d) + ":" + name))
	var folded [20]byte
	for i, b := range h {
		folded[i%len(folded)] ^= b
	}
	return Path(string(d) + "/" + EncodeBase32(folded[:]) + "-" + name), nil
}

// TextPath returns the name of a text item, such as a derivation, with the given
// contents and references (the add-text-to-store RPC).
func (d Dir) TextPath(name string, content []byte, references []Path) (Path, error) {
	kind := "text"
	sorted := slices.Clone(references)
	slices.Sort(sorted)
	for _, r := range slices.Compact(sorted) {
		kind += ":" + string(r)
	}
	return d.MakePath(kind, sha256.Sum256(content), name)
}

// SourcePath returns the name of an item added recursively with SHA-256, from
// the hash of its NAR (the add-to-store RPC with its usual arguments).
func (d Dir) SourcePath(name string, narHash Hash) (Path, error) {
	return d.MakePath("source", narHash, name)
}

// FixedOutputPath returns the name of an output whose contents are known by hash:
// of the NAR if recursive, else of the one file. The algorithm is a name such as
// "sha256" and digest its raw bytes.
func (d Dir) FixedOutputPath(name string, recursive bool, algorithm string, digest []byte) (Path, error) {
	if recursive && algorithm == "sha256" {
		if len(digest) != sha256.Size {
			return "", fmt.Errorf("fixed output %s: %d bytes are not a sha256 hash", name, len(digest))
		}
		return d.SourcePath(name, Hash(digest))
	}
	var prefix string
	if recursive {
		prefix = "r:"
	}
	text := strings.Join([]string{"fixed", "out", prefix + algorithm, hex.EncodeToString(digest), ""}, ":")
	return d.MakePath("output:out", sha256.Sum256([]byte(text)), name)
}
