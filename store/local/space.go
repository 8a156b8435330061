package local

import (
	"fmt"

	"golang.org/x/sys/unix"

	"lighter/internal/disk"
	"lighter/internal/quantity"
)

// The defaults of Options.
const (
	defaultMaxOutput      = 1 << 40 // bytes; the largest packages of Guix have some 10 GB
	defaultMaxOutputFiles = 4 << 20 // the largest have some 200,000
	// What is kept free by default is this part of the disk, and no more than this many bytes.
	defaultKeepFreePart = 20
	defaultMaxKeepFree  = 1 << 30
)

// space is what a disk has, in bytes.
type space struct {
	free int64 // for who is not root
	keep int64 // of which so much is kept free
}

func (d *diskWatch) space() (space, error) {
	total, err := disk.Free(d.layout.root)
	if err != nil {
		return space{}, err
	}
	sp := space{free: total.Free, keep: d.keepFree}
	if sp.keep == 0 {
		sp.keep = min(total.Total/defaultKeepFreePart, defaultMaxKeepFree)
	}
	sp.keep = max(sp.keep, 0)
	return sp, nil
}

// room returns an error, which matches ENOSPC, if that many more bytes would not leave on
// the disk what is to be kept free.
func (d *diskWatch) room(bytes int64) error {
	sp, err := d.space()
	if err != nil {
		return err
	}
	if left := sp.free - sp.keep; bytes > left {
		return fmt.Errorf("%s more have no room: %s are free, of which %s are kept free: %w", quantity.Bytes(bytes), quantity.Bytes(sp.free), quantity.Bytes(sp.keep), unix.ENOSPC)
	}
	return nil
}
