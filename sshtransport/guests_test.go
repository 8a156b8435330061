package sshtransport

import (
	"net"
	"net/netip"
	"testing"
)

// from is a connection from an address.
type from struct {
	net.Conn
	addr   net.Addr
	closed bool
}

func (f *from) RemoteAddr() net.Addr { return f.addr }
func (f *from) Close() error         { f.closed = true; return nil }

func fromAddr(text string) *from {
	return &from{addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(text), 1))}
}

func TestGuests(t *testing.T) {
	var g guests
	// The oldest of an address gives way, and nobody else's.
	other, _ := g.admit(fromAddr("192.0.2.1"))
	first, _ := g.admit(fromAddr("192.0.2.2"))
	second, _ := g.admit(fromAddr("::ffff:192.0.2.2"))
	for range maxGuestsOf - 2 {
		if _, dropped := g.admit(fromAddr("192.0.2.2")); dropped != nil {
			t.Fatal("dropped too early")
		}
	}
	for _, want := range []*guest{first, second} {
		if _, dropped := g.admit(fromAddr("192.0.2.2")); dropped != want || !want.conn.(*from).closed {
			t.Errorf("dropped %v, want %v", dropped, want)
		}
	}
	if g.leave(first) || !g.leave(other) || g.leave(other) {
		t.Error("who has left is wrong")
	}
	// One network of IPv6 is one, and the one that has most gives way to another's.
	g = guests{}
	lone, _ := g.admit(fromAddr("192.0.2.1"))
	for i := range 300 {
		ip := netip.MustParseAddr("2001:db8::1").As16()
		ip[15], ip[14] = byte(i), byte(i>>8)
		g.admit(&from{addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(ip), 1))})
	}
	if len(g.list) != 1+maxGuestsOf {
		t.Errorf("%d guests", len(g.list))
	}
	for i := range 300 { // one of each of many networks
		ip := netip.MustParseAddr("2001:db8::1").As16()
		ip[5], ip[6] = byte(i), byte(1+i>>8)
		g.admit(&from{addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(ip), 1))})
		if i < maxGuests-maxGuestsOf && lone.conn.(*from).closed {
			t.Fatalf("the lone one was dropped for number %d", i)
		}
	}
	if len(g.list) != maxGuests {
		t.Errorf("%d guests, want %d", len(g.list), maxGuests)
	}
	if got := networkOf(&net.UnixAddr{}); got != (netip.Prefix{}) {
		t.Errorf("network %v", got)
	}
}

func TestLogins(t *testing.T) {
	l := logins{most: maxLoginsOf + 2}
	for i := range maxLoginsOf + 1 {
		if got := l.enter("a"); got != (i < maxLoginsOf) {
			t.Errorf("login %d of a: %v", i, got)
		}
	}
	for i, want := range []bool{true, true, false} {
		if got := l.enter("b"); got != want {
			t.Errorf("login %d of b: %v", i, got)
		}
	}
	l.leave("a")
	if !l.enter("b") || l.enter("c") {
		t.Error("what was left is not free")
	}
}
