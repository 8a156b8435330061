package publish

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
	"lighter/store/narinfo"
)

var _ FS = (*sshtransport.Folder)(nil)

// overSFTP makes the bench's folder one that is reached by SFTP.
func (b *bench) overSFTP(change func(*sshtransport.Config)) *sshtest.Server {
	b.t.Helper()
	key, file := sshtest.WriteKey(b.t)
	s := sshtest.Start(b.t, sshtest.Options{Home: filepath.Dir(b.folder), Authorized: []ssh.PublicKey{key.PublicKey()}})
	cfg := sshtransport.Config{Machine: "mirror", Addr: s.Addr, User: "u", PrivateKey: file, HostKey: s.HostKey()}
	if change != nil {
		change(&cfg)
	}
	f := sshtransport.NewFolder(cfg, filepath.Base(b.folder))
	b.t.Cleanup(func() { f.Close() })
	b.fs = f
	return s
}

// kinds are the implementations of FS.
var kinds = map[string]func(*bench){
	"local": func(*bench) {},
	"sftp":  func(b *bench) { b.overSFTP(nil) },
}

func TestFS(t *testing.T) {
	for name, use := range kinds {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			use(b)
			f, ctx := b.fs, t.Context()
			put := func(name, text string) error {
				return f.Put(ctx, name, func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
			}
			if err := errors.Join(put("a/b/c", "one"), put("top", strings.Repeat("x", 3<<20))); err != nil {
				t.Fatal(err)
			}
			if err := put("a/b/c", "two"); err != nil {
				t.Errorf("in the place of another: %v", err)
			}
			if text, err := f.Read(ctx, "a/b/c", 3); err != nil || string(text) != "two" {
				t.Errorf("got %q, %v", text, err)
			}
			if _, err := f.Read(ctx, "a/b/c", 2); err == nil {
				t.Error("a file that is too long was read")
			}
			info, err := f.Stat(ctx, "top")
			if err != nil || info.Size() != 3<<20 || !info.Mode().IsRegular() || info.Mode().Perm() != 0o644 {
				t.Errorf("got %v, %v", info, err)
			}
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(filepath.Join(b.folder, "top"), old, old); err != nil {
				t.Fatal(err)
			}
			if err := f.Touch(ctx, "top"); err != nil {
				t.Error(err)
			}
			if info, err := f.Stat(ctx, "top"); err != nil || time.Since(info.ModTime()) > 10*time.Minute {
				t.Errorf("got %v, %v", info, err)
			}
			list, err := f.List(ctx, ".")
			var names []string
			for _, i := range list {
				names = append(names, i.Name())
			}
			slices.Sort(names)
			if err != nil || !slices.Equal(names, []string{"a", "top"}) {
				t.Errorf("got %s, %v", names, err)
			}
			if list, err := f.List(ctx, "nothing"); err != nil || len(list) > 0 {
				t.Errorf("got %v, %v", list, err)
			}
			for what, err := range map[string]error{"stat": second(f.Stat(ctx, "no")), "read": second(f.Read(ctx, "no", 1)), "touch": f.Touch(ctx, "no")} {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s of what is not there: %v", what, err)
				}
			}
			if err := errors.Join(f.Remove(ctx, "top"), f.Remove(ctx, "top")); err != nil {
				t.Error(err)
			}
			if err := f.Put(ctx, "a/b/c", func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return errBroken }); !errors.Is(err, errBroken) {
				t.Errorf("got %v", err)
			}
			canceled, cancel := context.WithCancel(ctx)
			err = f.Put(canceled, "a/new", func(w io.Writer) error { cancel(); _, err := io.WriteString(w, "x"); return err })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if got := b.files(); !slices.Equal(got, []string{"a/b/c"}) {
				t.Errorf("there are %s", got)
			}
			if text, err := f.Read(ctx, "a/b/c", 10); err != nil || string(text) != "two" {
				t.Errorf("after what broke off: %q, %v", text, err)
			}
			for _, name := range []string{"../x", "/x", ""} {
				if put(name, "x") == nil {
					t.Errorf("%q was written", name)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestMirror(t *testing.T) {
	b := newBench(t)
	server := b.overSFTP(nil)
	source := b.text("source", strings.Repeat("text ", 100_000))
	top := b.text("top", "top", source)
	w := b.writer(nil)
	b.publish(w, true, top)
	b.wantFiles(narinfo.Name(source), narinfo.Name(top), "nar/zstd/"+source.Base(), "nar/zstd/"+top.Base())
	b.fetches("file://"+b.folder, source, top)

	// A connection that is lost is made again.
	server.CutAll()
	other := b.text("other", "x", source)
	b.publish(w, true, other)
	b.fetches("file://"+b.folder, other)
	if n := server.Connections(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}

	for _, p := range []string{narinfo.Name(top), narinfo.Name(source)} {
		b.age(48*time.Hour, p)
	}
	pruned, err := w.Prune(t.Context(), time.Hour)
	if err != nil || len(pruned.Items) != 1 || pruned.Items[0] != top {
		t.Errorf("got %+v, %v", pruned, err)
	}
}

// Wherever the connection breaks, nothing incomplete has a name.
func TestMirrorBreaksOff(t *testing.T) {
	broken := 0
	for at := int64(0); at < 4000; at += 200 {
		b := newBench(t)
		p := b.text("item", strings.Repeat("0123456789abcdef", 20_000))
		server := b.overSFTP(nil)
		w := b.writer(func(o *Options) { o.Compression = narinfo.None })
		server.CutAt(at) // of each connection
		var down *sshtransport.DownError
		_, err := w.PublishPaths(t.Context(), b, true, p)
		if err != nil {
			broken++
			if !errors.Is(err, sshtransport.ErrLinkLost) && !errors.As(err, &down) {
				t.Errorf("at %d: %v", at, err)
			}
		}
		if there, err := Folder(b.folder).Stat(t.Context(), narinfo.Name(p)); err == nil {
			b.fetches("file://"+b.folder, p)
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("at %d: %v, %v", at, there, err)
		}
		if _, err := Folder(b.folder).Stat(t.Context(), "nar/"+p.Base()); err == nil {
			nar, err := os.ReadFile(filepath.Join(b.folder, "nar", p.Base()))
			if err != nil || len(nar) != 320_112 {
				t.Errorf("at %d: the NAR has %d bytes, %v", at, len(nar), err)
			}
		}
	}
	if broken < 5 {
		t.Errorf("only %d attempts broke off", broken)
	}
}

// A machine that says nothing any more is given up, and what waits for it with it.
func TestMirrorHangs(t *testing.T) {
	b := newBench(t)
	var stalled atomic.Bool
	server := b.overSFTP(func(c *sshtransport.Config) {
		c.StartTimeout = time.Second
		c.Dial = func(ctx context.Context) (net.Conn, error) {
			if stalled.Load() {
				return nil, errBroken
			}
			return new(net.Dialer).DialContext(ctx, "tcp", c.Addr)
		}
	})
	w := b.writer(nil)
	if err := w.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stalled.Store(true)
	server.Stall(true)
	_, err := w.PublishPaths(t.Context(), b, true, b.text("item", "x"))
	var down *sshtransport.DownError
	if !errors.As(err, &down) || !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "mirror") {
		t.Errorf("got %v", err)
	}
	server.Stall(false)
}

func TestMirrorDown(t *testing.T) {
	b := newBench(t)
	server := b.overSFTP(nil)
	server.Close()
	w := b.writer(nil)
	item := b.text("item", "x")
	for range 2 {
		var down *sshtransport.DownError
		if _, err := w.PublishPaths(t.Context(), b, true, item); !errors.As(err, &down) {
			t.Errorf("got %v", err)
		}
	}
	b.fs.(*sshtransport.Folder).Close()
	if _, err := b.fs.Stat(t.Context(), "x"); !errors.Is(err, sshtransport.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
