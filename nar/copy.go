package nar

import (
	"context"
	"errors"
	"io"
)

// CopyOptions bound a Copy.
type CopyOptions struct {
	Budget *Budget                 // what may be in the tree; nil means no limit
	Room   func(bytes int64) error // as for UnpackWith, but only for what is written next
}

// Copy makes a canonical copy, as Unpack does, of the file, symlink or tree at from, also
// of what its owner may not read. A process that changes the tree meanwhile may have another one
// copied, or make Copy fail, but has nothing outside of the tree read or changed; the copy
// they have no way to. A file that was swapped for something else, or that changed its size
// while it was read, is an error. If Copy fails, or the context ends, nothing is left.
func Copy(ctx context.Context, from, to string, opts CopyOptions) error {
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	defer stop()
	packed := make(chan error, 1)
	go func() {
		err := pack(w, from, packer{budget: opts.Budget, open: true})
		w.CloseWithError(err)
		packed <- err
	}()
	unpack := UnpackOptions{Room: opts.Room}
	if opts.Room != nil {
		unpack.Room = func(bytes int64) error { return opts.Room(min(bytes, askAgain)) }
	}
	err := UnpackWith(r, to, unpack)
	r.CloseWithError(errStopped)
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, errStopped) {
		err = packErr // of which the other one came
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// errStopped ends the packing when the unpacking has failed.
var errStopped = errors.New("the copy has failed")
