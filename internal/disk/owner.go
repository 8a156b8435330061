package disk

import (
	"io/fs"
	"os/user"
	"strconv"
	"syscall"
)

// Owner returns the name of the user to whom a file belongs.
func Owner(info fs.FileInfo) string {
	return UserName(info.Sys().(*syscall.Stat_t).Uid)
}

// Group returns the name of the group to which a file belongs.
func Group(info fs.FileInfo) string {
	return GroupName(info.Sys().(*syscall.Stat_t).Gid)
}

// UserName returns the name of a user, or "user 1000" of one without.
func UserName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "user " + id
}

// GroupName returns the name of a group, or its number.
func GroupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}
