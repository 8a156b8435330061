//go:build guixlab

package guixlab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/daemon"
	"lighter/store/derivation"
	"lighter/store/local"
	"lighter/store/substitute"
)

// builderAddress is builder1's, which guix publish listens on.
const builderAddress = "127.0.1.11"

// openStoreOf opens the store of a machine's guix-daemon from here.
func openStoreOf(t *testing.T, m Machine) *Head {
	t.Helper()
	root, err := m.Root()
	if err != nil {
		t.Fatal(err)
	}
	s, err := daemon.Open(t.Context(), daemon.Options{Socket: filepath.Join(root, Socket), PhysicalDir: filepath.Join(root, "gnu/store")})
	if err != nil {
		t.Fatal(err)
	}
	h := &Head{Store: s, drvs: make(map[store.Path]*derivation.Derivation)}
	t.Cleanup(func() { h.Close() })
	if h.Busybox, err = h.addBusybox(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// substituting has guix-daemon substitute, if a client says from where.
const substituting = "LAB_SUBSTITUTES=--substitute-urls="

// openHead opens the head's store, with a guix-daemon that substitutes.
func openHead(t *testing.T) *Head {
	t.Helper()
	if err := RestartDaemon([]string{substituting}); err != nil {
		t.Fatal(err)
	}
	h, err := OpenHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// made adds a derivation and builds it where it is.
func (h *Head) made(t *testing.T, r Recipe) (drv, out store.Path) {
	t.Helper()
	drv, err := h.Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	result, err := h.Store.Build(t.Context(), &store.BuildRequest{Derivation: drv})
	if err != nil {
		t.Fatal(err)
	}
	return drv, result.Outputs["out"].Path
}

// child starts a process that ends with the test.
func child(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
}

// lighter runs lighter, which must succeed.
func lighter(t *testing.T, args ...string) string {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), Programs+"/lighter", args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("lighter %s: %v: %s", strings.Join(args, " "), err, said.String())
	}
	return string(out)
}

// servePublished runs "lighter publish" and returns its URL.
func servePublished(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command(Programs+"/lighter", "publish", "--dir", dir, "--listen", "127.0.1.1:0", "--log-level", "debug")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd.Stderr = &log
	child(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("lighter publish:\n%s", log.String())
		}
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(url)
}

// A real Guix substitutes from "lighter publish" what "lighter publish add" has published.
func TestGuixSubstitutesFromLighter(t *testing.T) {
	h := openHead(t)
	m := Machine{"builder1"}
	if _, err := m.Run(t.Context(), substituting+" bash /lab/script service daemon"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := m.Run(context.WithoutCancel(t.Context()), "bash /lab/script service daemon"); err != nil {
			t.Error(err)
		}
	})
	for _, compression := range []string{"zstd", "gzip", "none"} {
		t.Run(compression, func(t *testing.T) {
			if _, err := os.Stat("/usr/share/guile/site/3.0/zstd.scm"); compression == "zstd" && errors.Is(err, fs.ErrNotExist) {
				t.Fatal("the lab's base has no guile-zstd: make guix-lab-down, and up again")
			}
			name := unique("published")
			_, lib := h.made(t, Recipe{Name: name + "-lib", Script: "echo library > $out"})
			_, out := h.made(t, Recipe{Name: name, Script: "mkdir $out; ln -s " + string(lib) + " $out/lib; seq 1 100000 > $out/numbers", Sources: []store.Path{lib}})
			dir := t.TempDir()
			written := lighter(t, "publish", "add", "--store=guix-daemon", "--compression", compression, "--to", dir, string(out))
			contains(t, written, string(lib), string(out))
			url := servePublished(t, dir)
			script := fmt.Sprintf("test ! -e %[2]s && guix build --substitute-urls=%[1]s %[2]s && cat %[2]s/lib && wc -l < %[2]s/numbers && guix gc --references %[2]s", url, out)
			said, err := m.Run(t.Context(), script)
			if err != nil {
				t.Fatal(err)
			}
			contains(t, said, "library\n", "100000\n", string(lib)+"\n")
		})
	}
}

// guixPublish runs "guix publish" on builder1 and returns its URL.
func guixPublish(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", builderAddress+":0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd, err := Machine{"builder1"}.Command(t.Context(), "exec guix publish --listen="+builderAddress+" --port="+port+" --compression=gzip --compression=zstd")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	child(t, cmd)
	await(t, func() string {
		c, err := net.Dial("tcp", net.JoinHostPort(builderAddress, port))
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			return "guix publish does not listen: " + err.Error()
		}
		c.Close()
		return ""
	})
	return "http://" + net.JoinHostPort(builderAddress, port)
}

// remote is a derivation on builder1 of which the head has nothing, with an item of each
// kind in its closure.
type remote struct {
	drv     store.Path
	output  store.Path
	closure []store.Path
}

