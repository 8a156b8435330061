package substitute

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// reach says how far away an address is. Where a server leads, with a redirect or with the
// URL in a narinfo, is no nearer than the server itself: one on the web cannot have this
// computer ask its own services, or those of the network that it is in.
type reach int32

const (
	unknown reach = iota
	here          // this computer, and the link that it is on
	near          // a private network
	far           // the web
)

func (r reach) String() string {
	return map[reach]string{here: "this computer", near: "a private network"}[r]
}

// Blocks of addresses that net/netip does not tell from others.
var (
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	translated  = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: an IPv4 address in an IPv6 one
)

func reachOf(a netip.Addr) reach {
	a = a.Unmap()
	if translated.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case a.IsPrivate(), sharedSpace.Contains(a):
		return near
	case !a.IsGlobalUnicast(), thisNetwork.Contains(a):
		return here
	}
	return far
}

// dialer connects to servers, and to where they lead.
type dialer struct {
	net.Dialer

	// named has the "HOST:PORT" of what a person named, a server or a proxy, with how near
	// that was found to be: a *atomic.Int32.
	named sync.Map
	// locate says how near a named one is that was connected to.
	locate func(net.Addr) reach
}

// leader is the key under which a context has the "HOST:PORT" of the server that is asked.
type leader struct{}

// newTransport returns a transport that leads no nearer than it may.
func newTransport() (*http.Transport, *dialer) {
	d := &dialer{Dialer: net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}, locate: locate}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = d.dial
	t.MaxResponseHeaderBytes = maxHeaders
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		proxy, err := http.ProxyFromEnvironment(r)
		if proxy != nil {
			d.name(proxy)
		}
		return proxy, err
	}
	return t, d
}

// maxHeaders bounds what a server says before the body of an answer, in bytes.
const maxHeaders = 64 << 10

// name notes that a person named that place.
func (d *dialer) name(u *url.URL) { d.named.LoadOrStore(hostPort(u), new(atomic.Int32)) }

// hostPort returns where a URL leads, as transports dial it.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if own, ok := d.named.Load(address); ok {
		conn, err := d.Dialer.DialContext(ctx, network, address)
		if err == nil {
			own.(*atomic.Int32).Store(int32(d.locate(conn.RemoteAddr())))
		}
		return conn, err
	}
	least := far
	if by, ok := ctx.Value(leader{}).(string); ok {
		if own, ok := d.named.Load(by); ok && own.(*atomic.Int32).Load() != int32(unknown) {
			least = reach(own.(*atomic.Int32).Load())
		}
	}
	guarded := d.Dialer
	guarded.Control = func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if r := reachOf(to.Addr()); r < least {
			return fmt.Errorf("%w: %s is on %s, and the server that leads there is not", errTooNear, address, r)
		}
		return nil
	}
	return guarded.DialContext(ctx, network, address)
}

// errTooNear is matched by the error of a place where a server must not lead.
var errTooNear = errors.New("not followed")

func locate(a net.Addr) reach {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return far
	}
	return reachOf(tcp.AddrPort().Addr())
}
