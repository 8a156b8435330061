package substitute

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lighter/store"
	"lighter/store/narinfo"
)

func TestReachOf(t *testing.T) {
	for want, addresses := range map[reach]string{
		here: "127.0.0.1 127.9.9.9 ::1 0.0.0.0 0.1.2.3 :: 169.254.169.254 fe80::1 224.0.0.1 ff02::1 255.255.255.255 ::ffff:127.0.0.1 64:ff9b::7f00:1",
		near: "10.0.0.1 172.16.0.1 192.168.1.1 fd00::1 100.64.0.1 ::ffff:10.0.0.1 64:ff9b::a00:1",
		far:  "141.80.181.40 2001:db8::1 64:ff9b::8.8.8.8",
	} {
		for _, a := range strings.Fields(addresses) {
			if got := reachOf(netip.MustParseAddr(a)); got != want {
				t.Errorf("%s: got %d, want %d", a, got, want)
			}
		}
	}
	if got := reachOf(netip.Addr{}); got != here {
		t.Errorf("no address: got %d", got)
	}
}

// TestWhereAServerLeads has servers that are at different distances lead to this computer,
// with a redirect and with the URL of a NAR.
func TestWhereAServerLeads(t *testing.T) {
	var asked atomic.Int32
	secret, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }), ReadHeaderTimeout: time.Second}
	go s.Serve(secret)
	defer s.Close()
	inner := "http://" + secret.Addr().String() + "/"
	for _, way := range []string{"redirect", "URL", "name", "mapped"} {
		for at, follows := range map[reach]bool{far: false, near: false, here: true} {
			o := newOrigin(t)
			path := o.text("item", "x")
			to := inner
			switch way {
			case "name":
				to = strings.Replace(inner, "127.0.0.1", "localhost", 1)
			case "mapped":
				to = strings.Replace(inner, "127.0.0.1", "[::ffff:127.0.0.1]", 1)
			}
			if way == "URL" {
				o.edit(narinfo.Name(path), "URL: nar/zstd/", "URL: "+inner)
			} else {
				o.wrap = func(name string, w http.ResponseWriter) bool {
					w.Header().Set("Location", to+name)
					w.WriteHeader(http.StatusFound)
					return true
				}
			}
			c := newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o), Timeout: 5 * time.Second})
			c.dialer.locate = func(net.Addr) reach { return at }
			before := asked.Load()
			_, err := fetch(t.Context(), c, path)
			if got := asked.Load() > before; got != follows || err == nil || !follows && !errors.Is(err, errTooNear) {
				t.Errorf("%s from a server at distance %d: followed %v, want %v: %v", way, at, got, follows, err)
			}
		}
	}
}

