package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/agentapi"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/storetest"
)

// storeAccepting returns an empty store that accepts what the other one signs.
func storeAccepting(s, signer *fakeStore) store.Importer {
	acl := new(signature.ACL)
	acl.Add(signer.key.Public())
	return storetest.NewMemory(store.DefaultDir, s.key, acl)
}

func TestItems(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	a, b, c := source(t, "a"), source(t, "b"), source(t, "c")
	for _, item := range []struct {
		path store.Path
		refs []store.Path
	}{{a, nil}, {b, []store.Path{a}}} {
		if err := s.add(t.Context(), item.path, "x", item.refs); err != nil {
			t.Fatal(err)
		}
	}
	missing, err := r.client.Missing(t.Context(), []store.Path{c, a, b})
	if diff := cmp.Diff([]store.Path{c}, missing); diff != "" || err != nil {
		t.Errorf("missing: %v (-want +got):\n%s", err, diff)
	}
	infos, err := r.client.Closure(t.Context(), []store.Path{b})
	if err != nil || len(infos) != 2 || infos[0].Path != a || infos[1].Path != b {
		t.Errorf("closure: %v, %v", infos, err)
	}
	_, err = r.client.Closure(t.Context(), []store.Path{c})
	wantCode(t, err, 404, agentapi.CodeNotValid)
	if !errors.Is(err, store.ErrNotValid) {
		t.Errorf("%v is not store.ErrNotValid", err)
	}
	_, err = r.client.Export(t.Context(), []store.Path{a, c})
	wantCode(t, err, 404, agentapi.CodeNotValid)
	if len(s.Leases()) != 0 {
		t.Errorf("leases: %q", s.Leases())
	}
}

func TestImportRefused(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	path := source(t, "x")
	content := strings.Repeat("x", 100_000)
	good, err := s.archive(path, content, nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := newFakeStore(t).archive(path, content, nil)
	if err != nil {
		t.Fatal(err)
	}
	refers, err := s.archive(path, content, []store.Path{source(t, "absent")})
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[50_000] ^= 1
	for _, tt := range []struct {
		name    string
		archive []byte
		status  int
		code    string
	}{
		{"empty", nil, 422, agentapi.CodeCorrupt},
		{"truncated", good[:50_000], 422, agentapi.CodeCorrupt},
		{"flipped", flipped, 422, agentapi.CodeCorrupt},
		{"of a stranger", stranger, 403, agentapi.CodeUnauthorized},
		{"refers to what is not there", refers, 404, agentapi.CodeNotValid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.client.Import(t.Context(), bytes.NewReader(tt.archive))
			wantCode(t, err, tt.status, tt.code)
			if valid, err := store.IsValid(t.Context(), s, path); valid || err != nil {
				t.Errorf("the item is valid: %v, %v", valid, err)
			}
		})
	}
	_, err = r.client.Import(t.Context(), bytes.NewReader(append(bytes.Clone(good), "tail"...)))
	wantCode(t, err, 422, agentapi.CodeCorrupt)
	if infos, err := r.client.Import(t.Context(), bytes.NewReader(good)); err != nil || len(infos) != 1 {
		t.Errorf("good: %v, %v", infos, err)
	}
}

// endless never ends, as an upload that is far from done.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestImportDiskFull shows that an error reaches who is still sending.
func TestImportDiskFull(t *testing.T) {
	s := newFakeStore(t)
	s.importer = func(_ context.Context, r io.Reader) ([]*store.Info, error) {
		if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
			return nil, err
		}
		return nil, &os.PathError{Op: "write", Path: "/store/x", Err: syscall.ENOSPC}
	}
	r := start(t, s)
	for range 3 {
		_, err := r.client.Import(t.Context(), endless{})
		wantCode(t, err, 507, agentapi.CodeDiskFull)
	}
}

