package substitute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
)

const vec = store.Path("/gnu/store/8d06rznafs59sm042rbk05zrv16b1gpx-vec-output")

// A folder with what guix publish served.
func TestFolderOfGuix(t *testing.T) {
	folder := t.TempDir()
	for name, from := range map[string]string{
		vec.HashPart() + ".narinfo": vec.HashPart() + ".narinfo",
		"nar/gzip/" + vec.Base():    vec.Base() + ".nar.gzip",
		"nar/lzip/" + vec.Base():    vec.Base() + ".nar.lzip",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), read(t, from), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key, err := signature.ParsePublicKey(read(t, "vec-signing-key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	acl := new(signature.ACL)
	acl.Add(key)
	opts := Options{URLs: []string{"file://" + folder}, ACL: func() (*signature.ACL, error) { return acl, nil }}
	got, err := fetch(t.Context(), newClient(t, opts), vec)
	if err != nil || !bytes.Equal(got, read(t, vec.Base()+".nar")) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}

	remove := func(name string) {
		if err := os.Remove(filepath.Join(folder, name, vec.Base())); err != nil {
			t.Fatal(err)
		}
	}
	remove("nar/gzip")
	got, err = fetch(t.Context(), newClient(t, opts), vec)
	if err != nil || !bytes.Equal(got, read(t, vec.Base()+".nar")) {
		t.Errorf("lzip: got %d bytes, %v", len(got), err)
	}
	damaged := read(t, vec.Base()+".nar.lzip")
	damaged[len(damaged)-20]++ // in the CRC
	if err := os.WriteFile(filepath.Join(folder, "nar/lzip", vec.Base()), damaged, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = fetch(t.Context(), newClient(t, opts), vec)
	wantError(t, err, string(vec), "file://"+folder+": lzip: member 1, at byte 0: its data has CRC ")
	remove("nar/lzip")
	_, err = fetch(t.Context(), newClient(t, opts), vec)
	wantError(t, err, string(vec), "file://"+folder, "nar/gzip/"+vec.Base()+": not there", "nar/lzip/"+vec.Base()+": not there")

	text := regexp.MustCompile("Compression: .zip").ReplaceAllString(string(read(t, vec.HashPart()+".narinfo")), "Compression: bzip2")
	if err := os.WriteFile(filepath.Join(folder, vec.HashPart()+".narinfo"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = fetch(t.Context(), newClient(t, opts), vec)
	wantError(t, err, string(vec), `"bzip2", "bzip2", which is not supported: want zstd, gzip, none or lzip`)
}

func TestChoose(t *testing.T) {
	for _, test := range []struct{ downloads, want string }{
		{"lzip none gzip zstd", "zstd gzip none lzip"},
		{"lzip bzip2", "lzip"},
		{"bzip2", ""},
		{"lzip:1 none:4 gzip:2 zstd:3", "gzip:2 zstd:3 none:4 lzip:1"},
		{"zstd:2 gzip:2", "zstd:2 gzip:2"},
		{"none:1 zstd lzip:1", "zstd none:1 lzip:1"},
	} {
		var downloads []narinfo.Download
		for _, s := range strings.Fields(test.downloads) {
			how, size, _ := strings.Cut(s, ":")
			n, _ := strconv.ParseInt("0"+size, 10, 64) // 0 if it is not known
			downloads = append(downloads, narinfo.Download{URL: s, Compression: how, FileSize: n})
		}
		var got []string
		for _, d := range choose(downloads) {
			got = append(got, d.URL)
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.downloads, got, test.want)
		}
	}
}

func TestFetch(t *testing.T) {
	o := newOrigin(t)
	path := o.text("item", strings.Repeat("contents ", 100_000))
	for _, how := range [][]string{{narinfo.Zstd}, {narinfo.Gzip}, {narinfo.None}, {narinfo.Lzip, narinfo.Gzip}, {narinfo.None, narinfo.Zstd}} {
		t.Run(strings.Join(how, " "), func(t *testing.T) {
			o.serve(path, how...)
			got, err := fetch(t.Context(), newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o)}), path)
			if err != nil || !bytes.Equal(got, o.nar(path)) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestFetchRefuses(t *testing.T) {
	const content = "the contents"
	for _, test := range []struct {
		name   string
		change func(o *origin, path store.Path)
		opts   Options
		want   error
		parts  []string
	}{
		{"flipped byte", func(o *origin, p store.Path) { o.edit("nar/none/"+p.Base(), content, "the c0ntents") }, Options{}, store.ErrCorrupt, []string{"hash sha256:"}},
		{"too short", func(o *origin, p store.Path) { o.put("nar/none/"+p.Base(), o.nar(p)[:50]) }, Options{}, store.ErrCorrupt, []string{"has 50 bytes"}},
		{"too long", func(o *origin, p store.Path) { o.put("nar/none/"+p.Base(), append(o.nar(p), 0)) }, Options{}, store.ErrCorrupt, []string{"has 129 bytes, not 128"}},
		{"too short inside", func(o *origin, p store.Path) {
			o.serve(p, narinfo.Zstd)
			o.put("nar/zstd/"+p.Base(), compress(t, narinfo.Zstd, o.nar(p)[:50]))
		}, Options{}, store.ErrCorrupt, []string{"ends after 50 bytes of 128"}},
		{"too long inside", func(o *origin, p store.Path) {
			o.serve(p, narinfo.Gzip)
			o.put("nar/gzip/"+p.Base(), compress(t, narinfo.Gzip, append(o.nar(p), 0)))
		}, Options{}, store.ErrCorrupt, []string{"longer than 128 bytes"}},
		{"no zstd", func(o *origin, p store.Path) {
			o.serve(p, narinfo.Zstd)
			o.put("nar/zstd/"+p.Base(), []byte("this is something else"))
		}, Options{}, nil, nil},
		{"no gzip", func(o *origin, p store.Path) {
			o.serve(p, narinfo.Gzip)
			o.put("nar/gzip/"+p.Base(), []byte("this is something else"))
		}, Options{}, nil, []string{"gzip: "}},
		{"no lzip", func(o *origin, p store.Path) { o.serve(p, narinfo.Lzip) }, Options{}, nil, []string{"lzip: member 1, at byte 0: it starts with "}},
		{"another file size", func(o *origin, p store.Path) {
			o.serve(p, narinfo.Gzip)
			o.put(narinfo.Name(p), append(o.files[narinfo.Name(p)], "FileSize: 7\n"...))
		}, Options{}, store.ErrCorrupt, []string{"not 7"}},
		{"another item", func(o *origin, p store.Path) {
			o.put(narinfo.Name(p), o.files[narinfo.Name(o.text("other", "x"))])
		}, Options{}, store.ErrCorrupt, []string{"is about /gnu/store/"}},
		{"tampered narinfo", func(o *origin, p store.Path) { o.edit(narinfo.Name(p), "NarSize: 128", "NarSize: 129") }, Options{}, store.ErrCorrupt, []string{"narinfo: corrupt"}},
		{"not signed", func(o *origin, p store.Path) { o.edit(narinfo.Name(p), "Signature", "Nothing") }, Options{}, narinfo.ErrUnsigned, nil},
		{"huge narinfo", func(o *origin, p store.Path) { o.put(narinfo.Name(p), make([]byte, narinfo.MaxSize+1)) }, Options{}, store.ErrCorrupt, []string{"more than 1048576"}},
		{"a NAR that is too large", func(*origin, store.Path) {}, Options{MaxNAR: 127}, nil, []string{"has 128 bytes, more than 127"}},
		{"a URL that leads out", func(o *origin, p store.Path) { o.edit(narinfo.Name(p), "URL: nar", "URL: ../../nar") }, Options{}, store.ErrCorrupt, []string{"leads out"}},
		{"a file of this machine", func(o *origin, p store.Path) { o.edit(narinfo.Name(p), "URL: nar", "URL: file:///nar") }, Options{}, store.ErrCorrupt, []string{"not followed"}},
		{"not there", func(o *origin, p store.Path) { delete(o.files, narinfo.Name(p)) }, Options{}, ErrNotThere, []string{": not there"}},
		{"broken", func(o *origin, _ store.Path) {
			o.wrap = func(_ string, w http.ResponseWriter) bool { w.WriteHeader(502); return true }
		}, Options{}, nil, []string{"502 Bad Gateway"}},
		{"redirects without end", func(o *origin, _ store.Path) {
			o.wrap = func(_ string, w http.ResponseWriter) bool {
				w.Header().Set("Location", "/again")
				w.WriteHeader(http.StatusFound)
				return true
			}
		}, Options{}, nil, []string{"more than 5 redirects"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOrigin(t)
			path := o.text("item", content)
			o.serve(path, narinfo.None)
			test.change(o, path)
			url := o.listen()
			test.opts.URLs, test.opts.ACL = []string{url}, acl(o)
			_, err := fetch(t.Context(), newClient(t, test.opts), path)
			wantError(t, err, append(test.parts, url, string(path))...)
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, which is no %v", err, test.want)
			}
		})
	}
}

func TestFetchUnauthorized(t *testing.T) {
	o := newOrigin(t)
	path := o.text("item", "x")
	_, err := fetch(t.Context(), newClient(t, Options{URLs: []string{o.listen()}, ACL: acl()}), path)
	if !errors.Is(err, store.ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
	wantError(t, err, o.key.Public().Fingerprint())
	if n := o.requests("nar/"); n != 0 {
		t.Errorf("the NAR was asked for %d times", n)
	}
}

// guix publish sends a NAR that is not compressed without a length, and leaves the
// connection open.
func TestFetchOpenEnd(t *testing.T) {
	o := newOrigin(t)
	path := o.text("item", "contents")
	o.serve(path, narinfo.None)
	data := o.nar(path)
	read := make(chan struct{})
	defer close(read)
	o.wrap = func(name string, w http.ResponseWriter) bool {
		if !strings.HasPrefix(name, "nar/") {
			return false
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n\r\n%s", data)
		<-read
		conn.Close()
		return true
	}
	url := o.listen()
	got, err := fetch(t.Context(), newClient(t, Options{URLs: []string{url}, ACL: acl(o)}), path)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestNextServer(t *testing.T) {
	a, b := newOrigin(t), newOrigin(t)
	onlyB := b.text("only-b", "1")
	both := a.text("both", "2")
	b.text("both", "2")
	bad := a.text("bad", "3")
	b.text("bad", "3")
	a.put("nar/zstd/"+bad.Base(), []byte("nothing of the kind"))
	c := newClient(t, Options{URLs: []string{a.listen(), b.listen() + "/"}, ACL: acl(a, b)})
	for _, p := range []store.Path{onlyB, both, bad} {
		if got, err := fetch(t.Context(), c, p); err != nil || !bytes.Equal(got, b.nar(p)) {
			t.Errorf("%s: got %d bytes, %v", p, len(got), err)
		}
	}
	if n := b.requests(narinfo.Name(both)); n != 0 {
		t.Errorf("the second server was asked %d times for what the first has", n)
	}
}

func TestInfos(t *testing.T) {
	o := newOrigin(t)
	var paths []store.Path
	for i := range 50 {
		paths = append(paths, o.text(fmt.Sprint("item-", i), fmt.Sprint(i)))
	}
	absent, err := store.DefaultDir.TextPath("absent", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	paths = append(paths, absent)
	c := newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o), Parallel: 4})
	answers, err := c.Infos(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range answers[:50] {
		if a.Err != nil || a.Info.Path != paths[i] {
			t.Errorf("%s: got %v, %v", paths[i], a.Info, a.Err)
		}
	}
	var missing *MissingError
	if !errors.As(answers[50].Err, &missing) || missing.Path != absent || !missing.Certain() {
		t.Errorf("got %v", answers[50].Err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Infos(ctx, paths); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestNegativeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		path := o.text("item", "x")
		name := narinfo.Name(path)
		text := o.files[name]
		delete(o.files, name)
		c := newClient(t, Options{URLs: []string{"http://o"}, ACL: acl(o), HTTPClient: &http.Client{Transport: o}})
		for range 3 {
			if _, err := fetch(t.Context(), c, path); !errors.Is(err, ErrNotThere) {
				t.Fatal(err)
			}
		}
		if n := o.requests(name); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
		o.put(name, text)
		time.Sleep(time.Minute + time.Second)
		if _, err := fetch(t.Context(), c, path); err != nil {
			t.Error(err)
		}
		if n := o.requests(name); n != 2 {
			t.Errorf("asked %d times, want twice", n)
		}
	})
}

func TestSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		path := o.text("item", "x")
		broken := func(_ string, w http.ResponseWriter) bool { w.WriteHeader(500); return true }
		o.wrap = broken
		c := newClient(t, Options{URLs: []string{"http://o"}, ACL: acl(o), HTTPClient: &http.Client{Transport: o}})
		for i, pause := range []time.Duration{firstPause, 2 * firstPause, 4 * firstPause} {
			if _, err := fetch(t.Context(), c, path); err == nil || errors.Is(err, ErrAside) {
				t.Fatalf("attempt %d: %v", i, err)
			}
			time.Sleep(pause*3/4 - time.Millisecond)
			_, err := fetch(t.Context(), c, path)
			if !errors.Is(err, ErrAside) {
				t.Fatalf("attempt %d, within the pause: %v", i, err)
			}
			wantError(t, err, "500 Internal Server Error", "http://o")
			var missing *MissingError
			if !errors.As(err, &missing) || missing.Certain() {
				t.Errorf("%v is taken for certain", err)
			}
			time.Sleep(pause/4 + 2*time.Millisecond)
		}
		if n := o.requests(""); n != 3 {
			t.Errorf("%d requests, want 3", n)
		}
		o.wrap = nil
		if _, err := fetch(t.Context(), c, path); err != nil {
			t.Error(err)
		}
		if why := c.servers[0].pause.Cause; why != nil {
			t.Errorf("a failure is remembered: %v", why)
		}
	})
}

// silent is a server that stops in the midst of something.
type silent struct {
	*origin
	prefix string
}

func (s silent) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.origin.RoundTrip(r)
	if err == nil && strings.HasPrefix(strings.TrimPrefix(r.URL.Path, "/"), s.prefix) {
		resp.Body = io.NopCloser(io.MultiReader(io.LimitReader(resp.Body, 20), untilDone{r.Context()}))
	}
	return resp, err
}

type untilDone struct{ ctx context.Context }

func (u untilDone) Read([]byte) (int, error) { <-u.ctx.Done(); return 0, u.ctx.Err() }

func TestSilence(t *testing.T) {
	for _, prefix := range []string{"nar/", ""} {
		t.Run("in /"+prefix, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin(t)
				path := o.text("item", "x")
				o.serve(path, narinfo.None)
				transport := silent{o, prefix}
				c := newClient(t, Options{URLs: []string{"http://o"}, ACL: acl(o), HTTPClient: &http.Client{Transport: transport}, Timeout: time.Minute})
				start := time.Now()
				_, err := fetch(t.Context(), c, path)
				wantError(t, err, "too slow", string(path), "http://o")
				if d := time.Since(start); d != time.Minute {
					t.Errorf("it took %v", d)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				c = newClient(t, Options{URLs: []string{"http://o"}, ACL: acl(o), HTTPClient: &http.Client{Transport: transport}})
				if _, err := fetch(ctx, c, path); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("canceled: %v", err)
				}
				if s := c.servers[0]; s.pause.Cause != nil {
					t.Error("the server is blamed for the caller's impatience")
				}
			})
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, url := range []string{"", "host", "ftp://host", "http://", "file://host/x", "file:x", "http://h/?q", "http://h/#f", "http://[::1"} {
		_, err := New(Options{URLs: []string{url}, ACL: acl()})
		wantError(t, err, fmt.Sprintf("%q", url))
	}
	if _, err := New(Options{ACL: acl()}); err == nil {
		t.Error("a client without servers")
	}
	if _, err := New(Options{URLs: []string{"http://h"}}); err == nil {
		t.Error("a client without an ACL")
	}
}