// TestHostileFiles has a server send, for a small item, what never ends, what grows, and
// what takes much memory. Each is refused, naming server and item, after few bytes.
func TestHostileFiles(t *testing.T) {
	zeros := make([]byte, 64<<20)
	bomb := func() []byte { // 65 MiB, whose end never comes
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(zeros[:1<<20])
		z.Flush()
		again := b.Len()
		z.Write(zeros[:1<<20])
		z.Flush()
		return append(b.Bytes(), bytes.Repeat(b.Bytes()[again:], 63)...)
	}
	window := func(log byte, content string) []byte {
		f := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3}
		f = binary.LittleEndian.AppendUint16(f, uint16(len(content)<<3|1))
		return append(append(f, 0), content...)
	}
	empty := compress(t, narinfo.Gzip, nil)
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 1, 0, 0}, make([]byte, 256)...)
	for name, c := range map[string]struct {
		compression string
		send        func(w http.ResponseWriter)
		want        string
	}{
		"endless NAR":               {narinfo.None, endless(make([]byte, 64<<10)), ""},
		"endless gzip members":      {narinfo.Gzip, endless(bytes.Repeat(empty, 1000)), "more than"},
		"endless skippable frames":  {narinfo.Zstd, endless(bytes.Repeat(skippable, 100)), "more than"},
		"endless name in a header":  {narinfo.Gzip, endless(append([]byte{0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte("x"), 1<<20)...)), "gzip"},
		"gzip bomb":                 {narinfo.Gzip, sends(bomb()), ""},
		"zstd bomb":                 {narinfo.Zstd, sends(compress(t, narinfo.Zstd, zeros)), ""},
		"window of 128 MiB":         {narinfo.Zstd, sends(window(27, "x")), "ends after 1 bytes"},
		"window of 2 GiB":           {narinfo.Zstd, sends(window(31, "x")), "zstd"},
		"small window, then large":  {narinfo.Zstd, sends(append(window(20, "x"), window(27, "y")...)), "window size"},
		"lzip dictionary":           {narinfo.Lzip, sends([]byte("LZIP\x01\x1d" + strings.Repeat("x", 100))), "dictionary"},
		"nothing":                   {narinfo.Zstd, sends(nil), ""},
		"more than it says":         {narinfo.None, raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + strings.Repeat("x", 100)), "has 10 bytes"},
		"less than it says":         {narinfo.Gzip, raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx"), ""},
		"two lengths":               {narinfo.Gzip, raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"), ""},
		"negative length":           {narinfo.Gzip, raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx"), ""},
		"transfer encoding":         {narinfo.Gzip, raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx"), ""},
		"not modified":              {narinfo.Gzip, raw("HTTP/1.1 304 Not Modified\r\n\r\n"), "304 Not Modified"},
		"no content":                {narinfo.Gzip, raw("HTTP/1.1 204 No Content\r\n\r\n"), "204"},
		"part":                      {narinfo.Gzip, raw("HTTP/1.1 206 x\r\nContent-Length: 1\r\n\r\nx"), "206"},
		"status for a terminal":     {narinfo.Gzip, raw("HTTP/1.1 500 \x1b[2J\x1b]0;x\a\r\nContent-Length: 0\r\n\r\n"), "500 Internal Server Error"},
		"HTTP/1.0":                  {narinfo.None, raw("HTTP/1.0 200 OK\r\n\r\nnot a NAR"), "ends after 9 bytes"},
		"HTTP/0.9":                  {narinfo.None, raw("not HTTP \x1b[2J\r\n\r\n"), ""},
		"endless header":            {narinfo.None, raw("HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 1000)), ""},
		"endless chunks":            {narinfo.Gzip, raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\n\x1f\r\n", 100_000)), ""},
		"chunk of 2^63":             {narinfo.Gzip, raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nx"), ""},
		"redirect to a file":        {narinfo.Gzip, leads("file:///etc/passwd"), "unsupported protocol scheme"},
		"redirect to another thing": {narinfo.Gzip, leads("gopher://127.0.0.1/x"), "unsupported protocol scheme"},
		"redirect to nothing":       {narinfo.Gzip, leads("http://\x1b[2J"), ""},
		"redirect without a place":  {narinfo.Gzip, leads(""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			path := o.text("item", "x")
			o.serve(path, c.compression)
			o.wrap = func(name string, w http.ResponseWriter) bool {
				if strings.HasPrefix(name, "nar/") {
					c.send(w)
				}
				return strings.HasPrefix(name, "nar/")
			}
			url := o.listen()
			client := newClient(t, Options{URLs: []string{url}, ACL: acl(o), Timeout: 5 * time.Second})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := fetch(t.Context(), client, path)
			runtime.ReadMemStats(&after)
			wantError(t, err, c.want, url, string(path))
			if err != nil && (strings.ContainsAny(err.Error(), "\x1b\a\x00") || len(err.Error()) > 2000) {
				t.Errorf("the error is %q", err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 200<<20 {
				t.Errorf("it took %d MiB", took>>20)
			}
			if len(client.windows) != 0 || len(client.downloads) != 0 {
				t.Error("a place is still taken")
			}
		})
	}
}

func sends(p []byte) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.Write(p) }
}

// endless sends something again and again, until it is no longer read.
func endless(p []byte) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for range 100_000 {
			if _, err := w.Write(p); err != nil {
				return
			}
		}
	}
}

func leads(to string) func(http.ResponseWriter) {
	return raw("HTTP/1.1 302 Found\r\nLocation: " + to + "\r\nContent-Length: 0\r\n\r\n")
}

// raw sends bytes as they are, and ends the connection.
func raw(text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		io.WriteString(conn, text)
	}
}

// TestFewLargeWindows downloads many files at a time that want much memory for themselves.
func TestFewLargeWindows(t *testing.T) {
	c := newClient(t, Options{URLs: []string{"http://o"}, ACL: acl(newOrigin(t))})
	large := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 0x09, 0, 0, 'x'}
	var most, now atomic.Int32
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			r, end, err := c.decompressZstd(t.Context(), bytes.NewReader(large))
			if err != nil {
				t.Error(err)
				return
			}
			most.Store(max(most.Load(), now.Add(1)))
			if text, err := io.ReadAll(r); err != nil || string(text) != "x" {
				t.Errorf("got %q, %v", text, err)
			}
			now.Add(-1)
			end()
		})
	}
	all.Wait()
	if most.Load() > maxLargeWindows {
		t.Errorf("%d at a time", most.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.windows <- struct{}{}
	c.windows <- struct{}{}
	if _, _, err := c.decompressZstd(ctx, bytes.NewReader(large)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// drip is a body that comes a byte a second, forever.
type drip struct{}

func (drip) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	return copy(p, "n"), nil
}
func (drip) Close() error { return nil }

type dripping struct{ *origin }

func (d dripping) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasPrefix(r.URL.Path, "/nar/") {
		return &http.Response{StatusCode: 200, ContentLength: -1, Body: drip{}, Request: r}, nil
	}
	return silent{d.origin, "nothing"}.RoundTrip(r)
}

// TestTooSlow has a server send a byte a second: never silent, and never done.
func TestTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		path := o.text("item", strings.Repeat("x", 1<<20))
		o.serve(path, narinfo.None)
		c := newClient(t, Options{URLs: []string{"http://o"}, ACL: acl(o), HTTPClient: &http.Client{Transport: dripping{o}}})
		start := time.Now()
		_, err := fetch(t.Context(), c, path)
		wantError(t, err, "too slow", string(path), "http://o")
		if took := time.Since(start); took > slowStart+time.Minute {
			t.Errorf("it took %s", took)
		}
		if c.servers[0].pause.Cause == nil {
			t.Error("nobody is to blame")
		}
	})
}

