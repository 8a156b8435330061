package head

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"lighter/internal/api/apiserver"
	"lighter/internal/disk"
	"lighter/internal/settings"
)

// access.go turns [access] in lighter.toml into who may do what.

// accessOf returns who operates, and the number of the socket's group, or -1 for the
// coordinator's own, or nobody for none. Who is not found has no rights, and is a problem.
func accessOf(s *settings.Access, file string) (a *apiserver.Access, group int, problems []error) {
	a = &apiserver.Access{
		UID: uint32(os.Geteuid()), MaxPriority: s.MaxPriority, // #nosec G115 -- a number of the kernel's
		Where: fmt.Sprintf("[access] in %s says who (operate-group, operate-users)", file),
	}
	find := func(key, name string, find func(string) (string, error)) (uint32, bool) {
		id, err := accountID(name, find)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: [access] %s: %w", file, key, err))
		}
		return id, err == nil
	}
	who := []string{"root"}
	if a.UID != 0 {
		who = append(who, disk.UserName(a.UID))
	}
	for _, name := range s.OperateUsers {
		if id, ok := find("operate-users", name, userID); ok {
			a.Users, who = append(a.Users, id), append(who, name)
		}
	}
	if s.OperateGroup != "" {
		if id, ok := find("operate-group", s.OperateGroup, groupID); ok {
			a.Groups, who = append(a.Groups, id), append(who, "members of the group "+s.OperateGroup)
		}
	}
	a.Operators = who[0]
	if last := len(who) - 1; last > 0 {
		a.Operators = strings.Join(who[:last], ", ") + " and " + who[last]
	}
	if s.SubmitGroup == "" {
		return a, -1, problems
	}
	id, ok := find("submit-group", s.SubmitGroup, groupID)
	if !ok {
		return a, nobody, problems
	}
	return a, int(id), problems
}

// accountID returns the number that a name stands for, which may be a number already.
func accountID(name string, find func(string) (string, error)) (uint32, error) {
	id, err := strconv.ParseUint(name, 10, 32)
	if err == nil {
		return uint32(id), nil
	}
	number, err := find(name)
	if err != nil {
		return 0, fmt.Errorf("%w; if it comes from outside /etc, such as LDAP, write its number", err)
	}
	id, err = strconv.ParseUint(number, 10, 32)
	return uint32(id), err
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", fmt.Errorf("there is no user %q", name)
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", fmt.Errorf("there is no group %q", name)
	}
	return g.Gid, nil
}
