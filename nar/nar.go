// Package nar reads and writes NARs, the archives in which Guix and Nix put a
// file tree, and the export stream that carries items with their NARs, references
// and signatures from one store to another.
//
// [Reader] and [Writer] work entry by entry, as archive/tar does. [Pack] and
// [Unpack] go between NARs and file trees, [Canonicalize] gives a tree the modes
// and times that items of a store have, and [RemoveAll] deletes such a tree.
// [ArchiveReader] and [ArchiveWriter] are for the export stream; signatures are
// the business of package nar/signature.
//
// A NAR comes from outside and is read strictly: exactly one encoding of a tree
// is accepted, the one that the Writer makes. Names need not be UTF-8. A NAR knows
// files, folders, symlinks and whether a file is executable, nothing else: no
// owners, times or hard links.
package nar

import (
	"fmt"
	"strings"
)

// Limits on what is accepted. They are those of the kernel, so that a tree which
// ever was on a disk is within them.
const (
	maxName   = 255  // bytes of a name (NAME_MAX)
	maxPath   = 4095 // bytes of a path in the NAR, and of a symlink's target (PATH_MAX)
	maxDepth  = 1024 // folders in one another
	magic     = "nix-archive-1"
	maxToken  = len(magic) // of all the words of the format the longest
	wordBytes = 16         // a word of at most 8 letters, encoded
)

// Kind is what a node of the tree is.
type Kind uint8

// The kinds that there are.
const (
	Regular Kind = iota + 1
	Directory
	Symlink
)

// String returns the word that the NAR uses.
func (k Kind) String() string {
	switch k {
	case Regular:
		return "regular"
	case Directory:
		return "directory"
	case Symlink:
		return "symlink"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Header describes one node. A folder's comes before those of what is in it.
type Header struct {
	// Path is the node's name in the NAR, with slashes between its parts; the root's
	// is empty. Its bytes are as they are in the archive, UTF-8 or not. It never has
	// an empty part, "." or "..", and never starts with a slash.
	Path string
	Kind Kind
	// Executable and Size (in bytes) are set for regular files alone.
	Executable bool
	Size       int64
	// Target is what a symlink points to, as it is in the archive: a Reader says
	// nothing about where that leads.
	Target string
}

// Name returns the last part of the path.
func (h *Header) Name() string { return h.Path[strings.LastIndexByte(h.Path, '/')+1:] }

// checkName checks the name of a folder's entry.
func checkName[S string | []byte](name S) error {
	switch {
	case len(name) == 0:
		return fmt.Errorf("a name is empty")
	case len(name) > maxName:
		return fmt.Errorf("a name has %d bytes, more than %d", len(name), maxName)
	case string(name) == "." || string(name) == "..":
		return fmt.Errorf("the name %q is forbidden", string(name))
	}
	for i := range len(name) {
		switch name[i] {
		case '/':
			return fmt.Errorf("the name %q has a slash", string(name))
		case 0:
			return fmt.Errorf("the name %q has a NUL", string(name))
		}
	}
	return nil
}

// checkTarget checks what a symlink points to: something that symlink(2) takes.
func checkTarget[S string | []byte](target S) error {
	switch {
	case len(target) == 0:
		return fmt.Errorf("the symlink's target is empty")
	case len(target) > maxPath:
		return fmt.Errorf("the symlink's target has %d bytes, more than %d", len(target), maxPath)
	}
	for i := range len(target) {
		if target[i] == 0 {
			return fmt.Errorf("the symlink's target %q has a NUL", string(target))
		}
	}
	return nil
}
