package publish

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lighter/internal/disk"
)

// FS is the folder that is published: on this computer, or on another one by SFTP. Names
// are relative, with slashes, as fs.ValidPath wants them. It may be used from several
// goroutines. What is not there is an error that matches fs.ErrNotExist.
type FS interface {
	// Put makes a file of what fill writes, with the folders above it, in the place of one
	// that is there. No reader ever sees a part of it, and when Put returns it is on the disk.
	// If fill has an error nothing is changed, and that is Put's error.
	Put(ctx context.Context, name string, fill func(io.Writer) error) error
	Stat(ctx context.Context, name string) (fs.FileInfo, error)
	// Read returns the contents of a file that has at most limit bytes.
	Read(ctx context.Context, name string, limit int64) ([]byte, error)
	// List returns what is in a folder, in no order. One that is not there is empty.
	List(ctx context.Context, dir string) ([]fs.FileInfo, error)
	// Touch sets the time of a file's last change to now.
	Touch(ctx context.Context, name string) error
	// Remove removes a file. One that is not there is no error.
	Remove(ctx context.Context, name string) error
	// String says where the folder is, for people.
	String() string
}

// temporary is how the names of files start that are being written.
const temporary = ".tmp-"

// Folder is an FS on this computer.
type Folder string

var _ FS = Folder("")

// String returns the folder's name.
func (f Folder) String() string { return string(f) }

// file returns the full name of a file.
func (f Folder) file(ctx context.Context, name string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if !fs.ValidPath(name) {
		return "", fmt.Errorf("%q is not a name in a published folder", name)
	}
	return filepath.Join(string(f), filepath.FromSlash(name)), nil
}

// Put implements FS.
func (f Folder) Put(ctx context.Context, name string, fill func(io.Writer) error) (err error) {
	file, err := f.file(ctx, name)
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The name of an item may be as long as a file's name may, so nothing is added to it.
	tmp := filepath.Join(dir, temporary+strings.ToLower(rand.Text()))
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	err = fill(out)
	if err == nil {
		err = out.Sync()
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	return disk.SyncFolder(dir)
}

// Stat implements FS.
func (f Folder) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	file, err := f.file(ctx, name)
	if err != nil {
		return nil, err
	}
	return os.Lstat(file)
}

// Read implements FS.
func (f Folder) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	file, err := f.file(ctx, name)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(string(f))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	in, _, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: it has more than %d bytes", file, limit)
	}
	return text, err
}

// List implements FS.
func (f Folder) List(ctx context.Context, dir string) ([]fs.FileInfo, error) {
	folder, err := f.file(ctx, dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	infos := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went away meanwhile
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// Touch implements FS.
func (f Folder) Touch(ctx context.Context, name string) error {
	file, err := f.file(ctx, name)
	if err != nil {
		return err
	}
	return os.Chtimes(file, time.Time{}, time.Now())
}

// Remove implements FS.
func (f Folder) Remove(ctx context.Context, name string) error {
	file, err := f.file(ctx, name)
	if err != nil {
		return err
	}
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
