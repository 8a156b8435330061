package local

import (
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"lighter/internal/quantity"
)

// The defaults of Options.
const (
	defaultMaxOutput      = 1 << 40 // bytes; the largest packages of Guix have some 10 GB
	defaultMaxOutputFiles = 4 << 20 // the largest have some 200,000
	// What is kept free by default is this part of the disk, and no more than so many bytes.
	defaultKeepFreePart = 20
	defaultMaxKeepFree  = 1 << 30
)

func (s *Store) maxOutput() int64 {
	if s.opts.MaxOutput != 0 {
		return s.opts.MaxOutput
	}
	return defaultMaxOutput
}

func (s *Store) maxOutputFiles() int64 {
	if s.opts.MaxOutputFiles != 0 {
		return s.opts.MaxOutputFiles
	}
	return defaultMaxOutputFiles
}

// space is what a disk has, in bytes.
type space struct {
	free int64 // for who is not root
	keep int64 // of which so much is kept free
}

func (s *Store) space() (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(string(s.layout), &st); err != nil {
		return space{}, &fs.PathError{Op: "statfs", Path: string(s.layout), Err: err}
	}
	block := int64(st.Frsize) //nolint:unconvert // its type depends on the platform
	if block == 0 {
		block = int64(st.Bsize) //nolint:unconvert // as above
	}
	sp := space{free: int64(st.Bavail) * block, keep: s.opts.KeepFree} //nolint:gosec // no disk has 2^63 bytes
	if sp.keep == 0 {
		sp.keep = min(int64(st.Blocks)*block/defaultKeepFreePart, defaultMaxKeepFree) //nolint:gosec // as above
	}
	sp.keep = max(sp.keep, 0)
	return sp, nil
}

// room returns an error, which matches ENOSPC, if so many bytes more would not leave on
// the disk what is to be kept free.
func (s *Store) room(bytes int64) error {
	sp, err := s.space()
	if err != nil {
		return err
	}
	if left := sp.free - sp.keep; bytes > left {
		return fmt.Errorf("%s more have no room: %s are free, of which %s are kept free: %w", quantity.Bytes(bytes), quantity.Bytes(sp.free), quantity.Bytes(sp.keep), unix.ENOSPC)
	}
	return nil
}
