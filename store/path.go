package store

import (
	"fmt"
	"path"
	"strings"
	"unicode"
)

// DefaultDir is the store directory of Guix.
const DefaultDir Dir = "/gnu/store"

// HashPartLen is the number of nix-base32 digits at the start of an item's name.
const HashPartLen = 32

// maxNameLen bounds what follows the hash part and its dash, so that the item's
// name and the suffixes that Guix gives it (".lock", ".chroot") fit a file name.
const maxNameLen = 211

// Dir is a store directory as derivations and references write it: "/gnu/store".
// Where the files really are is the business of a backend.
type Dir string

// ParseDir checks that s is a clean absolute directory name below the root, and
// without control characters, so that it can be printed.
func ParseDir(s string) (Dir, error) {
	if !strings.HasPrefix(s, "/") || path.Clean(s) != s || s == "/" {
		return "", fmt.Errorf("store directory %q: want an absolute, clean directory name such as %s", s, DefaultDir)
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return "", fmt.Errorf("store directory %q: control character at offset %d", s, i)
	}
	return Dir(s), nil
}

// Path returns the item of this store with the given base name, "HASH-NAME".
func (d Dir) Path(base string) (Path, error) {
	if err := checkBase(base); err != nil {
		return "", fmt.Errorf("store path %q: %w", string(d)+"/"+base, err)
	}
	return Path(string(d) + "/" + base), nil
}

// ParsePath reads the name of an item directly below the directory.
func (d Dir) ParsePath(s string) (Path, error) {
	rest, ok := strings.CutPrefix(s, string(d))
	base, slash := strings.CutPrefix(rest, "/")
	if !ok || !slash {
		return "", fmt.Errorf("store path %q: not in the store %s", s, d)
	}
	if err := checkBase(base); err != nil {
		return "", fmt.Errorf("store path %q: %w", s, err)
	}
	return Path(s), nil
}

// Path is the full logical name of a store item: "/gnu/store/HASH-NAME". A value
// that came from ParsePath or from a Dir is valid; the zero value means "none".
type Path string

// ParsePath reads the full name of a store item, of whatever store directory.
func ParsePath(s string) (Path, error) {
	i := strings.LastIndexByte(s, '/')
	if i <= 0 {
		return "", fmt.Errorf("store path %q: want an absolute name such as %s/HASH-NAME", s, DefaultDir)
	}
	dir, err := ParseDir(s[:i])
	if err != nil {
		return "", fmt.Errorf("store path %q: %w", s, err)
	}
	return dir.Path(s[i+1:])
}

// ParsePathWithin reads the name of a file in an item, or of the item itself,
// and returns the item and the rest of the name (without leading slashes). The
// rest is as it was given: it may have "..".
func (d Dir) ParsePathWithin(s string) (Path, string, error) {
	tail, ok := strings.CutPrefix(s, string(d)+"/")
	if !ok {
		return "", "", fmt.Errorf("store path %q: not in the store %s", s, d)
	}
	base, rest, _ := strings.Cut(tail, "/")
	p, err := d.Path(base)
	return p, strings.TrimLeft(rest, "/"), err
}

// Dir returns the store directory that the item is in.
func (p Path) Dir() Dir { return Dir(p[:max(0, strings.LastIndexByte(string(p), '/'))]) }

// Base returns "HASH-NAME".
func (p Path) Base() string { return string(p[strings.LastIndexByte(string(p), '/')+1:]) }

// HashPart returns the 32 digits by which the item is found in the files that
// refer to it. It is empty for the zero Path.
func (p Path) HashPart() string {
	base := p.Base()
	return base[:min(HashPartLen, len(base))]
}

// Name returns what follows the hash part and its dash.
func (p Path) Name() string {
	base := p.Base()
	return base[min(HashPartLen+1, len(base)):]
}

// IsDerivation reports whether the name ends in ".drv".
func (p Path) IsDerivation() bool { return strings.HasSuffix(string(p), ".drv") }

// String returns the full name.
func (p Path) String() string { return string(p) }

// UnmarshalText implements encoding.TextUnmarshaler and validates the path, so
// that JSON from another process cannot smuggle in a name that is none. Empty
// text is the zero Path.
func (p *Path) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = ""
		return nil
	}
	parsed, err := ParsePath(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}

func checkBase(base string) error {
	if len(base) < HashPartLen+2 || base[HashPartLen] != '-' {
		return fmt.Errorf("want %d digits of nix-base32, a dash and a name", HashPartLen)
	}
	for i := range HashPartLen {
		if base32Values[base[i]] == 0xff {
			return fmt.Errorf("%q is not a digit of nix-base32", base[i])
		}
	}
	return CheckName(base[HashPartLen+1:])
}

// CheckName checks what follows the hash in an item's name: letters, digits and
// "+-._?=", not starting with a dot, at most 211 bytes (libstore's checkStoreName).
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("the name is empty")
	}
	if len(name) > maxNameLen {
		return fmt.Errorf("the name has %d bytes, more than %d", len(name), maxNameLen)
	}
	if name[0] == '.' {
		return fmt.Errorf("the name %q starts with a dot", name)
	}
	for i := range len(name) {
		c := name[i]
		if ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || strings.IndexByte("+-._?=", c) >= 0 {
			continue
		}
		return fmt.Errorf("the name %q has the forbidden character %q", name, c)
	}
	return nil
}
