package dataservice

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lighter/internal/backoff"
)

// Limits on an answer, in bytes.
const (
	maxBody    = 512 << 20
	maxHeaders = 64 << 10
	maxError   = 64 << 10
	// maxElement bounds one element of a list, and each other thing that is passed over.
	maxElement = 1 << 20
)

// maxAnswer is how long an answer may take as a whole, however it goes on.
const maxAnswer = 15 * time.Minute

// Options says how a service is asked. Zero values stand for what is said of each.
type Options struct {
	URL       string // of the service; there is no default
	UserAgent string // what the service is told of who asks
	// Page is how many derivations are asked for at once; 0 is 5,000.
	Page int

	Tries    int           // of one request; 0 is 6
	Delay    time.Duration // before the second try, doubled for each that follows; 0 is 1 s
	MaxDelay time.Duration // between two tries; 0 is 1 min
	// Answer is how long the service may take until it starts to answer, Silence how
	// long the answer may then rest. 0 is 3 min, because some of its queries take long,
	// and 1 min.
	Answer, Silence time.Duration

	Transport http.RoundTripper // nil is a usual one
	Logger    *slog.Logger      // gets a line for each try that failed; nil is none
}

// Client asks one service. Its methods may be called from several goroutines.
type Client struct {
	base    *url.URL
	http    *http.Client
	options Options
}

// New returns a client; it connects when it is first used.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("data service %q: want a URL such as https://data.guix.gnu.org", o.URL)
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("data service %q: want a URL without a query", o.URL)
	}
	o.Page = cmp.Or(o.Page, 5000)
	o.Tries = cmp.Or(o.Tries, 6)
	o.Delay = cmp.Or(o.Delay, time.Second)
	o.MaxDelay = cmp.Or(o.MaxDelay, time.Minute)
	o.Answer = cmp.Or(o.Answer, 3*time.Minute)
	o.Silence = cmp.Or(o.Silence, time.Minute)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		o.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 30 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConns:        4,
			IdleConnTimeout:     time.Minute,

			MaxResponseHeaderBytes: maxHeaders,
		}
	}
	h := &http.Client{Transport: o.Transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		switch {
		case r.URL.Hostname() != base.Hostname() || r.URL.Scheme != "https" && r.URL.Scheme != base.Scheme:
			return final{fmt.Errorf("it leads to %.200q: if that is the service, name it", r.URL.Redacted())}
		case len(via) > maxRedirects:
			return final{fmt.Errorf("more than %d redirects", maxRedirects)}
		}
		return nil
	}}
	return &Client{base: base, http: h, options: o}, nil
}

// maxRedirects is how often one request may be sent elsewhere on the host of the service.
const maxRedirects = 5

// Close ends the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// get asks for a page until it was read to its end or another try is pointless. read is
// called for each try.
func (c *Client) get(ctx context.Context, path string, q url.Values, read func(io.Reader) error) error {
	address := strings.TrimSuffix(c.base.String(), "/") + path + "?" + q.Encode()
	delay := c.options.Delay
	for try := 1; ; try++ {
		err := c.try(ctx, address, read)
		var e *Error
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.As(err, &e) || !e.again:
			return err
		case try == c.options.Tries:
			return fmt.Errorf("%w (tried %d times)", err, try)
		}
		wait := min(max(delay, e.After), c.options.MaxDelay)
		c.options.Logger.Warn("the Guix Data Service did not answer as it should", "err", err, "try", try, "nextIn", wait)
		if err := backoff.Wait(ctx, wait); err != nil {
			return err
		}
		delay *= 2
	}
}

// What ends a request whose answer does not go on, and one whose answer does not end.
var (
	errSilent = errors.New("the service is silent")
	errSlow   = fmt.Errorf("the answer takes longer than %s", maxAnswer)
)

func (c *Client) try(ctx context.Context, address string, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.options.Answer, func() { cancel(errSilent) })
	defer watch.Stop()
	whole := time.AfterFunc(maxAnswer, func() { cancel(errSlow) })
	defer whole.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if c.options.UserAgent != "" {
		req.Header.Set("User-Agent", c.options.UserAgent)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		err = cause(ctx, withoutURL(err))
		return &Error{URL: address, Err: err, again: !errors.As(err, new(final))}
	}
	defer resp.Body.Close()
	body := &watchedReader{r: io.LimitReader(resp.Body, maxBody), watch: watch, silence: c.options.Silence}
	if resp.StatusCode != http.StatusOK {
		return refused(address, resp, body)
	}
	text, err := startOf(body)
	if err == nil && !looksLikeJSON(resp, text) {
		err = fmt.Errorf("answered %s instead of JSON: %q", contentType(resp), summary(text))
	}
	if err == nil {
		err = read(io.MultiReader(bytes.NewReader(text), body))
	}
	if err != nil {
		err = cause(ctx, err)
		return &Error{URL: address, Status: resp.StatusCode, Err: err, again: !errors.As(err, new(final))}
	}
	return nil
}

// startOf reads enough to show what a body is.
func startOf(body io.Reader) ([]byte, error) {
	text := make([]byte, 512)
	n, err := io.ReadFull(body, text)
	if err == io.EOF {
		return nil, errors.New("the answer is empty")
	}
	if err == io.ErrUnexpectedEOF {
		// Either the whole body is that short, or it was cut off: reading on tells.
		err = nil
	}
	return text[:n], err
}

func looksLikeJSON(resp *http.Response, text []byte) bool {
	kind := contentType(resp)
	return kind != "text/html" && bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{"))
}

func contentType(resp *http.Response) string {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return "something"
	}
	return kind
}

// refused makes an error of an answer with another status than 200. The text of a page
// for people says nothing that the status does not.
func refused(address string, resp *http.Response, body io.Reader) error {
	e := &Error{URL: address, Status: resp.StatusCode, Err: errors.New(strings.ToLower(http.StatusText(resp.StatusCode)))}
	text, err := io.ReadAll(io.LimitReader(body, maxError))
	if err == nil && len(text) > 0 && contentType(resp) != "text/html" {
		e.Err = fmt.Errorf("%q", summary(text))
	}
	e.again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 && n < 1<<20 {
		e.After = time.Duration(n) * time.Second
	}
	return e
}

// cause says why a request ended: that we ended it, if we did.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// withoutURL takes away what Error says anyway.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// watchedReader gives the watch more time with each piece that comes.
type watchedReader struct {
	r       io.Reader
	watch   *time.Timer
	silence time.Duration
}

func (w *watchedReader) Read(p []byte) (int, error) {
	w.watch.Reset(w.silence)
	return w.r.Read(p)
}
