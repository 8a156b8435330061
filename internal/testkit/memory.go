package testkit

import (
	"os"

	"golang.org/x/sys/unix"
)

// memory is a folder of most computers that is kept in memory.
const memory = "/dev/shm"

// InMemory has the tests of a package write to memory, if that has room and TMPDIR is not
// set: where everything is synced, most of the time goes into waiting for the disk. TestMain
// calls it. TMPDIR=/tmp has them on the disk.
func InMemory() {
	var disk unix.Statfs_t
	if os.Getenv("TMPDIR") == "" && unix.Statfs(memory, &disk) == nil && disk.Type == unix.TMPFS_MAGIC &&
		disk.Flags&unix.ST_NOEXEC == 0 && disk.Bavail*uint64(disk.Bsize) >= 1<<30 { //nolint:gosec // the size of a block is positive
		_ = os.Setenv("TMPDIR", memory) // or not: they are as good on a disk
	}
}
