package machines

import (
	"cmp"
	"fmt"
	"strings"
)

// nameMachines gives each machine a name that is like its host and unique: the host
// itself for the first one, HOST-PORT for another one with a port of its own, and else
// HOST-2, HOST-3 and so on. Guix and Nix know machines by their addresses alone, and
// may list an address more than once.
func nameMachines(all []Machine) {
	taken := make(map[string]bool)
	take := func(m *Machine, name string) bool {
		if taken[name] {
			return false
		}
		taken[name], m.Name = true, name
		return true
	}
	count := make(map[string]int)
	var rest []*Machine
	for i := range all {
		if m := &all[i]; !take(m, nameOf(cmp.Or(m.Host, "localhost"))) {
			rest = append(rest, m)
		}
	}
	for _, m := range rest {
		name := nameOf(cmp.Or(m.Host, "localhost"))
		if !m.Local && m.Port != DefaultPort && take(m, fmt.Sprintf("%s-%d", name, m.Port)) {
			continue
		}
		for m.Name == "" {
			count[name]++
			take(m, fmt.Sprintf("%s-%d", name, count[name]+1))
		}
	}
}

// nameOf makes a name of a host: a dash for each character that a name can't have.
func nameOf(host string) string {
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune(nameCharacters, r) {
			return r
		}
		return '-'
	}, host)
	name = strings.TrimLeft(name, "-")
	if strings.Trim(name, ".") == "" {
		return "machine"
	}
	const longest = 253 - len("-10000")
	return name[:min(len(name), longest)]
}