// TestImportSenderGone shows that an upload that breaks off ends the import.
func TestImportSenderGone(t *testing.T) {
	s := newFakeStore(t)
	ended := make(chan error, 1)
	s.importer = func(_ context.Context, r io.Reader) ([]*store.Info, error) {
		_, err := io.Copy(io.Discard, r)
		ended <- err
		return nil, err
	}
	r := start(t, s)
	broken := errors.New("the head's disk is broken")
	body := io.MultiReader(strings.NewReader("start"), readerFunc(func([]byte) (int, error) { return 0, broken }))
	if _, err := r.client.Import(t.Context(), body); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the store took a broken upload for a whole one")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestExportBreaks shows that an archive that breaks off does not look complete.
func TestExportBreaks(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	path := source(t, "x")
	if err := s.add(t.Context(), path, "x", nil); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("disk on fire")
	for _, size := range []int{0, 10, archiveBuffer, 3 * archiveBuffer} {
		s.exporter = func(_ context.Context, w io.Writer, _ []store.Path) error {
			if _, err := w.Write(make([]byte, size)); err != nil {
				return err
			}
			return broken
		}
		body, err := r.client.Export(t.Context(), []store.Path{path})
		if err != nil {
			// Nothing was sent yet: then the error itself can be.
			wantCode(t, err, 500, "")
			continue
		}
		if _, err := io.Copy(io.Discard, body); err == nil {
			t.Errorf("%d bytes and an error look like a whole archive", size)
		}
		body.Close()
	}
}

func TestBadRequests(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	good := request(t, 1, "a", "")
	drv, out := string(good.Derivation), string(good.Outputs[0])
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		want                     string // in the message
	}{
		{"unknown path", "GET", "/v1/nothing", "", 404, "no such request"},
		{"unknown method", "PATCH", "/v1/builds/b", "", 404, "no such request"},
		{"dots", "GET", "/v1/builds/..%2f..%2fetc", "", 400, "build id"},
		{"hidden", "GET", "/v1/builds/.b", "", 400, "build id"},
		{"long id", "GET", "/v1/builds/" + strings.Repeat("b", 65), "", 400, "build id"},
		{"no JSON", "PUT", "/v1/builds/b", "x", 400, "invalid character"},
		{"no body", "PUT", "/v1/builds/b", "", 400, "body"},
		{"two bodies", "PUT", "/v1/builds/b", "{} {}", 400, "more after the end"},
		{"wrong type", "PUT", "/v1/builds/b", `{"attempt":"one"}`, 400, "attempt"},
		{"bad path", "PUT", "/v1/builds/b", `{"attempt":1,"derivation":"/etc/passwd"}`, 400, "/etc/passwd"},
		{"no attempt", "PUT", "/v1/builds/b", `{"derivation":"` + drv + `","outputs":["` + out + `"]}`, 400, "attempt 0"},
		{"no derivation", "PUT", "/v1/builds/b", `{"attempt":1,"derivation":"` + out + `","outputs":["` + out + `"]}`, 400, "derivation"},
		{"no outputs", "PUT", "/v1/builds/b", `{"attempt":1,"derivation":"` + drv + `"}`, 400, "outputs"},
		{"other store", "PUT", "/v1/builds/b", `{"attempt":1,"derivation":"` + drv + `","outputs":["/nix` + strings.TrimPrefix(out, "/gnu") + `"]}`, 400, "not in the store"},
		{"empty input", "PUT", "/v1/builds/b", `{"attempt":1,"derivation":"` + drv + `","outputs":["` + out + `"],"inputs":[""]}`, 400, "without a name"},
		{"negative timeout", "PUT", "/v1/builds/b", `{"attempt":1,"derivation":"` + drv + `","outputs":["` + out + `"],"timeout":-1}`, 400, "timeout"},
		{"bad text", "PUT", "/v1/builds/b", `{"attempt":1,"derivation":"` + drv + `","outputs":["` + out + `"],"text":"aGVsbG8="}`, 400, "text of"},
		{"bad offset", "GET", "/v1/builds/known/log?offset=x", "", 400, "offset"},
		{"other store's item", "POST", "/v1/missing", `{"paths":["/nix/store/00000000000000000000000000000000-x"]}`, 400, "not in the store"},
		{"no name of a text", "POST", "/v1/add-text", `{"content":"eA=="}`, 400, "name"},
		{"slash in the name of a text", "POST", "/v1/add-text", `{"name":"../x","content":"eA=="}`, 400, "../x"},
		{"long text", "POST", "/v1/add-text", `{"name":"x","content":"` + strings.Repeat("AAAA", 22<<10) + `"}`, 400, "more than"},
		{"negative gc", "POST", "/v1/gc", `{"maxFreed":-1}`, 400, "negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "bad offset" {
				r.put("known", good)
				r.follow("known", 0)
			}
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("got %d %s, want %d and %q", w.Code, w.Body, tt.status, tt.want)
			}
		})
	}
	text := append([]byte(nil), good.Text...)
	req := *good
	req.Outputs, req.Text = []store.Path{source(t, "another")}, text
	_, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "b"}, &req)
	wantCode(t, err, 400, agentapi.CodeBadRequest)
	if len(s.Leases()) != 1 {
		t.Errorf("leases of refused builds: %q", s.Leases())
	}
}

