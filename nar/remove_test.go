package nar

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
)

// TestRemoveAllGoesOn has a file that can't be deleted, as one that is in use on NFS, at
// depths at which folders are moved up, too: everything else goes.
func TestRemoveAllGoesOn(t *testing.T) {
	testkit.NeedRoot(t)
	for _, depth := range []int{0, 3, flattenDepth, 3 * flattenDepth} {
		tree := filepath.Join(t.TempDir(), "tree")
		deep := filepath.Join(tree, strings.Repeat("d/", depth))
		for _, folder := range []string{filepath.Join(tree, "a/b/c"), filepath.Join(tree, "z/y"), deep} {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		busy := filepath.Join(deep, "m-busy")
		for _, file := range []string{busy, filepath.Join(deep, "before"), filepath.Join(deep, "z-after"), filepath.Join(tree, "z/y/file")} {
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount(busy, busy, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		err := RemoveAll(tree)
		left := 0
		_ = filepath.WalkDir(tree, func(name string, d os.DirEntry, _ error) error {
			if d != nil && !d.IsDir() {
				left++
				if unmountErr := unix.Unmount(name, unix.MNT_DETACH); unmountErr != nil {
					t.Errorf("%s is left: %v", name, unmountErr)
				}
			}
			return nil
		})
		if !errors.Is(err, unix.EBUSY) || left != 1 {
			t.Errorf("depth %d: %d files are left, %v", depth, left, err)
		}
		if err := RemoveAll(tree); err != nil {
			t.Errorf("depth %d: when it is free: %v", depth, err)
		}
	}
}
