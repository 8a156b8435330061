package local

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/stream"
	"lighter/store"
	"lighter/store/local/mirrors"
)

const (
	maxAddresses    = 1000 // of one file
	dialTimeout     = 10 * time.Second
	answerTimeout   = 60 * time.Second
	downloadSilence = 60 * time.Second // without a byte
	progressEvery   = 2 * time.Second
)

// download does what builtin:download asks for: it tries the addresses in the
// variable url, with mirror:// addresses expanded, and then those of servers that have
// files by their hash, until one gives a file with the right hash (perform-download
// in Guix). It knows no FTP. It runs in this process, not in a sandbox. Like Guix, it
// verifies no certificates: the hash says more.
func (b *build) download(ctx context.Context) error {
	o, fixed := b.drv.FixedOutput()
	if !fixed {
		return b.failure(store.FailedDownload, "builtin:download needs a derivation with a known hash")
	}
	hash, err := newFixedHash(o)
	if err != nil {
		return b.failure(store.FailedDownload, "%v", err)
	}
	addresses, err := b.addresses(ctx, o.Path.Name(), hash)
	if err != nil {
		return err
	}
	d := &downloader{
		log:    b.log,
		target: b.folder.output(o.Path),
		hash:   hash,
		mode:   0o644,
		client: newClient(),
	}
	defer d.client.CloseIdleConnections()
	if v, _ := b.drv.Getenv("executable"); v == "1" {
		d.mode = 0o755
	}
	fmt.Fprintf(b.log, "downloading %s\n", o.Path)
	for _, address := range addresses {
		err := d.try(ctx, address)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return err
		}
		fmt.Fprintf(b.log, "%s: %v\n", address, err)
	}
	if last := b.log.lastLines(); last != "" {
		return b.failure(store.FailedDownload, "none of %d addresses has the file:\n%s", len(addresses), last)
	}
	return b.failure(store.FailedDownload, "no address is given")
}

// addresses returns where the file may be, best place first.
func (b *build) addresses(ctx context.Context, name string, hash *fixedHash) ([]string, error) {
	text, _ := b.drv.Getenv("url")
	given, err := mirrors.Addresses(text)
	if err != nil {
		return nil, b.failure(store.FailedDownload, "url: %v", err)
	}
	var lists map[string][]string
	if text, ok, err := b.inputFile(ctx, "mirrors"); err != nil {
		return nil, err
	} else if ok {
		if lists, err = mirrors.Parse(text); err != nil {
			return nil, b.failure(store.FailedDownload, "mirrors: %v", err)
		}
	}
	var all []string
	for _, address := range given {
		expanded := mirrors.Expand(lists, address)
		if len(expanded) == 0 {
			fmt.Fprintf(b.log, "%s: no such mirror\n", address)
		}
		all = append(all, expanded...)
	}
	byHash, err := b.contentMirrors(ctx, name, hash)
	if all = append(all, byHash...); len(all) > maxAddresses {
		all = all[:maxAddresses]
	}
	return all, err
}

// contentMirrors returns the addresses of the file on servers that know it by hash. Since
// the download can do without them, it only logs what it doesn't understand.
func (b *build) contentMirrors(ctx context.Context, name string, hash *fixedHash) ([]string, error) {
	text, ok, err := b.inputFile(ctx, "content-addressed-mirrors")
	if err != nil || !ok {
		return nil, err
	}
	addresses, skipped, err := mirrors.ByHash(text, name, hash.algorithm, hash.digest)
	if err != nil {
		fmt.Fprintf(b.log, "content-addressed-mirrors: %v\n", err)
	}
	if skipped > 0 {
		fmt.Fprintf(b.log, "content-addressed-mirrors: %d of them were not understood\n", skipped)
	}
	return addresses, nil
}

// inputFile reads the input that a variable of the derivation names, which the derivation
// must declare.
func (b *build) inputFile(ctx context.Context, variable string) (text string, ok bool, err error) {
	value, ok := b.drv.Getenv(variable)
	if !ok {
		return "", false, nil
	}
	path, err := b.store.layout.dir.ParsePath(value)
	if err != nil {
		return "", false, b.failure(store.FailedDownload, "%s: %v", variable, err)
	}
	for _, r := range b.inputs {
		if r.Path != path {
			continue
		}
		f, err := openRegular(b.store.layout.data(r.data()))
		if err != nil {
			return "", false, err
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(stream.ReaderUntil(ctx, f), mirrors.MaxSize+1))
		return string(text), true, err
	}
	return "", false, b.failure(store.FailedDownload, "%s: %s is not among the inputs", variable, path)
}

// openRegular opens a regular file for reading, and nothing else.
func openRegular(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// downloader gets one file.
type downloader struct {
	log    io.Writer
	target string
	hash   *fixedHash
	mode   os.FileMode
	client *http.Client
}

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:   answerTimeout,
		ResponseHeaderTimeout: answerTimeout,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: true}, // the contents' hash is known
		DisableCompression:    true,                                  // the file's own
		ForceAttemptHTTP2:     true,
	}}
}

// try gets the file from one address, and leaves nothing behind if that fails.
func (d *downloader) try(ctx context.Context, address string) (err error) {
	fmt.Fprintf(d.log, "from %s...\n", address)
	silent, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(downloadSilence, func() { cancel(fmt.Errorf("no data for %v", downloadSilence)) })
	defer silence.Stop()
	body, size, err := d.open(silent, address)
	if err != nil {
		return because(silent, err)
	}
	defer body.Close()
	f, err := os.OpenFile(d.target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(d.target)
		}
	}()
	p := &progress{log: d.log, size: size, alive: func() { silence.Reset(downloadSilence) }, last: time.Now()}
	if _, err := io.Copy(f, io.TeeReader(stream.ReaderUntil(silent, body), p)); err != nil {
		return because(silent, err)
	}
	if size >= 0 && p.count != size {
		return fmt.Errorf("got %d of %d bytes", p.count, size)
	}
	if err := f.Chmod(d.mode); err != nil {
		return err
	}
	got, err := d.hash.of(ctx, d.target)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, d.hash.digest) {
		return fmt.Errorf("the hash is %s instead of %s", d.hash.format(got), d.hash.format(d.hash.digest))
	}
	fmt.Fprintf(d.log, "got %d bytes\n", p.count)
	return nil
}

// because prefers the reason why a context ended to the error that this led to.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// open begins to read an address. The size is -1 if it is unknown.
func (d *downloader) open(ctx context.Context, address string) (io.ReadCloser, int64, error) {
	if len(address) > mirrors.MaxAddress {
		return nil, 0, fmt.Errorf("the address has more than %d bytes", mirrors.MaxAddress)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, 0, err
	}
	switch u.Scheme {
	case "file":
		f, err := openRegular(u.Path)
		return f, -1, err
	case "http", "https":
	default:
		return nil, 0, fmt.Errorf("%q addresses are not supported", u.Scheme)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("User-Agent", "lighter")
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, 0, errors.New(resp.Status)
	}
	return resp.Body, resp.ContentLength, nil
}

// progress counts what passes, and logs it now and then.
type progress struct {
	log   io.Writer
	alive func()
	size  int64
	count int64
	last  time.Time
}

func (p *progress) Write(b []byte) (int, error) {
	p.alive()
	p.count += int64(len(b))
	if now := time.Now(); now.Sub(p.last) >= progressEvery {
		p.last = now
		if p.size > 0 {
			fmt.Fprintf(p.log, "%d of %d bytes\n", p.count, p.size)
		} else {
			fmt.Fprintf(p.log, "%d bytes\n", p.count)
		}
	}
	return len(b), nil
}
