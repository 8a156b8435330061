package substitute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"lighter/store"
	"lighter/store/narinfo"
	"lighter/store/storetest"
)

// graph adds a chain and a fan: items that refer to others, the last one to all.
func (o *origin) graph(prefix string) []store.Path {
	o.t.Helper()
	source := o.text(prefix+"-source", "source")
	all := []store.Path{source}
	for i := range 10 {
		refs := []store.Path{source}
		if i > 0 {
			refs = append(refs, all[i])
		}
		all = append(all, o.text(fmt.Sprintf("%s-%d", prefix, i), fmt.Sprint("input ", i), refs...))
	}
	return append(all, o.text(prefix+"-top", "top", all...))
}

func wantValid(t testing.TB, s store.Store, paths []store.Path) {
	t.Helper()
	missing, err := store.Missing(t.Context(), s, paths)
	if err != nil || len(missing) > 0 {
		t.Errorf("missing: %s, %v", missing, err)
	}
}

func TestClosure(t *testing.T) {
	o := newOrigin(t)
	all := o.graph("g")
	top := all[len(all)-1]
	s := newStore(t)
	if _, err := s.AddText(t.Context(), "g-source", []byte("source"), nil); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o)})
	fetched, err := c.FetchClosure(t.Context(), s, []store.Path{top, top})
	if err != nil {
		t.Fatal(err)
	}
	wantValid(t, s, all)
	if len(fetched) != len(all)-1 || slices.Contains(fetched, all[0]) || fetched[len(fetched)-1] != top {
		t.Errorf("fetched %s", fetched)
	}
	for _, p := range all {
		var b bytes.Buffer
		if err := s.WriteNAR(t.Context(), &b, p); err != nil || !bytes.Equal(b.Bytes(), o.nar(p)) {
			t.Errorf("%s: it has other contents: %v", p, err)
		}
		got, err := s.Info(t.Context(), p)
		want, _ := o.Info(t.Context(), p)
		if err != nil || got.NARHash != want.NARHash || got.NARSize != want.NARSize || !slices.Equal(got.References, want.References) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	before := o.requests("")
	if fetched, err := c.FetchClosure(t.Context(), s, all); err != nil || len(fetched) > 0 || o.requests("") != before {
		t.Errorf("again: fetched %s, %v, %d requests", fetched, err, o.requests("")-before)
	}
}

func TestClosureRefuses(t *testing.T) {
	drv := "Derive([],[],[],\"x86_64-linux\",\"/b\",[],[])"
	for _, test := range []struct {
		name   string
		change func(o *origin, all []store.Path)
		want   error
		parts  []string
	}{
		{"a reference that is not there", func(o *origin, all []store.Path) { delete(o.files, narinfo.Name(all[3])) }, ErrNotThere, []string{"g-2, to which /gnu/store/"}},
		{"a NAR that is not there", func(o *origin, all []store.Path) { delete(o.files, "nar/zstd/"+all[3].Base()) }, ErrNotThere, []string{"g-2", "nar/zstd/"}},
		{"wrong contents", func(o *origin, all []store.Path) {
			o.put("nar/zstd/"+all[3].Base(), compress(o.t, narinfo.Zstd, o.nar(all[2])))
		}, store.ErrCorrupt, []string{"g-2"}},
		{"a derivation under a false name", func(o *origin, all []store.Path) {
			info, err := o.Info(o.t.Context(), o.text("real.drv", drv))
			if err != nil {
				o.t.Fatal(err)
			}
			nar := o.nar(info.Path)
			info.Path = all[3]
			info.Path, _ = store.DefaultDir.TextPath("false.drv", []byte("x"), nil)
			text, err := narinfo.Sign(o.key, "h", info, []narinfo.Download{{URL: "nar/false", Compression: narinfo.None}})
			if err != nil {
				o.t.Fatal(err)
			}
			o.put(narinfo.Name(info.Path), text)
			o.put("nar/false", nar)
			top, err := o.Info(o.t.Context(), all[len(all)-1])
			if err != nil {
				o.t.Fatal(err)
			}
			top.References = append(top.References, info.Path)
			if text, err = narinfo.Sign(o.key, "h", top, []narinfo.Download{{URL: "nar/zstd/" + top.Path.Base(), Compression: narinfo.Zstd}}); err != nil {
				o.t.Fatal(err)
			}
			o.put(narinfo.Name(top.Path), text)
		}, store.ErrCorrupt, []string{"-false.drv", "its contents give the name /gnu/store/"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOrigin(t)
			all := o.graph("g")
			test.change(o, all)
			url := o.listen()
			s := newStore(t)
			_, err := newClient(t, Options{URLs: []string{url}, ACL: acl(o)}).FetchClosure(t.Context(), s, all[len(all)-1:])
			wantError(t, err, append(test.parts, url)...)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, which is no %v", err, test.want)
			}
			if valid, err := store.IsValid(t.Context(), s, all[len(all)-1]); err != nil || valid {
				t.Errorf("the item that refers to it became valid: %v", err)
			}
		})
	}
}

