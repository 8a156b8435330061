package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
)

// Items of the transcripts.
const (
	wireText   store.Path = "/gnu/store/nrrw2qnqn0lpmldpf8fsy13hy801hl5x-wire.txt"
	nothing    store.Path = "/gnu/store/00000000000000000000000000000000-x"
	withRefs   store.Path = "/gnu/store/4rhap45gm8x4xb2iwcsc0caqc6hj8g0m-vec-with-refs"
	vecScript  store.Path = "/gnu/store/wz5jnqcbfxazw5clg3c830am5a8w0kva-vec-script.sh"
	vecOutput  store.Path = "/gnu/store/8d06rznafs59sm042rbk05zrv16b1gpx-vec-output"
	zeroDigits            = "0000000000000000000000000000000000000000000000000000000000000000"
)

func TestHandshake(t *testing.T) {
	testkit.CheckLeaks(t)
	for _, tt := range []struct {
		version uint64
		want    string // in the error
	}{
		{0x160, ""},
		{0x161, ""},
		{0x163, ""},
		{0x164, ""},
		{0x165, ""},
		{0x15f, "version 0x15f"},
		{0x10c, "version 0x10c"},
		{0x264, "version 0x264"},
		{0x1_0000_0164, "more than"},
	} {
		t.Run(fmt.Sprintf("%#x", tt.version), func(t *testing.T) {
			f := startFake(t, play(t))
			f.version = tt.version
			s, err := Open(soon(t), Options{Socket: f.socket})
			if err == nil {
				s.Close()
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestOpenFails(t *testing.T) {
	testkit.CheckLeaks(t)
	dir := t.TempDir()
	if _, err := Open(soon(t), Options{Socket: filepath.Join(dir, "gone")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "dead")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := Open(soon(t), Options{Socket: filepath.Join(dir, "dead")}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dead socket: %v", err)
	}
	for _, name := range []string{"relative", "ssh://host", "guix://host:1", "unix:relative"} {
		if _, err := Open(soon(t), Options{Socket: name}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("socket %q: %v", name, err)
		}
	}
	for name, want := range map[string]string{"/a": "/a", "file:///a/b": "/a/b", "unix:///c": "/c", "unix:/d": "/d"} {
		if got, err := SocketName(name); err != nil || got != want {
			t.Errorf("SocketName(%q) = %q, %v", name, got, err)
		}
	}
}

// TestTranscripts makes requests and compares them, byte for byte, with those of the real
// client, whose answers the real daemon gave.
func TestTranscripts(t *testing.T) {
	testkit.CheckLeaks(t)
	for _, tt := range []struct {
		name  string
		file  string
		op    opcode
		steps int
		call  func(ctx context.Context, s *Store) (any, error)
		want  any
	}{
		{"add text", "queries", opAddTextToStore, 1, func(ctx context.Context, s *Store) (any, error) {
			return s.AddText(ctx, "wire.txt", []byte("wire\n"), nil)
		}, wireText},
		{"info", "queries", opQueryPathInfo, 1, func(ctx context.Context, s *Store) (any, error) {
			info, err := s.Info(ctx, wireText)
			return fmt.Sprint(info.NARHash.Base16(), " ", info.NARSize, " ", info.Registered.Unix(), " ", len(info.References), info.Deriver), err
		}, "00a80f297d605b25a3654046b4452682851de3cc9a151739274bfc5c3788d1f6 120 1795212113 0"},
		{"add NAR", "queries", opAddToStore, 1, func(ctx context.Context, s *Store) (any, error) {
			var b bytes.Buffer
			w := nar.NewWriter(&b)
			_ = w.WriteHeader(&nar.Header{Kind: nar.Directory})
			_ = w.WriteHeader(&nar.Header{Path: "f", Kind: nar.Regular, Size: 3})
			_, _ = w.Write([]byte("hi\n"))
			_ = w.WriteHeader(&nar.Header{Path: "l", Kind: nar.Symlink, Target: "f"})
			_ = w.Close()
			return s.AddNAR(ctx, "wire-dir", &b)
		}, store.Path("/gnu/store/ir7yl2h5yjacqy6vg9abwakybw96bmy9-wire-dir")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, play(t, recorded(tt.file, tt.op)[:tt.steps]...))
			got, err := tt.call(soon(t), f.open())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// importRecorded imports the archive that the real client sent.
func importRecorded(file string) func(context.Context, *Store) (any, error) {
	return func(ctx context.Context, s *Store) (any, error) {
		steps := recorded(file, opImportPaths)
		sent := steps[1].want // as a string
		size := binary.LittleEndian.Uint64(sent)
		infos, err := s.Import(ctx, bytes.NewReader(sent[8:8+size]), store.ImportOptions{})
		if err != nil || len(infos) == 0 {
			return nil, err
		}
		return infos[0].Path, nil
	}
}

// chunked cuts a recorded archive of one item as this client sends it: the end marker on
// its own.
func chunked(steps []step) []step {
	sent := steps[1].want
	size := binary.LittleEndian.Uint64(sent)
	archive := string(sent[8 : 8+size])
	ask := enc(replyRead, chunkSize)
	return []step{
		{steps[0].want, ask},
		{enc(archive[:len(archive)-8]), ask},
		{enc(archive[len(archive)-8:]), steps[1].answer},
	}
}

func TestImportChunks(t *testing.T) {
	testkit.CheckLeaks(t)
	f := startFake(t, play(t, chunked(recorded("archive-import", opImportPaths))...))
	got, err := importRecorded("archive-import")(soon(t), f.open())
	if err != nil || got != withRefs {
		t.Errorf("Import: %v, %v", got, err)
	}
}

func TestImportRefused(t *testing.T) {
	testkit.CheckLeaks(t)
	steps := recorded("archive-import-refused", opImportPaths)
	size := binary.LittleEndian.Uint64(steps[1].want)
	archive := steps[1].want[8 : 8+size]
	// The daemon speaks up when it has the item.
	steps[1].want = enc(string(archive[:size-8]))
	f := startFake(t, play(t, append(steps[:2], step{enc(opQueryValidPaths, []string{string(nothing)}), enc(replyLast, []string{})})...))
	s := f.open()
	infos, err := s.Import(soon(t), bytes.NewReader(archive), store.ImportOptions{})
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), string(withRefs)) || len(infos) != 0 {
		t.Errorf("Import: %v, %v", infos, err)
	}
	// The connection is good, and still warm.
	if valid, err := s.ValidPaths(soon(t), []store.Path{nothing}); err != nil || len(valid) != 0 {
		t.Errorf("ValidPaths: %v, %v", valid, err)
	}
}

func TestExport(t *testing.T) {
	testkit.CheckLeaks(t)
	exported := recorded("archive-export", opExportPath)[0]
	steps := []step{
		{enc(opAddTempRoot, withRefs), enc(replyLast, 1)},
		{enc(opQueryPathInfo, withRefs), enc(replyLast, "", zeroDigits, []string{string(vecScript)}, 1, 2)},
		exported,
	}
	f := startFake(t, play(t, steps...))
	var b bytes.Buffer
	if err := f.open().Export(soon(t), &b, []store.Path{withRefs}); err != nil {
		t.Fatal(err)
	}
	r := nar.NewArchiveReader(&b, store.DefaultDir)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if it, err := r.Item(); err != nil || it.Path != withRefs || it.Signature == "" {
		t.Errorf("archive: %+v, %v", it, err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the archive: %v", err)
	}
}

func TestReferences(t *testing.T) {
	answer := recorded("gc-references", 5)[0].answer
	refs := answer[8:]
	f := startFake(t, play(t, step{enc(opQueryPathInfo, vecOutput), enc(replyLast, "", zeroDigits, refs, 0, 5)}))
	got, err := f.open().Info(soon(t), vecOutput)
	if err != nil || len(got.References) != 3 || got.References[0] != withRefs {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAddIndirectRoot(t *testing.T) {
	link := "/home/me/a longer name"
	req := enc(opAddIndirectRoot, link)
	f := startFake(t, play(t, step{req, enc(replyLast, 1)}))
	if err := f.open().AddIndirectRoot(soon(t), link); err != nil {
		t.Error(err)
	}
	f = startFake(t, play(t, step{req, enc(replyError, "creating symlink `/var/guix/gcroots/auto/x': Permission denied", 1)}))
	if err := f.open().AddIndirectRoot(soon(t), link); err == nil || !strings.Contains(err.Error(), link) || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("got %v", err)
	}
}

func TestNotValid(t *testing.T) {
	testkit.CheckLeaks(t)
	refused := transcript("queries")
	f := startFake(t, play(t, refused[len(refused)-1]))
	if _, err := f.open().Info(soon(t), nothing); !errors.Is(err, store.ErrNotValid) || strings.Count(err.Error(), string(nothing)) != 1 {
		t.Errorf("Info: %v", err)
	}
	if _, err := f.open().Info(soon(t), "/other/store/00000000000000000000000000000000-x"); err == nil {
		t.Error("Info of an item of another store")
	}
}

// TestOptionsForms compares set-options as daemons of different ages want it.
func TestOptionsForms(t *testing.T) {
	testkit.CheckLeaks(t)
	pairs := []any{3, "multiplexed-build-output", "true", "build-timeout", "2", "build-cores", "3"}
	newer := enc(append([]any{19, 1, 0, 0, 0, 0, 0, 0, 1, 0}, pairs...)...)
	older := enc(append([]any{19, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0}, pairs...)...)
	for _, tt := range []struct {
		version uint64
		want    []byte
	}{{0x160, older}, {0x161, newer}, {0x163, newer}, {0x164, newer}} {
		f := startFake(t, play(t, step{tt.want, enc(replyLast)}))
		f.version = tt.version
		s := f.open()
		o := options(&store.BuildRequest{KeepFailed: true, Timeout: 1500 * time.Millisecond, Cores: 3})
		if err := s.do(soon(t), func(c *conn) error {
			for range 2 { // the second time there is nothing to do
				if err := c.setOptions(o); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Errorf("%#x: %v", tt.version, err)
		}
	}
}

// buildSteps returns the exchanges of a build of the recorded derivation.
func buildSteps(file string) (*store.BuildRequest, []step) {
	added := recorded(file, opAddTextToStore)
	text := added[0].want
	text = text[8+8+24:] // opcode, name
	size := binary.LittleEndian.Uint64(text)
	req := &store.BuildRequest{Text: text[8 : 8+size]}
	drv := string(added[0].answer[16 : 16+63])
	req.Derivation = store.Path(drv)
	out, _ := between(string(req.Text), `("out","`, `"`)
	steps := []step{
		{enc(opAddTempRoot, drv), enc(replyLast, 1)},
		{enc(opQueryValidPaths, []string{drv}), enc(replyLast, []string{})},
		{added[0].want, added[0].answer},
		{enc(opAddTempRoot, out), enc(replyLast, 1)},
		{enc(opQueryValidPaths, []string{out}), enc(replyLast, []string{})},
		{append(enc(opSetOptions), options(req)...), enc(replyLast)},
		added[1],
		{enc(opQueryPathInfo, out), enc(replyLast, drv, zeroDigits, []string{}, 1, 120)},
	}
	return req, steps
}

func TestBuild(t *testing.T) {
	testkit.CheckLeaks(t)
	req, steps := buildSteps("build-local-ok")
	f := startFake(t, play(t, steps...))
	result, err := f.open().Build(soon(t), req)
	if err != nil || result.Outputs["out"].NARSize != 120 || result.AlreadyValid || result.Started.IsZero() {
		t.Errorf("Build: %+v, %v", result, err)
	}
}

func TestBuildFails(t *testing.T) {
	testkit.CheckLeaks(t)
	req, steps := buildSteps("build-local-fails")
	f := startFake(t, play(t, steps[:7]...))
	_, err := f.open().Build(soon(t), req)
	var got *store.BuildError
	if !errors.As(err, &got) || got.Failure != store.FailedExit || got.ExitCode == 0 || !strings.Contains(got.Message, "failed with exit code") {
		t.Errorf("Build: %+v", err)
	}
}

// TestBuildMachine has failures that are not the derivation's.
func TestBuildMachine(t *testing.T) {
	testkit.CheckLeaks(t)
	for _, tt := range []struct{ answer, want string }{
		{string(enc(replyError, "unable to start any build; either increase `--max-jobs' or enable distributed builds", 1)), "max-jobs"},
		{string(enc(replyNext, "note: build failure may have been caused by lack of free disk space\n", replyError, "build of `x' failed", 1)), "disk"},
		{string(enc(replyNext, "@ build-failed DRV - 0 cannot clone\n", replyError, "build of `x' failed", 1)), ""},
		{string(enc(replyError, "writing to file: No space left on device", 1)), "No space left"},
	} {
		req, steps := buildSteps("build-local-ok")
		steps[6].answer = []byte(tt.answer)
		f := startFake(t, play(t, steps[:7]...))
		_, err := f.open().Build(soon(t), req)
		var got *store.BuildError
		if err == nil || errors.As(err, &got) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v", tt.answer, err)
		}
	}
}

// calls are one of each, for tests in which the daemon misbehaves.
var calls = map[string]func(ctx context.Context, s *Store) error{
	"Info": func(ctx context.Context, s *Store) error { _, err := s.Info(ctx, nothing); return err },
	"Infos": func(ctx context.Context, s *Store) error {
		_, err := s.Infos(ctx, []store.Path{nothing, wireText})
		return err
	},
	"ValidPaths": func(ctx context.Context, s *Store) error {
		_, err := s.ValidPaths(ctx, []store.Path{nothing})
		return err
	},
	"AddText": func(ctx context.Context, s *Store) error { _, err := s.AddText(ctx, "a", nil, nil); return err },
	"AddNAR": func(ctx context.Context, s *Store) error {
		var b bytes.Buffer
		w := nar.NewWriter(&b)
		_ = w.WriteHeader(&nar.Header{Kind: nar.Regular})
		_ = w.Close()
		_, err := s.AddNAR(ctx, "a", &b)
		return err
	},
	"Export": func(ctx context.Context, s *Store) error { return s.Export(ctx, io.Discard, []store.Path{nothing}) },
	"Import": func(ctx context.Context, s *Store) error {
		_, err := s.Import(ctx, strings.NewReader(endOfItems), store.ImportOptions{})
		return err
	},
	"WriteNAR": func(ctx context.Context, s *Store) error { return s.WriteNAR(ctx, io.Discard, nothing) },
	"Download": func(ctx context.Context, s *Store) error { return s.Download(ctx, nothing, nil) },
	"Build": func(ctx context.Context, s *Store) error {
		req, _ := buildSteps("build-local-ok")
		_, err := s.Build(ctx, req)
		return err
	},
	"CollectGarbage": func(ctx context.Context, s *Store) error {
		_, err := s.CollectGarbage(ctx, store.GCOptions{})
		return err
	},
	"Verify": func(ctx context.Context, s *Store) error {
		return s.Verify(ctx, false, func(store.VerifyProblem) {})
	},
	"Lease": func(ctx context.Context, s *Store) error {
		l, err := s.Lease(ctx, "test")
		if err != nil {
			return err
		}
		return errors.Join(l.Add(ctx, nothing), l.Release())
	},
	"Warm": func(ctx context.Context, s *Store) error { return s.Warm(ctx) },
}

// TestHostile has a daemon that answers nonsense to everything: there are errors, and
// neither panics nor waits nor much memory.
func TestHostile(t *testing.T) {
	testkit.CheckLeaks(t)
	huge := uint64(math.MaxInt64)
	for name, answer := range map[string][]byte{
		"nothing":          nil,
		"half a word":      {1, 2, 3},
		"no part":          enc(0x12345678),
		"long text":        enc(replyNext, huge, "x"),
		"long error":       enc(replyError, huge),
		"error, no status": enc(replyError, "oops"),
		"huge status":      enc(replyError, "oops", huge),
		"long data":        append(enc(replyWrite, huge), 1, 2, 3),
		"long read":        enc(replyRead, huge),
		"read of nothing":  enc(replyRead, 0),
		"long list":        enc(replyLast, huge, "x"),
		"long string":      enc(replyLast, 1, huge),
		"foreign path":     enc(replyLast, []string{"/etc/passwd"}, 0, 0),
		"dirty padding":    append(enc(replyLast, 1, 1), 'x', 1, 0, 0, 0, 0, 0, 0),
		"nonsense":         bytes.Repeat([]byte{0xff}, 1<<16),
		"zeros":            make([]byte, 1<<16),
	} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, func(_ int, c net.Conn) {
				_, _ = c.Read(make([]byte, 1<<16))
				_, _ = c.Write(answer)
				_ = c.(*net.UnixConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			})
			// These answers are good ones for some requests, and what follows is not read.
			fair := name == "long string" || name == "foreign path" || name == "dirty padding"
			for call, do := range calls {
				s, err := New(Options{Socket: f.socket})
				if err != nil {
					t.Fatal(err)
				}
				if err := do(soon(t), s); err == nil {
					if !fair || !slices.Contains([]string{"Lease", "Verify", "CollectGarbage", "QueryBuiltinBuilders"}, call) {
						t.Errorf("%s took it", call)
					}
				} else if errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "it hangs") {
					t.Errorf("%s: %v", call, err)
				}
				for _, c := range s.pool.idle {
					if c.broken {
						t.Errorf("%s: a broken connection is kept", call)
					}
				}
				s.Close()
			}
		})
	}
}

// TestCutOff ends the connection after each number of bytes of a good answer.
func TestCutOff(t *testing.T) {
	testkit.CheckLeaks(t)
	info := recorded("queries", opQueryPathInfo)[0]
	for n := range len(info.answer) {
		f := startFake(t, play(t, step{info.want, info.answer[:n]}))
		f.serve = func(_ int, c net.Conn) {
			if expect(t, c, info.want) {
				_, _ = c.Write(info.answer[:n])
			}
		}
		s := f.open()
		if _, err := s.Info(soon(t), wireText); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		// It was a connection that had been used before, so what had no answer at all
		// was asked for again.
		want := int64(1)
		if n == 0 {
			want = 2
		}
		if got := f.conns.Load(); got != want {
			t.Errorf("after %d bytes: %d connections, want %d", n, got, want)
		}
	}
}

func TestCancel(t *testing.T) {
	testkit.CheckLeaks(t)
	closed := make(chan struct{}, 100)
	f := startFake(t, func(_ int, c net.Conn) {
		_, _ = io.Copy(io.Discard, c) // and never answers
		closed <- struct{}{}
	})
	for name, do := range calls {
		s := f.open()
		ctx, cancel := context.WithCancel(soon(t))
		time.AfterFunc(20*time.Millisecond, cancel)
		if err := do(ctx, s); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
		if name == "Lease" {
			continue // its connection is not the caller's
		}
		select {
		case <-closed:
		case <-soon(t).Done():
			t.Errorf("%s: the connection is open", name)
		}
	}
}

// answerValid answers query-valid-paths for nothing, forever.
func answerValid(_ int, c net.Conn) {
	request := make([]byte, len(enc(opQueryValidPaths, []string{string(nothing)})))
	for {
		if _, err := io.ReadFull(c, request); err != nil {
			return
		}
		if _, err := c.Write(enc(replyLast, []string{})); err != nil {
			return
		}
	}
}

func askValid(t *testing.T, s *Store) {
	t.Helper()
	if _, err := s.ValidPaths(soon(t), []store.Path{nothing}); err != nil {
		t.Error(err)
	}
}

func TestPoolReuses(t *testing.T) {
	testkit.CheckLeaks(t)
	f := startFake(t, answerValid)
	s := f.open(func(o *Options) { o.MaxIdle = 2 })
	for range 10 {
		askValid(t, s)
	}
	if n := f.conns.Load(); n != 1 {
		t.Errorf("%d connections for calls one after the other", n)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { askValid(t, s) })
	}
	wg.Wait()
	if n := len(s.pool.idle); n > 2 {
		t.Errorf("%d idle connections, more than 2", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.ValidPaths(soon(t), []store.Path{nothing}); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestPoolStale has a daemon that ends each connection after one answer.
func TestPoolStale(t *testing.T) {
	testkit.CheckLeaks(t)
	f := startFake(t, func(n int, c net.Conn) {
		if n > 1 {
			_, _ = io.CopyN(io.Discard, c, int64(len(enc(opQueryValidPaths, []string{string(nothing)}))))
			_, _ = c.Write(enc(replyLast, []string{}))
		}
	})
	s := f.open()
	for range 5 {
		askValid(t, s)
	}
}

// TestPoolUnasked does not use a connection on which something came that nobody asked for.
func TestPoolUnasked(t *testing.T) {
	testkit.CheckLeaks(t)
	f := startFake(t, nil)
	said := make(chan struct{})
	f.serve = func(n int, c net.Conn) {
		if n == 1 {
			_, _ = c.Write(enc(replyNext, "boo"))
			close(said)
			_, _ = io.Copy(io.Discard, c)
			return
		}
		answerValid(n, c)
	}
	s := f.open()
	<-said
	askValid(t, s)
	if n := f.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// TestWarmACL makes another helper when the ACL has changed.
func TestWarmACL(t *testing.T) {
	testkit.CheckLeaks(t)
	var s *Store
	f := startFake(t, func(_ int, c net.Conn) {
		trial, err := s.trial()
		if err != nil {
			t.Error(err)
			return
		}
		play(t, step{enc(opImportPaths), enc(replyRead, chunkSize)}, step{enc(trial.String()), enc(replyError, "corrupt signature data: (signature)\n", 1)})(0, c)
	})
	s, err := New(Options{Socket: f.socket, ConfigDir: filepath.Dir(f.socket)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	acl := filepath.Join(filepath.Dir(f.socket), "acl")
	for i, text := range []string{"", "", "(acl)", "", "(acl ())"} {
		if text != "" {
			if err := os.WriteFile(acl, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Warm(soon(t)); err != nil {
			t.Error(err)
		}
		if want := []int64{1, 1, 2, 2, 3}[i]; f.conns.Load() != want {
			t.Errorf("call %d: %d connections, want %d", i, f.conns.Load(), want)
		}
	}
}

// TestLeases counts the connections of leases, which renew themselves.
func TestLeases(t *testing.T) {
	testkit.CheckLeaks(t)
	request := enc(opAddTempRoot, nothing)
	f := startFake(t, nil)
	lost, gone := make(chan struct{}), make(chan struct{})
	f.serve = func(n int, c net.Conn) {
		for i := 0; expect(t, c, request); i++ {
			if _, err := c.Write(enc(replyLast, 1)); err != nil {
				return
			}
			if n == 1 && i == 0 {
				<-lost
				c.Close()
				close(gone)
				return
			}
		}
	}
	s, err := New(Options{Socket: f.socket})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var all []store.Lease
	for range 3 {
		l, err := s.Lease(soon(t), "test")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Add(soon(t), nothing); err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			close(lost)
			<-gone
		}
		all = append(all, l)
	}
	if n := f.conns.Load(); n != 2 {
		t.Errorf("%d connections for three leases, one of which was lost, want 2", n)
	}
	for _, l := range all {
		if err := l.Release(); err != nil {
			t.Error(err)
		}
		if err := l.Add(soon(t), wireText); err == nil {
			t.Error("a lease that is released took something")
		}
	}
}

func TestBuildLogSplit(t *testing.T) {
	const drv = "/gnu/store/00000000000000000000000000000000-x.drv"
	text := "@ build-started " + drv + " - x86_64-linux /log 12\n@ build-log 12 9\nhello\nend" +
		"note: keeping build directory `/tmp/kept'\n@ build-log 12 0\n" +
		"@ hash-mismatch /gnu/store/x sha256 aaa bbb\n@ build-failed " + drv + " - 1 it failed\n"
	for cut := range len(text) {
		var out bytes.Buffer
		told := ""
		l := buildLog{derivation: drv, out: &out, begun: func(s string) { told = s }}
		l.write([]byte(text[:cut]))
		l.write([]byte(text[cut:]))
		l.end()
		if out.String() != "hello\nend" || l.keptIn != "/tmp/kept" || l.mismatch != "expected sha256:aaa, got sha256:bbb" || l.failed == nil || l.failed.message != "it failed" || l.started.IsZero() || told != "x86_64-linux /log 12" {
			t.Fatalf("cut at %d: %q, %+v", cut, &out, l)
		}
	}
}

func TestChoose(t *testing.T) {
	now := time.Now()
	old, young := now.Add(-2*time.Hour), now
	item := func(name string, at time.Time, refs ...string) *store.Info {
		path := func(n string) store.Path {
			return store.Path("/gnu/store/" + strings.Repeat("0", store.HashPartLen) + "-" + n)
		}
		i := &store.Info{Path: path(name), Registered: at}
		for _, r := range refs {
			i.References = append(i.References, path(r))
		}
		return i
	}
	dead := []*store.Info{item("a", old), item("b", old, "a"), item("c", young, "b"), item("d", old), item("e", old, "d", "e")}
	for _, tt := range []struct {
		name string
		opts store.GCOptions
		kept map[store.Path]bool
		want string
	}{
		{"all", store.GCOptions{}, nil, "e d c b a"},
		{"old", store.GCOptions{OlderThan: time.Hour}, nil, "e d"},
		{"one", store.GCOptions{Paths: []store.Path{dead[0].Path}}, nil, "c b a"},
		{"one that is old", store.GCOptions{Paths: []store.Path{dead[0].Path, dead[4].Path}, OlderThan: time.Hour}, nil, "e"},
		{"but one that is kept", store.GCOptions{}, map[store.Path]bool{dead[1].Path: true}, "e d c"},
	} {
		var got []string
		for _, i := range choose(dead, tt.opts, now, tt.kept) {
			got = append(got, i.Path.Name())
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestVerifyWords(t *testing.T) {
	s := &Store{dir: store.DefaultDir}
	for line, want := range map[string]store.VerifyProblem{
		"reading the store...":       {},
		"checking path existence...": {},
		"checking hashes...":         {},
		"path `" + string(nothing) + "' was modified! expected hash `a', got `b'": {Path: nothing, Problem: "was modified! expected hash `a', got `b'"},
		"path `" + string(nothing) + "' disappeared, removing from database...":   {Path: nothing, Problem: "disappeared, removing from database..."},
		"something \x1b[31m else": {Problem: "something ?[31m else"},
	} {
		got, ok := s.problem(line)
		if got != want || ok != (want.Problem != "") {
			t.Errorf("%q: %+v, %v", line, got, ok)
		}
	}
}

func TestErrorWords(t *testing.T) {
	for message, want := range map[string]error{
		"unauthorized public key: (public-key \n (ecc": store.ErrUnauthorized,
		"signed hash doesn't match actual contents of imported archive; archive could be corrupt, or someone is trying to import a Trojan horse": store.ErrCorrupt,
		"path `" + string(nothing) + "' is not valid":                     store.ErrNotValid,
		"writing to file `/gnu/store/x': No space left on device":         syscall.ENOSPC,
		"imported archive of `" + string(nothing) + "' lacks a signature": store.ErrCorrupt,
	} {
		err := error(&Error{Message: message, Status: 1})
		for _, e := range []error{store.ErrUnauthorized, store.ErrCorrupt, store.ErrNotValid, syscall.ENOSPC} {
			if errors.Is(err, e) != errors.Is(want, e) {
				t.Errorf("%q: Is(%v) = %v", message, e, errors.Is(err, e))
			}
		}
		if strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q is not printable", err)
		}
	}
}