func TestLongRequest(t *testing.T) {
	r := start(t, newFakeStore(t))
	w := httptest.NewRecorder()
	body := io.MultiReader(strings.NewReader(`{"text":"`), io.LimitReader(readerFunc(func(p []byte) (int, error) {
		return copy(p, bytes.Repeat([]byte("A"), len(p))), nil
	}), maxRequest))
	r.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/v1/builds/b", body))
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// plainStore can do nothing but say what it has.
type plainStore struct{ store.Store }

func TestStoreWithoutAbilities(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s, func(o *Options) { o.Store = plainStore{s} })
	_, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "b"}, request(t, 1, "a", ""))
	wantCode(t, err, 501, "")
	_, err = r.client.Import(t.Context(), strings.NewReader(""))
	wantCode(t, err, 501, "")
	_, err = r.client.Export(t.Context(), nil)
	wantCode(t, err, 501, "")
	_, err = r.client.CollectGarbage(t.Context(), &agentapi.GCRequest{})
	wantCode(t, err, 501, "")
	_, err = r.client.AddText(t.Context(), "x", nil)
	wantCode(t, err, 501, "")
}

func TestAddText(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	info, err := r.client.AddText(t.Context(), "nonce", []byte("twenty-seven"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := store.DefaultDir.TextPath("nonce", []byte("twenty-seven"), nil)
	if err != nil || info.Path != want || info.NARSize == 0 || len(info.References) > 0 {
		t.Errorf("got %+v, want %s, %v", info, want, err)
	}
	archive, err := r.client.Export(t.Context(), []store.Path{info.Path})
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if infos, err := storeAccepting(newFakeStore(t), s).Import(t.Context(), archive, store.ImportOptions{}); err != nil || len(infos) != 1 {
		t.Errorf("import of the export: %v, %v", infos, err)
	}
	if len(s.Leases()) != 0 {
		t.Errorf("leases: %q", s.Leases())
	}
}

// TestPanic shows that a mistake in one request leaves the agent alive.
func TestPanic(t *testing.T) {
	s := newFakeStore(t)
	s.importer = func(context.Context, io.Reader) ([]*store.Info, error) { panic("at the disco") }
	r := start(t, s)
	var answer *agentapi.Error
	if _, err := r.client.Import(t.Context(), strings.NewReader("x")); err == nil || errors.As(err, &answer) {
		t.Errorf("got %v", err)
	}
	if _, err := r.client.Machine(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMachine(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	m, err := r.client.Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.Protocol != agentapi.Protocol || m.Version != "test" || m.PID != os.Getpid() || m.StoreKind != "local" || m.StoreDir != store.DefaultDir {
		t.Errorf("got %+v", m)
	}
	if !strings.HasPrefix(m.Kernel, "Linux ") || m.Hostname == "" || m.Cores != runtime.NumCPU() || m.FreeDisk <= 0 || m.FreeMemory <= 0 || m.PublicKey == "" {
		t.Errorf("got %+v", m)
	}
}

// problemStore cannot build.
type problemStore struct{ *fakeStore }

func (problemStore) BuildProblem() error { return errors.New("no user namespaces") }

func TestBuildProblem(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s, func(o *Options) { o.Store = problemStore{s} })
	if m, err := r.client.Machine(t.Context()); err != nil || m.BuildProblem != "no user namespaces" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestSystems(t *testing.T) {
	for _, tt := range []struct {
		arch string
		both bool
		want []string
	}{
		{"x86_64", true, []string{"x86_64-linux", "i686-linux"}},
		{"i586", true, []string{"i686-linux"}},
		{"aarch64", true, []string{"aarch64-linux", "armhf-linux"}},
		{"aarch64", false, []string{"aarch64-linux"}},
		{"armv7l", true, []string{"armhf-linux"}},
		{"ppc64le", true, []string{"powerpc64le-linux"}},
		{"riscv64", true, []string{"riscv64-linux"}},
	} {
		if diff := cmp.Diff(tt.want, systems(tt.arch, func() bool { return tt.both })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.arch, diff)
		}
	}
	runs32Bit() // what it says depends on the processor
}

func TestProc(t *testing.T) {
	if got := load("0.52 0.58 0.59 2/1165 12345\n"); got != 0.52 {
		t.Errorf("load %v", got)
	}
	if got := memory("MemTotal:  16303428 kB\nMemFree:  1024 kB\nMemAvailable:    2048 kB\n", "MemAvailable:"); got != 2<<20 {
		t.Errorf("memory %d", got)
	}
	if got := uptime("350735.47 234388.90\n"); got != 350735.47 {
		t.Errorf("uptime %v", got)
	}
	for _, garbage := range []string{"", "x", "MemAvailable: x kB\n", "MemAvailable: 99999999999999999999 kB"} {
		if load(garbage) != 0 || memory(garbage, "MemAvailable:") != 0 || uptime(garbage) != 0 {
			t.Errorf("%q is read as a number", garbage)
		}
	}
}

func TestTrailer(t *testing.T) {
	status := agentapi.BuildStatus{ID: "b", State: agentapi.Failed, Failure: machineFailure(errors.New("a\x7fb\nc\x00é"))}
	text := trailer(status)
	for _, c := range []byte(text) {
		if c < ' ' || c == 0x7f {
			t.Errorf("%q has a control character", text)
		}
	}
	if !strings.Contains(text, `\u007f`) {
		t.Errorf("%q lost a character", text)
	}
}

// FuzzPut shows that no request makes the agent fail.
func FuzzPut(f *testing.F) {
	good := request(f, 1, "a", "nothing")
	text, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("b", text)
	f.Add("..", []byte(`{"attempt":1e99}`))
	f.Add("b", []byte(`{"attempt":1,"derivation":"`+string(good.Derivation)+`","outputs":["`+string(good.Outputs[0])+`"],"inputs":null,"timeout":1e300}`))
	s := newFakeStore(f)
	r := start(f, s, func(o *Options) { o.Logger = slog.New(slog.DiscardHandler) })
	f.Fuzz(func(t *testing.T, id string, body []byte) {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/v1/builds/"+url.PathEscape(id), bytes.NewReader(body)))
		if w.Code >= 500 {
			t.Errorf("%q, %q: %d %s", id, body, w.Code, w.Body)
		}
		for _, at := range r.attempts() {
			if err := r.remove(t.Context(), at.id); err != nil {
				t.Error(err)
			}
		}
	})
}
