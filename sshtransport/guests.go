package sshtransport

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Limits on connections that have not logged in. Anyone who can reach the port can have them,
// so that those who log in have a budget of their own.
const (
	maxGuests = 128
	// maxGuestsOf is that of one address, or of one IPv6 network of 64 bits, of which one
	// computer has all addresses. As many connections have to come within the time that a
	// login takes to keep a client with the same address out.
	maxGuestsOf = 32
)

// guest is a connection that has not logged in.
type guest struct {
	conn    net.Conn
	network netip.Prefix
}

// guests are the connections that have not logged in, the oldest first. Where there are too
// many, the oldest are closed: one that is silent keeps no other out.
type guests struct {
	mu   sync.Mutex
	list []*guest
}

// admit adds a connection. It closes and returns one that has to make room, if any.
func (g *guests) admit(conn net.Conn) (added, dropped *guest) {
	added = &guest{conn: conn, network: networkOf(conn.RemoteAddr())}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := g.victimLocked(added.network); i >= 0 {
		dropped = g.list[i]
		g.list = slices.Delete(g.list, i, i+1)
		dropped.conn.Close()
	}
	g.list = append(g.list, added)
	return added, dropped
}

// victimLocked returns which one has to make room for another of a network; -1 if none has.
func (g *guests) victimLocked(newcomer netip.Prefix) int {
	count := make(map[netip.Prefix]int)
	for _, x := range g.list {
		count[x.network]++
	}
	if count[newcomer] < maxGuestsOf {
		if len(g.list) < maxGuests {
			return -1
		}
		for network, n := range count { // who has most gives way
			if n > count[newcomer] {
				newcomer = network
			}
		}
		if count[newcomer] <= 1 {
			return 0
		}
	}
	return slices.IndexFunc(g.list, func(x *guest) bool { return x.network == newcomer })
}

// leave removes a connection that logged in or ended, and reports whether it was there: it
// was closed if not.
func (g *guests) leave(x *guest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.list, x)
	if i < 0 {
		return false
	}
	g.list = slices.Delete(g.list, i, i+1)
	return true
}

// networkOf returns the network that counts as one: an IPv4 address, or 64 bits of an IPv6
// one. What has no IP address counts as one, too.
func networkOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	network, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// logins counts who is logged in, in all and with each key.
type logins struct {
	mu    sync.Mutex
	most  int // in all
	count map[string]int
	all   int
}

// maxLoginsOf is how many connections there are with one key: a coordinator has one, and
// one more for a moment when it lost one.
const maxLoginsOf = 16

// enter reports whether there is room for one more with a key.
func (l *logins) enter(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.most || l.count[key] >= maxLoginsOf {
		return false
	}
	if l.count == nil {
		l.count = make(map[string]int)
	}
	l.all++
	l.count[key]++
	return true
}

func (l *logins) leave(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.count[key]--; l.count[key] == 0 {
		delete(l.count, key)
	}
}
