package substitute

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"lighter/store"
)

// maxIdleClients is how many unused clients of a Pool are kept.
const maxIdleClients = 8

// Pool gets items into one store, from whichever servers a call names. Calls with the same
// servers share a [Client], with its connections and what it knows of them. It may be used
// from several goroutines.
type Pool struct {
	target store.Store
	opts   Options

	mu      sync.Mutex // owns all below
	clients map[string]*pooled
	idle    []*pooled // those of unused clients, the longest unused first
	closed  bool
}

// pooled is a client for one list of servers.
type pooled struct {
	*Client
	key   string
	users int
}

// NewPool returns a pool that fetches into a store. Of the options, URLs and Dir are not used.
// Its user closes it, before the store.
func NewPool(target store.Store, opts Options) *Pool {
	opts.Dir = target.Dir()
	return &Pool{target: target, opts: opts, clients: make(map[string]*pooled)}
}

// Substitute makes those of the paths valid that the servers have, and what they refer to. It
// returns the ones that are valid afterwards, also beside an error, which is about the others.
// What no server has is not an error.
func (p *Pool) Substitute(ctx context.Context, urls []string, paths []store.Path) ([]store.Path, error) {
	c, err := p.take(urls)
	if err != nil {
		return nil, err
	}
	defer p.giveBack(c)
	_, err = c.FetchWhatIsThere(ctx, p.target, paths)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	missing, asked := store.Missing(ctx, p.target, paths)
	if asked != nil {
		return nil, errors.Join(err, asked)
	}
	return without(paths, missing), err
}

// without returns those of the paths that are not among others.
func without(paths, others []store.Path) []store.Path {
	gone := make(map[store.Path]bool, len(others))
	for _, p := range others {
		gone[p] = true
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p store.Path) bool { return gone[p] })
}

// errClosed is what a pool that is closed says.
var errClosed = errors.New("substitutes: no more are fetched")

// take returns the client for servers, which giveBack is called for.
func (p *Pool) take(urls []string) (*pooled, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	key := strings.Join(urls, " ")
	c := p.clients[key]
	if c == nil {
		opts := p.opts
		opts.URLs = slices.Clone(urls)
		client, err := New(opts)
		if err != nil {
			return nil, err
		}
		c = &pooled{Client: client, key: key}
		p.clients[key] = c
	}
	if c.users++; c.users == 1 {
		p.idle = slices.DeleteFunc(p.idle, func(other *pooled) bool { return other == c })
	}
	return c, nil
}

func (p *Pool) giveBack(c *pooled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.users--; c.users > 0 {
		return
	}
	p.idle = append(p.idle, c)
	for len(p.idle) > maxIdleClients || p.closed && len(p.idle) > 0 {
		old := p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
		delete(p.clients, old.key)
		old.Close()
	}
}

// Close has calls refused from now on, and closes the connections that are idle. Those of
// calls that still run are closed when they return.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		delete(p.clients, c.key)
		c.Close()
	}
	p.idle = nil
}
