package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"lighter/nar"
)

// benchTar packs and unpacks beside tar: one big file, and many small ones.
func benchTar(ctx context.Context, b *bench) error {
	big := filepath.Join(b.folder, "big")
	if err := os.MkdirAll(big, 0o755); err != nil {
		return err
	}
	if err := writeRandom(filepath.Join(big, "file"), 512<<20); err != nil {
		return err
	}
	small := filepath.Join(b.folder, "small")
	for i := range 20_000 {
		file := filepath.Join(small, fmt.Sprintf("d%03d", i/100), fmt.Sprintf("f%05d", i))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := writeRandom(file, 4<<10); err != nil {
			return err
		}
	}
	for _, tree := range []struct{ what, folder string }{
		{"one file of 512 MiB", big},
		{"20,000 files of 4 KiB", small},
	} {
		if err := b.tarTree(ctx, tree.what, tree.folder); err != nil {
			return err
		}
		if err := os.RemoveAll(tree.folder); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) tarTree(ctx context.Context, what, folder string) error {
	narFile, tarFile := folder+".nar", folder+".tar"
	defer os.Remove(narFile)
	defer os.Remove(tarFile)
	err := b.compare("pack "+what+", tar cf", func() (func() error, error) {
		return func() error { return packFile(narFile, folder) }, removed(narFile)
	}, func() (func() error, error) {
		return exec.CommandContext(ctx, "tar", "cf", tarFile, "-C", folder, ".").Run, removed(tarFile)
	})
	if err != nil {
		return err
	}
	target := folder + ".out"
	defer nar.RemoveAll(target) //nolint:errcheck // the folder it is in is deleted anyway
	return b.compare("unpack "+what+", tar xf", func() (func() error, error) {
		return func() error { return unpackFile(narFile, target) }, emptied(target)
	}, func() (func() error, error) {
		err := errors.Join(emptied(target), os.Mkdir(target, 0o755))
		return exec.CommandContext(ctx, "tar", "xf", tarFile, "-C", target).Run, err
	})
}

func packFile(file, tree string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(packInto(f, tree), f.Close())
}

func packInto(w io.Writer, tree string) error {
	buffered := bufio.NewWriterSize(w, 256<<10)
	return errors.Join(nar.Pack(buffered, tree), buffered.Flush())
}

func unpackFile(file, tree string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return nar.Unpack(bufio.NewReaderSize(f, 256<<10), tree)
}

func removed(file string) error {
	if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func emptied(tree string) error {
	if err := nar.RemoveAll(tree); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// writeRandom writes a file that does not compress, the same for the same size.
func writeRandom(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	source := rand.NewChaCha8([32]byte{1})
	_, err = io.CopyN(f, source, size)
	return errors.Join(err, f.Close())
}