// TestCachedBytes asks for many long narinfos: what is kept of them has a bound.
func TestCachedBytes(t *testing.T) {
	s := newClient(t, Options{URLs: []string{"http://o"}, ACL: acl(newOrigin(t))}).servers[0]
	var kept int64
	for i := range 1000 {
		p := store.Path(fmt.Sprintf("/gnu/store/%032d-x", i))
		s.remember(p, new(narinfo.Info), narinfo.MaxSize)
		s.remember(p, new(narinfo.Info), narinfo.MaxSize) // and again
		if s.cached > maxCached {
			t.Fatalf("%d bytes are kept", s.cached)
		}
	}
	for _, a := range s.cache {
		kept += a.bytes
	}
	if kept != s.cached || kept == 0 {
		t.Errorf("%d bytes are kept, and %d counted", kept, s.cached)
	}
}

// TestFolderWithAFIFO has a folder for a server, in which a narinfo waits for a writer.
func TestFolderWithAFIFO(t *testing.T) {
	o := newOrigin(t)
	path := o.text("item", "x")
	folder := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(folder, narinfo.Name(path)), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := fetch(t.Context(), newClient(t, Options{URLs: []string{"file://" + folder}, ACL: acl(o)}), path)
	wantError(t, err, "not a file", string(path))
}
