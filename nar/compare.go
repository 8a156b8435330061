package nar

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
)

// maxCompared bounds the nodes of a NAR that Compare remembers.
const maxCompared = 4 << 20

// print is what tells one node from another.
type print struct {
	kind       Kind
	executable bool
	contents   [sha256.Size]byte // of a file, or of a symlink's target
}

// Compare reads two NARs and returns the paths of the nodes that are not the same in both,
// or are in one alone, sorted, at most limit of them: files by contents and executable
// bit, symlinks by target. The root's path is ".". total is how many differ.
func Compare(a, b io.Reader, limit int) (differing []string, total int, err error) {
	first := make(map[string]print)
	err = prints(a, func(path string, p print) error {
		if len(first) == maxCompared {
			return fmt.Errorf("more than %d nodes are not compared", maxCompared)
		}
		first[path] = p
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("first NAR: %w", err)
	}
	note := func(path string) {
		total++
		if path == "" {
			path = "."
		}
		differing = append(differing, path)
	}
	err = prints(b, func(path string, p print) error {
		old, ok := first[path]
		delete(first, path)
		if !ok || old != p {
			note(path)
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("second NAR: %w", err)
	}
	for path := range first {
		note(path)
	}
	slices.Sort(differing)
	return differing[:min(limit, len(differing))], total, nil
}

func prints(r io.Reader, visit func(path string, p print) error) error {
	tree := NewReader(r)
	for {
		h, err := tree.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p := print{kind: h.Kind, executable: h.Executable}
		switch h.Kind {
		case Regular:
			sum := sha256.New()
			if _, err := io.Copy(sum, tree); err != nil {
				return err
			}
			sum.Sum(p.contents[:0])
		case Symlink:
			p.contents = sha256.Sum256([]byte(h.Target))
		case Directory:
		}
		if err := visit(h.Path, p); err != nil {
			return err
		}
	}
}
