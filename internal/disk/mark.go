package disk

import (
	"os"
	"syscall"
	"time"
)

// Mark tells versions of a file apart without reading them.
type Mark struct {
	Modified time.Time
	size     int64
	inode    uint64
}

// MarkOf returns that of a file.
func MarkOf(file string) (Mark, error) {
	info, err := os.Stat(file)
	if err != nil {
		return Mark{}, err
	}
	mark := Mark{Modified: info.ModTime(), size: info.Size()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		mark.inode = stat.Ino
	}
	return mark, nil
}
