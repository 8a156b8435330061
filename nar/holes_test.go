package nar

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHoles unpacks files with zeros in all places, small ones and large ones.
func TestHoles(t *testing.T) {
	// In pattern each byte stands for a block: of zeros for a '0'.
	contents := func(pattern string, tail ...byte) []byte {
		var all []byte
		for _, c := range []byte(pattern) {
			block := make([]byte, holeBlock)
			if c != '0' {
				block[int(c)*97%holeBlock] = c // zeros around it make no hole
			}
			all = append(all, block...)
		}
		return append(all, tail...)
	}
	many := func(pattern string, n int) string { return string(bytes.Repeat([]byte(pattern), n)) }
	shifted := slices.Concat([]byte{'x'}, make([]byte, 2*holeBlock-2), []byte{'x'})
	for name, tc := range map[string]struct {
		contents []byte
		blocks   int64 // that it takes
	}{
		"empty":               {nil, 0},
		"one zero":            {[]byte{0}, 0},
		"no hole":             {contents("abc", 'd'), 4},
		"inside":              {contents("a00b"), 2},
		"at the ends":         {contents("00ab00"), 2},
		"zero tail":           {contents("a0", 0, 0), 1},
		"tail":                {contents("a0", 0, 1), 2},
		"not aligned":         {shifted, 2},
		"small, nothing else": {contents("0000"), 0},
		"large":               {contents(many("a0b00c", 100), 'd'), 301},
		"large, at the end":   {contents("a" + many("0", 500)), 1},
		"large, at the start": {contents(many("0", 64*3) + "a"), 1},
		"large, nothing else": {contents(many("0", 400), 0), 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			if err := os.WriteFile(filepath.Join(dir, "tree"), tc.contents, 0o644); err != nil {
				t.Fatal(err)
			}
			archived := packed(t, filepath.Join(dir, "tree"))
			if err := Unpack(bytes.NewReader(archived), filepath.Join(dir, "root")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "tree"), filepath.Join(dir, "folder", "file")); err != nil {
				t.Fatal(err)
			}
			folder := packed(t, filepath.Join(dir, "folder"))
			if err := Unpack(bytes.NewReader(folder), filepath.Join(dir, "unpacked")); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{filepath.Join(dir, "root"), filepath.Join(dir, "unpacked", "file")} {
				if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, tc.contents) {
					t.Errorf("%s: got %d bytes that are not the %d that were packed: %v", file, len(got), len(tc.contents), err)
				}
				var st unix.Stat_t
				if err := unix.Lstat(file, &st); err != nil || st.Blocks*512 > tc.blocks*holeBlock {
					t.Errorf("%s takes %d bytes on the disk, want at most %d blocks: %v", file, st.Blocks*512, tc.blocks, err)
				}
				checkCanonical(t, file)
			}
			if !bytes.Equal(packed(t, filepath.Join(dir, "root")), archived) || !bytes.Equal(packed(t, filepath.Join(dir, "unpacked")), folder) {
				t.Error("the archives have become others")
			}
		})
	}
}
