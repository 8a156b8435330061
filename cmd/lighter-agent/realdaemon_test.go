//go:build guixlab

package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lighter/internal/agentapi"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/daemon"
	"lighter/store/derivation"
)

// needDaemon returns the socket of a real guix-daemon and a key that it accepts;
// realOptions in package store/daemon has the variables.
func needDaemon(t *testing.T) (string, *signature.PrivateKey) {
	t.Helper()
	socket, file := os.Getenv("LIGHTER_GUIX_DAEMON"), os.Getenv("LIGHTER_GUIX_KEY")
	if socket == "" {
		socket = daemon.DefaultSocket
	}
	if file == "" {
		file = "/etc/guix/signing-key.sec"
	}
	key, err := signature.LoadPrivateKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return socket, key
}

// item is an item of an archive.
type item struct {
	nar.Item
	contents []byte // its NAR
}

func archive(t *testing.T, key *signature.PrivateKey, items ...item) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewArchiveWriter(&b)
	for _, it := range items {
		write := func(w io.Writer) error {
			_, err := w.Write(it.contents)
			return err
		}
		if err := w.WriteItem(&it.Item, write, key.Sign); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// packed returns a file or folder as an item.
func packed(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := nar.Pack(&b, name); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// shellItem is a busybox that is a shell.
func shellItem(t *testing.T) item {
	t.Helper()
	file := os.Getenv("LIGHTER_GUIX_BUSYBOX")
	if file == "" {
		file = "/bin/busybox"
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "sh")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "sh"), text, 0o755); err != nil { // a busybox goes by its name
		t.Fatal(err)
	}
	it := item{contents: packed(t, folder)}
	hash, _, err := nar.Hash(folder)
	if err != nil {
		t.Fatal(err)
	}
	if it.Path, err = store.DefaultDir.SourcePath("sh", hash); err != nil {
		t.Fatal(err)
	}
	return it
}

// derived is a new derivation, as a request and as an item.
func derived(t *testing.T, system string, sh store.Path, script string) (*agentapi.BuildRequest, item) {
	t.Helper()
	d := &derivation.Derivation{
		Outputs: []derivation.Output{{Name: "out"}}, Sources: []store.Path{sh}, System: system, Builder: string(sh) + "/sh", Args: []string{"-c", script},
		Env: []derivation.EnvVar{{Name: "nonce", Value: rand.Text()}, {Name: "out"}},
	}
	if err := d.Fill(store.DefaultDir, "agent", nil); err != nil {
		t.Fatal(err)
	}
	path, err := d.Path(store.DefaultDir, "agent")
	if err != nil {
		t.Fatal(err)
	}
	req := &agentapi.BuildRequest{
		Attempt: 1, Derivation: path, Text: d.Marshal(), Inputs: []store.Path{path, sh}, Outputs: []store.Path{d.Outputs[0].Path},
		MaxSilentTime: 3600,
	}
	file := filepath.Join(t.TempDir(), "drv")
	if err := os.WriteFile(file, req.Text, 0o600); err != nil {
		t.Fatal(err)
	}
	it := item{contents: packed(t, file)}
	it.Path, it.References = path, []store.Path{sh}
	return req, it
}