func TestClosureUnauthorized(t *testing.T) {
	o, known := newOrigin(t), newOrigin(t)
	all := o.graph("g")
	_, err := newClient(t, Options{URLs: []string{o.listen(), known.listen()}, ACL: acl(known)}).FetchClosure(t.Context(), newStore(t), all)
	if !errors.Is(err, store.ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
	if n := o.requests("nar/"); n != 0 {
		t.Errorf("%d NARs were asked for", n)
	}
}

// What cannot be had from one server comes from the next.
func TestClosureNextServer(t *testing.T) {
	a, b := newOrigin(t), newOrigin(t)
	all := a.graph("g")
	b.graph("g")
	a.put("nar/zstd/"+all[2].Base(), compress(t, narinfo.Zstd, a.nar(all[5])))
	a.put("nar/zstd/"+all[4].Base(), []byte("rubbish"))
	delete(a.files, narinfo.Name(all[6]))
	s := newStore(t)
	if _, err := newClient(t, Options{URLs: []string{a.listen(), b.listen()}, ACL: acl(a, b)}).FetchClosure(t.Context(), s, all[len(all)-1:]); err != nil {
		t.Fatal(err)
	}
	wantValid(t, s, all)
}

func TestClosureTogether(t *testing.T) {
	o := newOrigin(t)
	all := o.graph("g")
	s := newStore(t)
	c := newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o)})
	var calls sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for range 5 {
		calls.Go(func() {
			fetched, err := c.FetchClosure(t.Context(), s, all[len(all)-1:])
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += len(fetched)
		})
	}
	calls.Wait()
	wantValid(t, s, all)
	if n := o.requests("nar/"); n != len(all) || total != len(all) {
		t.Errorf("%d downloads for %d items, of which %d were said to be fetched", n, len(all), total)
	}
}

func TestClosureCanceled(t *testing.T) {
	o := newOrigin(t)
	all := o.graph("g")
	ctx, cancel := context.WithCancel(t.Context())
	o.wrap = func(name string, _ http.ResponseWriter) bool {
		if strings.HasPrefix(name, "nar/") {
			cancel()
		}
		return false
	}
	_, err := newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o)}).FetchClosure(ctx, newStore(t), all)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestClosureTooLarge(t *testing.T) {
	o := newOrigin(t)
	all := o.graph("g")
	_, err := newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o), MaxItems: 5}).FetchClosure(t.Context(), newStore(t), all)
	wantError(t, err, "more than 5 items")
}

// particular is a store that takes only some items, and downloads the others.
type particular struct {
	*storetest.Memory
	refused string
	asked   []store.Path
}

func (p *particular) AddSubstitute(ctx context.Context, info *store.Info, _ io.Reader) error {
	if strings.Contains(string(info.Path), p.refused) {
		return errors.ErrUnsupported
	}
	return p.add(ctx, info)
}

func (p *particular) add(ctx context.Context, info *store.Info) error {
	text := strings.TrimPrefix(info.Path.Name(), "g-")
	if text != "source" && text != "top" {
		text = "input " + text
	}
	_, err := p.AddText(ctx, info.Path.Name(), []byte(text), info.References)
	return err
}

func (p *particular) Download(ctx context.Context, path store.Path, urls []string) error {
	p.asked = append(p.asked, path)
	if len(urls) != 1 || !strings.HasPrefix(urls[0], "http://") {
		return fmt.Errorf("urls: %q", urls)
	}
	_, err := p.AddText(ctx, path.Name(), []byte("source"), nil)
	return err
}

func TestClosureByDownload(t *testing.T) {
	o := newOrigin(t)
	all := o.graph("g")
	p := &particular{Memory: storetest.NewMemory(store.DefaultDir, o.key, nil), refused: "-source"}
	if _, err := newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o)}).FetchClosure(t.Context(), p, all); err != nil {
		t.Fatal(err)
	}
	wantValid(t, p, all)
	if !slices.Equal(p.asked, all[:1]) {
		t.Errorf("it was to download %s", p.asked)
	}
}

func TestClosureWrongStore(t *testing.T) {
	o := newOrigin(t)
	c := newClient(t, Options{URLs: []string{o.listen()}, ACL: acl(o)})
	_, err := c.FetchClosure(t.Context(), storetest.NewMemory(store.DefaultDir, o.key, nil), nil)
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	_, err = c.FetchClosure(t.Context(), newStore(t), []store.Path{"/nix/store/8d06rznafs59sm042rbk05zrv16b1gpx-vec-output"})
	wantError(t, err, "/nix/store")
}
