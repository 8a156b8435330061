package demo

import (
	"bufio"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// own has this package's sources, for a demo far from lighter's source tree.
//
//go:embed *.go
var own embed.FS

// module is the first line of lighter's go.mod.
const module = "module lighter"

// unit is a part of the source tree that is handled by derivations of its own: a
// package, or in a small tree a single file.
type unit struct {
	name  string   // "internal-cli-demo"
	files []string // in the tree, with slashes
}

// tree is the source that the demo builds.
type tree struct {
	fs.FS
	name  string // for people
	units []unit
}

// Bounds on what the demo takes from a tree, which need not be a small one.
const (
	minUnits    = 6
	maxUnits    = 40
	maxFileSize = 1 << 20
)

// findTree returns lighter's source tree if dir is in it, else the demo's own
// sources.
func findTree(dir string) (*tree, error) {
	if root := checkout(dir); root != "" {
		t, err := newTree(os.DirFS(root), "lighter's source tree, "+root)
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, errTooSmall) {
			return nil, err
		}
	}
	return newTree(own, "the demo's own sources (run it in lighter's source tree for more)")
}

// checkout returns the folder at or above dir that has lighter's go.mod, or "".
func checkout(dir string) string {
	for {
		if isModule(filepath.Join(dir, "go.mod")) {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

func isModule(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, maxFileSize)).ReadString('\n')
	return err == nil && strings.TrimSpace(line) == module
}

var errTooSmall = errors.New("too few Go files")

// newTree finds the units of a tree: its packages, or its files where there are
// only a few packages.
func newTree(fsys fs.FS, name string) (*tree, error) {
	folders := make(map[string][]string)
	var all []string
	err := fs.WalkDir(fsys, ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && skipFolder(entry.Name()):
			return fs.SkipDir
		case !entry.Type().IsRegular() || path.Ext(file) != ".go":
			return nil
		}
		if info, err := entry.Info(); err != nil || info.Size() > maxFileSize {
			return err
		}
		folders[path.Dir(file)] = append(folders[path.Dir(file)], file)
		all = append(all, file)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the source tree: %w", err)
	}
	t := &tree{FS: fsys, name: name}
	if len(folders) >= minUnits {
		for folder, files := range folders {
			t.units = append(t.units, unit{unitName(folder), files})
		}
	} else {
		for _, file := range all {
			t.units = append(t.units, unit{unitName(strings.TrimSuffix(file, ".go")), []string{file}})
		}
	}
	slices.SortFunc(t.units, func(a, b unit) int { return strings.Compare(a.name, b.name) })
	if len(t.units) < minUnits {
		return nil, fmt.Errorf("%s: %w", name, errTooSmall)
	}
	if len(t.units) > maxUnits {
		t.units = t.units[:maxUnits]
	}
	return t, nil
}

func skipFolder(name string) bool {
	return strings.HasPrefix(name, ".") || name == "testdata" || name == "build" || name == "dist" || name == "vendor"
}

// unitName makes the name of a folder fit for a store item.
func unitName(folder string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '.':
			return r
		}
		return '-'
	}, strings.TrimLeft(folder, "."))
}

// extract writes each unit's files, without folders, to a folder of the unit's
// name in dir, and returns the folders in the order of the units.
func (t *tree) extract(dir string) ([]string, error) {
	folders := make([]string, 0, len(t.units))
	for _, u := range t.units {
		folder := filepath.Join(dir, u.name)
		if err := os.Mkdir(folder, 0o755); err != nil {
			return nil, err
		}
		for _, file := range u.files {
			text, err := fs.ReadFile(t.FS, file)
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(folder, path.Base(file)), text, 0o644); err != nil { //nolint:gosec // sources are no secret
				return nil, err
			}
		}
		folders = append(folders, folder)
	}
	return folders, nil
}
