package ledger

import (
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// haltFS is a file system on which no write fails: the first one that does is
// reported, and its goroutine stops forever.
//
// Pebble can't cope with a failed write. Depending on the file and the moment, it tries
// forever, panics with locks held so that the process ends, or calls the logger's Fatalf.
// Stopping right there leaves the disk as it is, lets readers and callers be told, and
// leaves the decision to the process.
type haltFS struct {
	vfs.FS
	report func(error)
}

// check returns only if err is nil.
func (fs *haltFS) check(operation, name string, err error) {
	if err == nil {
		return
	}
	fs.report(fmt.Errorf("%s %s: %w", operation, name, err))
	select {}
}

func (fs *haltFS) file(name string, f vfs.File) vfs.File {
	return &haltFile{File: f, fs: fs, name: name}
}

// Unwrap implements vfs.FS.
func (fs *haltFS) Unwrap() vfs.FS { return fs.FS }

// Create implements vfs.FS.
func (fs *haltFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	fs.check("create", name, err)
	return fs.file(name, f), nil
}

// OpenReadWrite implements vfs.FS.
func (fs *haltFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, category, opts...)
	fs.check("open", name, err)
	return fs.file(name, f), nil
}

// OpenDir implements vfs.FS.
func (fs *haltFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return fs.file(name, f), nil
}

// ReuseForWrite implements vfs.FS.
func (fs *haltFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldname, newname, category)
	fs.check("reuse", oldname, err)
	return fs.file(newname, f), nil
}

// Link implements vfs.FS.
func (fs *haltFS) Link(oldname, newname string) error {
	fs.check("link", newname, fs.FS.Link(oldname, newname))
	return nil
}

// Rename implements vfs.FS.
func (fs *haltFS) Rename(oldname, newname string) error {
	fs.check("rename", oldname, fs.FS.Rename(oldname, newname))
	return nil
}

// MkdirAll implements vfs.FS.
func (fs *haltFS) MkdirAll(dir string, perm os.FileMode) error {
	fs.check("make folder", dir, fs.FS.MkdirAll(dir, perm))
	return nil
}

// haltFile is a file of a haltFS that is written to.
type haltFile struct {
	vfs.File
	fs   *haltFS
	name string
}

// Write implements vfs.File.
func (f *haltFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.fs.check("write", f.name, err)
	return n, nil
}

// WriteAt implements vfs.File.
func (f *haltFile) WriteAt(p []byte, offset int64) (int, error) {
	n, err := f.File.WriteAt(p, offset)
	f.fs.check("write", f.name, err)
	return n, nil
}

// Sync implements vfs.File.
func (f *haltFile) Sync() error {
	f.fs.check("sync", f.name, f.File.Sync())
	return nil
}

// SyncData implements vfs.File.
func (f *haltFile) SyncData() error {
	f.fs.check("sync", f.name, f.File.SyncData())
	return nil
}

// SyncTo implements vfs.File.
func (f *haltFile) SyncTo(length int64) (fullSync bool, err error) {
	fullSync, err = f.File.SyncTo(length)
	f.fs.check("sync", f.name, err)
	return fullSync, nil
}
