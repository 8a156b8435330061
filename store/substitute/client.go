// Package substitute gets items from substitute servers, such as guix publish, "lighter
// publish", or a folder with what they serve.
//
// A [Client] asks its servers for narinfos and believes those that a key of the ACL has
// signed; NARs are checked against them while they are read. [Client.FetchClosure] brings
// items into a store with all that they refer to.
//
// A server that fails is set aside for a growing time, in which nothing is asked of it.
// That a server does not have an item is remembered for a while. All that comes from a
// server is hostile until it is checked: each size has a limit, and each wait too.
package substitute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
)

// Options are what a Client is made with. Only URLs and ACL must be set.
type Options struct {
	// URLs are the servers, in the order in which they are asked: http, https, or file for
	// a folder.
	URLs []string
	// ACL returns the keys whose signatures count. It is asked once an operation.
	ACL func() (*signature.ACL, error)
	// Dir is the store directory of the items; /gnu/store if empty.
	Dir store.Dir
	// HTTPClient is used in place of one of the client's own. Its redirects are bounded
	// unless it does that by itself.
	HTTPClient *http.Client

	Parallel    int           // requests, and downloads, at a time; 0 is 16
	Timeout     time.Duration // of silence, and for a narinfo as a whole; 0 is 30 s
	NegativeTTL time.Duration // how long a "not there" is believed; 0 is 1 min
	MaxNAR      int64         // bytes of one NAR; 0 is 64 GiB
	MaxItems    int           // items of one FetchClosure; 0 is 500,000

	Logger *slog.Logger // nil is slog.Default()
}

const (
	maxRedirects = 5
	// positiveTTL is how long a narinfo is kept.
	positiveTTL = 10 * time.Minute
)

// Client asks servers. It may be used from several goroutines.
type Client struct {
	opts      Options
	http      *http.Client
	dialer    *dialer // nil with the caller's own HTTP client
	servers   []*server
	requests  chan struct{} // holds one for each request for a narinfo under way
	downloads chan struct{}
	windows   chan struct{} // holds one for each that needs a large window

	mu      sync.Mutex
	flights map[flightKey]chan struct{} // what FetchClosure is getting; closed when it is done
}

// New returns a client. It asks no server yet; the error is about the options.
func New(opts Options) (*Client, error) {
	if opts.ACL == nil {
		return nil, errors.New("substitutes: no ACL")
	}
	if len(opts.URLs) == 0 {
		return nil, errors.New("substitutes: no server")
	}
	opts.Dir = cmp.Or(opts.Dir, store.DefaultDir)
	opts.Parallel = cmp.Or(opts.Parallel, 16)
	opts.Timeout = cmp.Or(opts.Timeout, 30*time.Second)
	opts.NegativeTTL = cmp.Or(opts.NegativeTTL, time.Minute)
	opts.MaxNAR = cmp.Or(opts.MaxNAR, 64<<30)
	opts.MaxItems = cmp.Or(opts.MaxItems, 500_000)
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	c := &Client{
		opts:      opts,
		requests:  make(chan struct{}, opts.Parallel),
		downloads: make(chan struct{}, opts.Parallel),
		windows:   make(chan struct{}, maxLargeWindows),
		flights:   make(map[flightKey]chan struct{}),
	}
	for _, u := range opts.URLs {
		base, err := parseBase(u)
		if err != nil {
			return nil, fmt.Errorf("substitute server %q: %w", u, err)
		}
		c.servers = append(c.servers, &server{client: c, base: base, cache: make(map[string]answer)})
	}
	c.http = c.newHTTP()
	return c, nil
}

// newHTTP returns the HTTP client, with a bound on redirects.
func (c *Client) newHTTP() *http.Client {
	h := new(http.Client)
	if c.opts.HTTPClient != nil {
		*h = *c.opts.HTTPClient
	} else {
		var t *http.Transport
		t, c.dialer = newTransport()
		for _, s := range c.servers {
			c.dialer.name(s.base)
		}
		t.MaxIdleConnsPerHost = c.opts.Parallel
		t.ResponseHeaderTimeout = c.opts.Timeout
		h.Transport = t
	}
	if h.CheckRedirect == nil {
		h.CheckRedirect = func(_ *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			return nil
		}
	}
	return h
}

// parseBase reads the URL of a server, and makes it end in a slash.
func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("it is not a URL")
	}
	switch {
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("want a URL without ? and #")
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
	case u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
	default:
		return nil, errors.New("want http://HOST, https://HOST or file:///FOLDER")
	}
	return u.JoinPath("/"), nil
}

// Close closes idle connections. Nothing else of the client may be running.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// acl returns the keys that count now.
func (c *Client) acl() (*signature.ACL, error) {
	acl, err := c.opts.ACL()
	if err != nil {
		return nil, fmt.Errorf("substitutes: %w", err)
	}
	return acl, nil
}

// take waits for a place among those that a channel has.
func take(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Answer is what is known of an item: its narinfo, or why there is none.
type Answer struct {
	Info *narinfo.Info
	Err  error // nil, or a *MissingError
}

// Infos asks for many items, the first server first and each further one for what those
// before it do not have. It returns an answer for each path, in the same order. The error
// is that of the ACL, or the context's cause.
func (c *Client) Infos(ctx context.Context, paths []store.Path) ([]Answer, error) {
	acl, err := c.acl()
	if err != nil {
		return nil, err
	}
	return c.infos(ctx, acl, paths)
}

func (c *Client) infos(ctx context.Context, acl *signature.ACL, paths []store.Path) ([]Answer, error) {
	answers := make([]Answer, len(paths))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(c.opts.Parallel, len(paths)) {
		workers.Go(func() {
			for i := range next {
				answers[i] = c.info(ctx, acl, paths[i])
			}
		})
	}
	for i := range paths {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return answers, nil
}

// info asks one server after the other.
func (c *Client) info(ctx context.Context, acl *signature.ACL, path store.Path) Answer {
	missing := &MissingError{Path: path}
	for _, s := range c.servers {
		info, err := s.lookup(ctx, acl, path)
		if err == nil {
			return Answer{Info: info}
		}
		missing.Tried = append(missing.Tried, &ServerError{Server: s.String(), Path: path, Err: err})
	}
	return Answer{Err: missing}
}
