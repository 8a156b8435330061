package nar

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"lighter/store"
)

// The sizes of the trees are small enough for go test -bench; these variables make
// them larger: NAR_BENCH_MIB for the one big file, NAR_BENCH_FILES for the many.
func benchSize(b *testing.B, name string, usual int) int {
	b.Helper()
	s := os.Getenv(name)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	return n
}

// bigFile makes a tree of one file.
func bigFile(b *testing.B, dir string) {
	b.Helper()
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	f, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for range benchSize(b, "NAR_BENCH_MIB", 64) {
		if _, err := f.Write(noise); err != nil {
			b.Fatal(err)
		}
	}
}

// smallFiles makes a tree of files of 4 KiB on average, 100 to a folder.
func smallFiles(b *testing.B, dir string) {
	b.Helper()
	for i := range benchSize(b, "NAR_BENCH_FILES", 20_000) {
		folder := filepath.Join(dir, fmt.Sprintf("%03d", i/100))
		if i%100 == 0 {
			if err := os.Mkdir(folder, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		contents := bytes.Repeat([]byte{byte(i)}, rand.IntN(8192))
		if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(i)), contents, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTree(b *testing.B) {
	for name, make := range map[string]func(*testing.B, string){"big": bigFile, "small": smallFiles} {
		dir := tempDir(b)
		tree := filepath.Join(dir, "tree")
		if err := os.Mkdir(tree, 0o755); err != nil {
			b.Fatal(err)
		}
		make(b, tree)
		archived := filepath.Join(dir, "nar")
		f, err := os.Create(archived)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if err := Pack(f, tree); err != nil {
			b.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			b.Fatal(err)
		}
		b.Run("Pack/"+name, func(b *testing.B) {
			b.SetBytes(info.Size())
			for b.Loop() {
				if err := Pack(io.Discard, tree); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("Hash/"+name, func(b *testing.B) {
			b.SetBytes(info.Size())
			for b.Loop() {
				if _, _, err := Hash(tree); err != nil {
					b.Fatal(err)
				}
			}
		})
		target := filepath.Join(dir, "target")
		b.Run("Unpack/"+name, func(b *testing.B) {
			b.SetBytes(info.Size())
			for b.Loop() {
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					b.Fatal(err)
				}
				if err := Unpack(bufio.NewReaderSize(f, 64<<10), target); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := RemoveAll(target); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
		b.Run("Archive/"+name, func(b *testing.B) {
			b.SetBytes(info.Size())
			item := &Item{Path: "/gnu/store/v59jh5m089x5kr82bvg27n51gfkx25fh-tree"}
			var r *os.File
			for b.Loop() {
				b.StopTimer()
				r, err = os.Create(filepath.Join(dir, "archive"))
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				w := NewArchiveWriter(r)
				if err := w.WriteItem(item, func(w io.Writer) error { return Pack(w, tree) }, nil); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
				if _, err := r.Seek(0, io.SeekStart); err != nil {
					b.Fatal(err)
				}
				a := NewArchiveReader(bufio.NewReaderSize(r, 64<<10), store.DefaultDir)
				n, err := a.Next()
				if err != nil {
					b.Fatal(err)
				}
				if err := Unpack(n, target); err != nil {
					b.Fatal(err)
				}
				if _, err := a.Item(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := RemoveAll(target); err != nil {
					b.Fatal(err)
				}
				r.Close()
				b.StartTimer()
			}
		})
	}
}