// TestDaemon has the real agent build with a real guix-daemon.
func TestDaemon(t *testing.T) {
	socket, key := needDaemon(t)
	h := newHost(t)
	h.start("", "--daemon-socket", socket)
	client := h.client()
	m, err := client.Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.StoreKind != "guix-daemon" || !m.NeedsDerivations || m.BuildProblem != "" || m.FreeDisk == 0 || m.PublicKey == "" {
		t.Errorf("machine: %+v", m)
	}
	if m.AcceptsKeys != nil && !slices.Contains(m.AcceptsKeys, key.Public().Fingerprint()) {
		t.Errorf("accepted keys: %q lack %s", m.AcceptsKeys, key.Public().Fingerprint())
	}
	acl := new(signature.ACL)
	own, err := signature.ParsePublicKey([]byte(m.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	acl.Add(own)
	sh := shellItem(t)
	if _, err := client.Import(t.Context(), archive(t, key, sh)); err != nil {
		t.Fatalf("import: %v", err)
	}
	for _, id := range []string{"first", "second", "third", "fourth"} {
		req, drv := derived(t, m.Systems[0], sh.Path, "echo building; echo made > $out")
		began := time.Now()
		lap := func() time.Duration {
			d := time.Since(began)
			began = time.Now()
			return d.Round(10 * time.Microsecond)
		}
		status, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: id}, req)
		if err != nil || status.State != agentapi.Rooted || !slices.Equal(status.Missing, []store.Path{drv.Path}) {
			t.Fatalf("put: %+v, %v", status, err)
		}
		put := lap()
		if _, err := client.Import(t.Context(), archive(t, key, drv)); err != nil {
			t.Fatalf("import: %v", err)
		}
		imported := lap()
		if status, err = client.PutBuild(t.Context(), &agentapi.Asked{ID: id}, req); err != nil || status.State != agentapi.Running {
			t.Fatalf("put: %+v, %v", status, err)
		}
		var log bytes.Buffer
		status, err = client.Log(t.Context(), &agentapi.Asked{ID: id}, 0, &log)
		if err != nil || status.State != agentapi.Succeeded || log.String() != "building\n" {
			t.Fatalf("log %q, then %+v, %v", log.String(), status, err)
		}
		built := lap()
		fetchSigned(t, client, acl, req.Outputs[0])
		t.Logf("%s: put %v, import %v, put until built %v, export %v", id, put, imported, built, lap())
		if err := client.DeleteBuild(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if text, err := h.run("", "authorize", "/dev/null", "--daemon-socket", socket); err == nil || !strings.Contains(text, "guix archive --authorize") {
		t.Errorf("authorize: %v: %s", err, text)
	}
}

// TestMeasured has a real agent say what a build used that has 256 MiB, which the shell copies to double it, and takes
// 2 s of processor time, in both kinds of store.
func TestMeasured(t *testing.T) {
	socket, key := needDaemon(t)
	const script = `x=0123456789abcdef; i=0
while [ $i -lt 24 ]; do x=$x$x; i=$((i+1)); done
u=0
while [ $u -lt 200 ]; do
	i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done
	read -r _ _ _ _ _ _ _ _ _ _ _ _ _ user system _ < /proc/$$/stat
	u=$((user+system))
done
echo ${#x} > $out`
	for name, flags := range map[string][]string{
		"guix-daemon": {"--store=guix-daemon", "--daemon-socket=" + socket},
		"local":       {"--store=local"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.start(`{"authorize": [`+strconv.Quote(key.Public().String())+`]}`, flags...)
			client := h.client()
			m, err := client.Machine(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sh := shellItem(t)
			req, drv := derived(t, m.Systems[0], sh.Path, script)
			if _, err := client.Import(t.Context(), archive(t, key, sh, drv)); err != nil {
				t.Fatal(err)
			}
			asked := &agentapi.Asked{ID: "measured"}
			if status, err := client.PutBuild(t.Context(), asked, req); err != nil || status.State != agentapi.Running {
				t.Fatalf("put: %+v, %v", status, err)
			}
			status, err := client.Log(t.Context(), asked, 0, io.Discard)
			if err != nil || status.State != agentapi.Succeeded || status.Measured == nil {
				t.Fatalf("%+v, %v", status, err)
			}
			used := status.Measured
			t.Logf("%+v, own load %g of %g", used, m.OwnLoad, m.Load)
			if used.CPU < 2 || used.CPU > 120 || used.PeakMemory < 256<<20 || used.PeakMemory > 1200<<20 || used.Method == "" {
				t.Errorf("got %+v", used)
			}
			if used.Method != store.MeasuredCgroup && !strings.Contains(used.Unmeasured, "no control group: ") {
				t.Errorf("got %+v", used)
			}
		})
	}
}

// fetchSigned checks the signature of what the agent exports.
func fetchSigned(t *testing.T, client *agentapi.Client, acl *signature.ACL, path store.Path) {
	t.Helper()
	body, err := client.Export(t.Context(), []store.Path{path})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	r := nar.NewArchiveReader(body, store.DefaultDir)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	it, err := r.Item()
	if err != nil || it.Path != path {
		t.Fatalf("export: %+v, %v", it, err)
	}
	if _, err := acl.Check(it.Signature, it.SignedHash); err != nil {
		t.Error(err)
	}
}
