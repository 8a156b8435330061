// Package machinesfile reads the machines file again when it changes, and when somebody asks, and
// knows what became of that. What its machines are used for is the coordinator's.
package machinesfile

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/backoff"
	"lighter/internal/disk"
	"lighter/machines"
)

// Options are what a File works with.
type Options struct {
	Name string // of the file; empty if there is none, and Load reads something else
	// Load reads it; nil means that it is read only once, by the caller of New.
	Load func(context.Context) ([]machines.Machine, error)
	// Use replaces the machines in use, or changes nothing and returns an error.
	Use    func(context.Context, []machines.Machine) (*api.Reloaded, error)
	Now    func() time.Time
	Logger *slog.Logger
}

// File is the machines file. Any goroutine may call its methods.
type File struct {
	Options
	reading chan struct{} // has room for one: whoever reads the file

	mu     sync.Mutex
	status api.MachinesFileStatus
	seen   disk.Mark // of the version that was last read or refused
}

// fresh is the age below which the file may have changed after the caller of New read it.
const fresh = 10 * time.Second

// New returns the file that the caller has just read.
func New(opts Options) *File {
	now := opts.Now()
	f := &File{Options: opts, reading: make(chan struct{}, 1), status: api.MachinesFileStatus{File: opts.Name, Read: &now}}
	if mark, err := disk.MarkOf(f.Name); err == nil && now.Sub(mark.Modified) > fresh {
		f.seen = mark
	}
	return f
}

// Status says when the file was last read, and what is wrong with it.
func (f *File) Status() api.MachinesFileStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// watched reports whether there is a file that may be read again.
func (f *File) watched() bool { return f.Load != nil && f.Name != "" }

// Watch reads the file whenever it has changed, until ctx ends. A change counts once the file looked
// the same twice, so that half a file that is still being written is not read.
func (f *File) Watch(ctx context.Context, interval time.Duration) {
	var before disk.Mark
	gone := false
	for f.watched() && backoff.Wait(ctx, interval) == nil {
		mark, err := disk.MarkOf(f.Name)
		switch {
		case err != nil && gone:
		case err != nil:
			gone = true
			f.refuse(disk.Mark{}, err)
		case gone || mark != before:
			gone = false
		case mark != f.last():
			_, _ = f.Read(ctx) // it logs what is wrong
		}
		before = mark
	}
}

// Refresh calls Read if the file has changed since it was last read: for a person who has just
// written it and wants to see what has become of it.
func (f *File) Refresh(ctx context.Context) error {
	if !f.watched() {
		return nil
	}
	mark, err := disk.MarkOf(f.Name)
	if errors.Is(err, fs.ErrNotExist) || mark == f.last() {
		return nil // Watch says that it is gone
	}
	_, err = f.Read(ctx)
	return err
}

// Read reads the file and has its machines used. If it is bad, nothing changes.
func (f *File) Read(ctx context.Context) (*api.Reloaded, error) {
	if f.Load == nil {
		return nil, api.BadRequest("this coordinator has no machines file to read again")
	}
	select {
	case f.reading <- struct{}{}:
		defer func() { <-f.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var mark disk.Mark
	var err error
	if f.Name != "" {
		mark, err = disk.MarkOf(f.Name)
	}
	var list []machines.Machine
	if err == nil {
		list, err = f.Load(ctx)
	}
	var became *api.Reloaded
	if err == nil {
		became, err = f.Use(ctx, list)
	}
	if err == nil {
		f.took(mark)
		return became, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f.refuse(mark, err)
	return nil, &api.Error{
		Status: http.StatusUnprocessableEntity, Code: api.CodeBadRequest,
		Message: "the machines in use stay as they are: " + err.Error(),
	}
}

func (f *File) last() disk.Mark {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

// refuse notes that the file cannot be used.
func (f *File) refuse(mark disk.Mark, err error) {
	text := err.Error()
	if errors.Is(err, fs.ErrNotExist) {
		text = "it is no longer there: " + text
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if mark != f.seen || f.status.Error != text {
		f.Logger.Error("the machines file cannot be used; the machines in use stay as they are", "file", f.Name, "err", text)
	}
	f.seen, f.status.Error = mark, text
}

func (f *File) took(mark disk.Mark) {
	now := f.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.status.Error, f.status.Read = mark, "", &now
}
