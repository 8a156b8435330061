package disk

import (
	"os"
	"strconv"
	"strings"
)

// HasIDs reports whether the user namespace of this process has a user and a group with these ids. In one that a
// person makes for themselves, root is often the only one (unshare -U -r).
func HasIDs(uid, gid uint32) bool {
	return mapped("/proc/self/uid_map", uid) && mapped("/proc/self/gid_map", gid)
}

// IsRoot reports whether this process is root, and not just the only user of its user namespace.
func IsRoot() bool { return os.Geteuid() == 0 && HasIDs(1, 1) }

// mapped reports whether a file as in user_namespaces(7) has an id. A kernel without user namespaces has
// no such file, and all ids.
func mapped(file string, id uint32) bool {
	text, err := os.ReadFile(file)
	if err != nil {
		return true
	}
	return inMap(string(text), id)
}

func inMap(text string, id uint32) bool {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		first, err := strconv.ParseUint(fields[0], 10, 32)
		size, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err == nil && err2 == nil && first <= uint64(id) && uint64(id)-first < size {
			return true
		}
	}
	return false
}
