package sshtransport

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// names connects to hosts by the names that this system has for them. What nsswitch.conf(5) has
// beyond files and DNS, such as names in .local, Go's resolver knows only with cgo; getent(1),
// which comes with the C library, asks it all.
type names struct {
	getent   string // program
	nsswitch string // file
}

var systemNames = names{"getent", "/etc/nsswitch.conf"}

const (
	getentTimeout = 5 * time.Second
	maxGetent     = 64 << 10 // bytes that it may write
	maxAddresses  = 16
)

// dial connects to HOST:PORT by TCP. An error that no name was found is Go's.
func (n names) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	host, port, err := net.SplitHostPort(addr)
	if _, notAddress := netip.ParseAddr(host); err != nil || notAddress == nil {
		return d.DialContext(ctx, "tcp", addr)
	}
	ask := n.hasOthers()
	if ask {
		if found := n.lookup(ctx, host); len(found) > 0 {
			return dialFirst(ctx, found, port)
		}
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if !ask && errors.As(err, new(*net.DNSError)) {
		if found := n.lookup(ctx, host); len(found) > 0 {
			return dialFirst(ctx, found, port)
		}
	}
	return conn, err
}

// hasOthers reports whether names are looked for elsewhere than in files and DNS.
func (n names) hasOthers() bool {
	f, err := os.Open(n.nsswitch)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		sources, ok := strings.CutPrefix(strings.TrimSpace(line), "hosts:")
		if !ok {
			continue
		}
		return slices.ContainsFunc(strings.Fields(sources), func(source string) bool {
			return source != "files" && source != "dns" && source != "myhostname" && strings.Trim(source, "[]") == source && !strings.Contains(source, "=")
		})
	}
	return false
}

// lookup asks getent for the addresses of a name; none where it doesn't know, or isn't there.
func (n names) lookup(ctx context.Context, host string) []string {
	ctx, cancel := context.WithTimeout(ctx, getentTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.getent, "ahosts", host) // #nosec G204 -- a name of a machine
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return nil
	}
	var found []string
	lines := bufio.NewScanner(io.LimitReader(out, maxGetent))
	for lines.Scan() && len(found) < maxAddresses {
		address, _, _ := strings.Cut(lines.Text(), " ")
		if ip, err := netip.ParseAddr(address); err == nil && !slices.Contains(found, ip.String()) {
			found = append(found, ip.String())
		}
	}
	cancel() // what else it would say is of no interest
	_ = cmd.Wait()
	return found
}

// dialFirst connects to the first address that answers. Each gets its part of the time.
func dialFirst(ctx context.Context, addresses []string, port string) (net.Conn, error) {
	var first error
	for i, address := range addresses {
		d := net.Dialer{}
		if deadline, ok := ctx.Deadline(); ok {
			d.Timeout = time.Until(deadline) / time.Duration(len(addresses)-i)
		}
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(address, port))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
