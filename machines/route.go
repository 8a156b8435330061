package machines

import (
	"encoding/json"
	"fmt"
)

// Route is the part of an entry that decides which agent is reached, and how. Entries whose routes are
// equal lead to one agent, which is one host however many entries it has: what remains of an entry,
// such as systems, features and slots, is for the choice of a build. It can be a key of a map.
type Route struct {
	Target
	Store, DaemonSocket, StateDirectory string
	// How one logs in, and with what OpenSSH's configuration adds.
	PrivateKey, HostKey, Transport, AgentDirectory, SSHConfig, Way string
}

// Route returns the entry's.
func (m *Machine) Route() Route {
	if m.Local {
		return Route{Target: m.Target()} // the agent in the coordinator, with the head's store
	}
	return Route{
		Target: m.Target(), Store: m.Store, DaemonSocket: m.DaemonSocket, StateDirectory: m.StateDirectory,
		PrivateKey: m.PrivateKey, HostKey: m.HostKey, Transport: m.Transport, AgentDirectory: m.AgentDirectory, SSHConfig: m.SSHConfig, Way: m.Way.text(),
	}
}

// text returns what tells ways apart.
func (w *Way) text() string {
	if w == nil {
		return ""
	}
	told := *w
	told.Via, told.Problem, told.From = nil, "", nil
	text, err := json.Marshal(&told)
	if err != nil {
		panic(err) // it consists of texts and numbers
	}
	return string(text) + w.Via.text()
}

// Account returns the route without what only says how one logs in: entries that agree in it lead to
// the same account of the same host, and there to the same agent.
func (r Route) Account() Route {
	return Route{Target: r.Target, Store: r.Store, DaemonSocket: r.DaemonSocket, StateDirectory: r.StateDirectory}
}

// SameHost returns the entries of a list that lead to the same account of the same host as others, in
// groups.
func SameHost(list []Machine) (groups [][]*Machine) {
	var order []Route
	byAccount := make(map[Route][]*Machine)
	for i := range list {
		account := list[i].Route().Account()
		if byAccount[account] == nil {
			order = append(order, account)
		}
		byAccount[account] = append(byAccount[account], &list[i])
	}
	for _, account := range order {
		if same := byAccount[account]; len(same) > 1 {
			groups = append(groups, same)
		}
	}
	return groups
}

// Slots returns how many builds the machines of a list take at the same time: those of one host as
// many as the one among them that takes most.
func Slots(list []Machine) (slots int) {
	most := make(map[Route]int)
	for i := range list {
		account := list[i].Route().Account()
		slots += max(0, list[i].ParallelBuilds-most[account])
		most[account] = max(most[account], list[i].ParallelBuilds)
	}
	return slots
}

// String returns a text that is different for different routes.
func (r Route) String() string {
	if r.Local {
		return "local"
	}
	return fmt.Sprintf("%s@%s port %d proxy %q store %q socket %q state %q key %q host-key %q transport %q agent %q config %q way %q",
		r.User, r.Host, r.Port, r.Proxy, r.Store, r.DaemonSocket, r.StateDirectory, r.PrivateKey, r.HostKey, r.Transport, r.AgentDirectory, r.SSHConfig, r.Way)
}
