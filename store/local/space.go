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
	// By default this part of the disk is kept free, but not more than this many bytes.
	defaultKeepFreePart = 20
	defaultMaxKeepFree  = 1 << 30
)

// space is what a disk has, in bytes.
type space struct {
	free int64 // for users other than root
	keep int64 // how much of that must stay free
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

// room returns an error, which matches ENOSPC, if that many more bytes would not leave
// enough of the disk free.
func (d *diskWatch) room(bytes int64) error {
	sp, err := d.space()
	if err != nil {
		return err
	}
	if left := sp.free - sp.keep; bytes > left {
		return fmt.Errorf("no room for %s more: %s are free, and %s are kept free: %w", quantity.Bytes(bytes), quantity.Bytes(sp.free), quantity.Bytes(sp.keep), unix.ENOSPC)
	}
	return nil
}