func newRemote(t *testing.T, head *Head) remote {
	t.Helper()
	b := openStoreOf(t, Machine{"builder1"})
	name := unique("remote")
	ctx := t.Context()
	text, err := b.Store.AddText(ctx, name+"-text", []byte("a text "+name), []store.Path{b.Busybox})
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	content := []byte("a flat file " + name)
	w := nar.NewWriter(&file)
	if err := errors.Join(w.WriteHeader(&nar.Header{Kind: nar.Regular, Size: int64(len(content))}), second(w.Write(content)), w.Close()); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	flat, err := b.Store.Dir().FixedOutputPath(name+"-flat", false, "sha256", digest[:])
	if err != nil {
		t.Fatal(err)
	}
	info := &store.Info{Path: flat, NARHash: sha256.Sum256(file.Bytes()), NARSize: int64(file.Len())}
	if err := b.Store.AddSubstitute(ctx, info, &file); err != nil {
		t.Fatal(err)
	}
	// What a build made, in the place of a source: it is not named after its contents.
	input, built := b.made(t, Recipe{Name: name + "-built", Script: "echo built > $out"})
	drv, err := b.Add(ctx, Recipe{
		Name: name, Inputs: []store.Path{input}, Sources: []store.Path{text, flat, built},
		Script: fmt.Sprintf("cat %s %s %s > $out", text, flat, built),
	})
	if err != nil {
		t.Fatal(err)
	}
	infos, err := store.Closure(ctx, b.Store, []store.Path{drv})
	if err != nil {
		t.Fatal(err)
	}
	r := remote{drv: drv, output: b.Output(drv, "out")}
	for _, info := range infos {
		r.closure = append(r.closure, info.Path)
	}
	missing, err := store.Missing(ctx, head.Store, r.closure)
	if err != nil || len(missing) < 5 {
		t.Fatalf("the head lacks only %s (%v)", missing, err)
	}
	return r
}

func second(_ int, err error) error { return err }

// client asks one server.
func client(t *testing.T, url string, acl func() (*signature.ACL, error)) *substitute.Client {
	t.Helper()
	c, err := substitute.New(substitute.Options{URLs: []string{url}, ACL: acl})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A derivation comes with its closure from a real guix publish into the store of the head's
// guix-daemon, and can be built there.
func TestDerivationFromGuixPublish(t *testing.T) {
	h := openHead(t)
	url := guixPublish(t)
	r := newRemote(t, h)

	nobody := func() (*signature.ACL, error) { return new(signature.ACL), nil }
	fetched, err := client(t, url, nobody).FetchClosure(t.Context(), h.Store, []store.Path{r.drv})
	if !errors.Is(err, store.ErrUnauthorized) || len(fetched) > 0 {
		t.Fatalf("without the key: fetched %s, %v", fetched, err)
	}
	contains(t, err.Error(), string(r.drv), url)

	c := client(t, url, h.Store.ACL)
	if fetched, err = c.FetchClosure(t.Context(), h.Store, []store.Path{r.drv}); err != nil {
		t.Fatal(err)
	}
	if len(fetched) < 5 || !slices.Contains(fetched, r.drv) {
		t.Errorf("fetched only %s", fetched)
	}
	if missing, err := store.Missing(t.Context(), h.Store, r.closure); err != nil || len(missing) > 0 {
		t.Errorf("missing: %s, %v", missing, err)
	}
	if _, err := h.Store.Build(t.Context(), &store.BuildRequest{Derivation: r.drv}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(string(r.output))
	if err != nil || !strings.HasSuffix(string(text), "built\n") {
		t.Errorf("its output has %q, %v", text, err)
	}

	absent, err := store.DefaultDir.TextPath("absent", []byte(unique("x")), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.FetchClosure(t.Context(), h.Store, []store.Path{absent})
	var missing *substitute.MissingError
	if !errors.As(err, &missing) || !missing.Certain() || missing.Path != absent {
		t.Errorf("got %v", err)
	}
}

// The same into lighter's own store, which takes each item by itself.
func TestDerivationFromGuixPublishIntoLocal(t *testing.T) {
	h := openHead(t)
	url := guixPublish(t)
	r := newRemote(t, h)
	s, err := local.Open(local.Options{Root: t.TempDir(), Dir: store.DefaultDir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fetched, err := client(t, url, h.Store.ACL).FetchClosure(t.Context(), s, []store.Path{r.drv})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(fetched)
	slices.Sort(r.closure)
	if !slices.Equal(fetched, r.closure) {
		t.Errorf("fetched %s, want %s", fetched, r.closure)
	}
	if err := s.Verify(t.Context(), true, func(p store.VerifyProblem) { t.Errorf("%+v", p) }); err != nil {
		t.Error(err)
	}
}
