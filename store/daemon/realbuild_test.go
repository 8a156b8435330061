//go:build guixlab

package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// busybox adds a busybox with applet links.
func busybox(t testing.TB, s *Store) store.Path {
	t.Helper()
	file := os.Getenv("LIGHTER_GUIX_BUSYBOX")
	if file == "" {
		file = "/bin/busybox"
	}
	program, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "busybox")
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "cat", "mkdir", "sleep", "echo", "dd", "head", "mkfifo", "chmod"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := nar.Pack(&b, dir); err != nil {
		t.Fatal(err)
	}
	path, err := s.AddNAR(t.Context(), "busybox", &b)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// recipe is a derivation to be made.
type recipe struct {
	name    string
	script  string
	outputs []string // "out" if none
	hash    string   // of a fixed output, sha256 in base16
	env     []derivation.EnvVar
}

// derive makes a new derivation, the text of which it returns, and does not add it.
func derive(t testing.TB, s *Store, r recipe) (store.Path, []byte, map[string]store.Path) {
	t.Helper()
	bb := busybox(t, s)
	if r.outputs == nil {
		r.outputs = []string{"out"}
	}
	drv := &derivation.Derivation{
		Sources: []store.Path{bb}, System: map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH],
		Builder: string(bb) + "/bin/sh", Args: []string{"-c", r.script},
		Env: append(r.env, derivation.EnvVar{Name: "PATH", Value: string(bb) + "/bin"}, derivation.EnvVar{Name: "nonce", Value: rand.Text()}),
	}
	for _, name := range r.outputs {
		o := derivation.Output{Name: name}
		if r.hash != "" {
			o.HashAlgorithm, o.Hash = "sha256", r.hash
		}
		drv.Outputs = append(drv.Outputs, o)
		drv.Env = append(drv.Env, derivation.EnvVar{Name: name})
	}
	if err := drv.Fill(s.Dir(), r.name, func(p store.Path) (*derivation.Derivation, error) { return nil, store.NotValid(p) }); err != nil {
		t.Fatal(err)
	}
	text := drv.Marshal()
	path, err := s.Dir().TextPath(r.name+".drv", text, drv.References())
	if err != nil {
		t.Fatal(err)
	}
	return path, text, drv.OutputPaths()
}

func TestRealBuild(t *testing.T) {
	testkit.CheckLeaks(t)
	s := open(t, realOptions(t))
	drv, text, outputs := derive(t, s, recipe{
		name: "two", outputs: []string{"doc", "out"},
		script: `echo first; echo "@ build-failed x - 1 liar"; echo second >&2; echo d > $doc; echo $doc > $out; printf end`,
	})
	var log bytes.Buffer
	got, err := s.Build(t.Context(), &store.BuildRequest{Derivation: drv, Text: text, Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	if want := "first\n@ build-failed x - 1 liar\nsecond\nend"; log.String() != want {
		t.Errorf("log: got %q, want %q", &log, want)
	}
	out := got.Outputs["out"]
	if len(got.Outputs) != 2 || out == nil || out.Path != outputs["out"] || out.Deriver != drv || out.NARSize == 0 || len(out.References) != 1 || out.References[0] != outputs["doc"] {
		t.Errorf("outputs: %+v", got.Outputs)
	}
	if got.AlreadyValid || got.Started.IsZero() || got.Stopped.Before(got.Started) {
		t.Errorf("result: %+v", got)
	}
	again, err := s.Build(t.Context(), &store.BuildRequest{Derivation: drv})
	if err != nil || !again.AlreadyValid || again.Outputs["doc"] == nil {
		t.Errorf("once more: %+v, %v", again, err)
	}
}

func TestRealBuildFailures(t *testing.T) {
	testkit.CheckLeaks(t)
	s := open(t, realOptions(t))
	for _, tt := range []struct {
		name string
		recipe
		req  store.BuildRequest
		want store.BuildError
		says string
	}{
		{name: "exit", recipe: recipe{script: "echo oops; exit 3"}, want: store.BuildError{Failure: store.FailedExit, ExitCode: 3}, says: "exit code 3"},
		{name: "no-output", recipe: recipe{script: "true"}, want: store.BuildError{Failure: store.FailedOutput}, says: "failed to produce output path"},
		{name: "writable", recipe: recipe{script: "echo a > $out; chmod 777 $out"}, want: store.BuildError{Failure: store.FailedOutput}, says: "suspicious ownership"},
		{name: "fifo", recipe: recipe{script: "mkfifo $out"}, want: store.BuildError{Failure: store.FailedOutput}, says: "unsupported type"},
		{name: "hash", recipe: recipe{script: "echo a > $out", hash: strings.Repeat("0", 64)}, want: store.BuildError{Failure: store.FailedHashMismatch}, says: "got sha256:"},
		{name: "folder", recipe: recipe{script: "mkdir $out", hash: strings.Repeat("1", 64)}, want: store.BuildError{Failure: store.FailedOutput}, says: "regular file"},
		{name: "reference", recipe: recipe{script: "echo $PATH > $out", env: []derivation.EnvVar{{Name: "allowedReferences"}}}, want: store.BuildError{Failure: store.FailedReferences}, says: "not allowed to refer"},
		{name: "timeout", recipe: recipe{script: "while :; do echo; sleep 0.2; done"}, req: store.BuildRequest{Timeout: time.Second}, want: store.BuildError{Failure: store.FailedTimeout}, says: "timed out after 1s"},
		{name: "silence", recipe: recipe{script: "sleep 20"}, req: store.BuildRequest{MaxSilentTime: time.Second}, want: store.BuildError{Failure: store.FailedSilence}, says: "1s of silence"},
		// A connection keeps the options of an earlier build; this one has other ones.
		{name: "no-limits", recipe: recipe{script: "sleep 2; exit 4"}, want: store.BuildError{Failure: store.FailedExit, ExitCode: 4}, says: "exit code 4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.recipe.name = "fails-" + tt.name
			drv, text, _ := derive(t, s, tt.recipe)
			tt.req.Derivation, tt.req.Text = drv, text
			_, err := s.Build(t.Context(), &tt.req)
			var got *store.BuildError
			if !errors.As(err, &got) {
				t.Fatalf("Build: %v, want a BuildError", err)
			}
			if got.Failure != tt.want.Failure || got.ExitCode != tt.want.ExitCode || got.Derivation != drv || !strings.Contains(got.Message, tt.says) {
				t.Errorf("got %+v, want %+v that says %q", got, tt.want, tt.says)
			}
		})
	}
}

func TestRealKeepFailed(t *testing.T) {
	s := open(t, realOptions(t))
	drv, text, _ := derive(t, s, recipe{name: "kept", script: "echo here > file; exit 1"})
	_, err := s.Build(t.Context(), &store.BuildRequest{Derivation: drv, Text: text, KeepFailed: true})
	var got *store.BuildError
	if !errors.As(err, &got) || got.KeptIn == "" {
		t.Fatalf("Build: %+v", err)
	}
	direct, _ := filepath.Glob(filepath.Join(got.KeptIn, "file"))
	below, _ := filepath.Glob(filepath.Join(got.KeptIn, "*/file")) // since Guix 1.5
	if len(direct)+len(below) != 1 {
		t.Errorf("%s does not have the build's file", got.KeptIn)
	}
	if err := os.RemoveAll(got.KeptIn); err != nil {
		t.Error(err)
	}
}

func TestRealCheck(t *testing.T) {
	testkit.CheckLeaks(t)
	s := open(t, realOptions(t))
	for _, tt := range []struct {
		name, script string
		differs      bool
	}{{"same", "echo same > $out", false}, {"random", "head -c 8 /dev/urandom > $out", true}} {
		drv, text, outputs := derive(t, s, recipe{name: tt.name, script: tt.script})
		req := &store.BuildRequest{Derivation: drv, Text: text}
		built, err := s.Build(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		req.Check = true
		_, err = s.Build(t.Context(), req)
		var failed *store.BuildError
		if tt.differs != (errors.As(err, &failed) && failed.Failure == store.FailedDifference) || !tt.differs && err != nil {
			t.Errorf("%s, nothing kept: got %v", tt.name, err)
		}
		req.KeepFailed = true
		made := madeBy(req)
		result, err := s.Build(t.Context(), req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		var h nar.Hasher
		_, _ = h.Write(made["out"].Bytes())
		if got := result.Outputs["out"]; result.AlreadyValid || got.NARHash != h.Sum() || (got.NARHash != built.Outputs["out"].NARHash) != tt.differs {
			t.Errorf("%s: made %+v, was %+v", tt.name, got, built.Outputs["out"])
		}
		if info, err := s.Info(t.Context(), outputs["out"]); err != nil || info.NARHash != built.Outputs["out"].NARHash {
			t.Errorf("%s: what is valid has changed: %+v, %v", tt.name, info, err)
		}
	}
}

func TestRealBuildOptions(t *testing.T) {
	s := open(t, realOptions(t))
	drv, text, _ := derive(t, s, recipe{name: "cores", script: "echo $NIX_BUILD_CORES; echo > $out"})
	var log bytes.Buffer
	if _, err := s.Build(t.Context(), &store.BuildRequest{Derivation: drv, Text: text, Cores: 7, Log: &log}); err != nil || log.String() != "7\n" {
		t.Errorf("log %q, %v", &log, err)
	}
	if _, err := s.Build(t.Context(), &store.BuildRequest{Derivation: "/gnu/store/00000000000000000000000000000000-gone.drv"}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("Build of what is not there: %v", err)
	}
}

// TestRealCancel shows that a canceled build's processes are gone soon.
func TestRealCancel(t *testing.T) {
	testkit.CheckLeaks(t)
	s := open(t, realOptions(t))
	mark := "31415." + fmt.Sprint(time.Now().UnixNano()%1e9)
	drv, text, _ := derive(t, s, recipe{name: "slow", script: "echo begun; exec sleep " + mark})
	ctx, cancel := context.WithCancel(t.Context())
	log := writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "begun") {
			time.AfterFunc(100*time.Millisecond, cancel)
		}
		return len(p), nil
	})
	began := time.Now()
	if _, err := s.Build(ctx, &store.BuildRequest{Derivation: drv, Text: text, Log: log}); !errors.Is(err, context.Canceled) {
		t.Fatalf("Build: %v", err)
	}
	t.Logf("returned after %v", time.Since(began))
	for deadline := time.Now().Add(10 * time.Second); processWith(mark); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the builder lives on")
		}
	}
	t.Logf("builder gone after %v", time.Since(began))
}

func processWith(word string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte(word)) && !bytes.Contains(text, []byte("begun")) {
			return true
		}
	}
	return false
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// bigNAR writes a NAR of a file with size bytes that are the same in no other run.
func bigNAR(w io.Writer, size int64, seed string) error {
	n := nar.NewWriter(w)
	if err := n.WriteHeader(&nar.Header{Kind: nar.Regular, Size: size}); err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block)
	copy(block, seed)
	for size > 0 {
		part := block[:min(size, int64(len(block)))]
		if _, err := n.Write(part); err != nil {
			return err
		}
		size -= int64(len(part))
	}
	return n.Close()
}

// TestRealBig moves an item of 512 MiB, or of 16 with -short.
func TestRealBig(t *testing.T) {
	testkit.CheckLeaks(t)
	s := open(t, realOptions(t))
	key := realKey(t)
	size := int64(512 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	path, err := s.Dir().MakePath("output:out", store.Hash(bytes.Repeat([]byte(rand.Text()), 2)[:32]), "big")
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	go func() {
		a := nar.NewArchiveWriter(w)
		err := a.WriteItem(&nar.Item{Path: path}, func(w io.Writer) error { return bigNAR(w, size, string(path)) }, key.Sign)
		w.CloseWithError(errors.Join(err, a.Close()))
	}()
	began := time.Now()
	infos, err := s.Import(t.Context(), r, store.ImportOptions{})
	if err != nil || len(infos) != 1 || infos[0].NARSize < size {
		t.Fatalf("Import: %v, %v", infos, err)
	}
	report := func(what string) {
		took := time.Since(began)
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		t.Logf("%s: %.2f s, %.0f MiB/s, heap %d MiB", what, took.Seconds(), float64(size>>20)/took.Seconds(), mem.HeapSys>>20)
		began = time.Now()
	}
	report("import")
	var n countWriter
	if err := s.Export(t.Context(), &n, []store.Path{path}); err != nil || int64(n) < size {
		t.Fatalf("Export: %d bytes, %v", n, err)
	}
	report("export, signed by the daemon")
	opts := realOptions(t)
	opts.Key = key
	signing := open(t, opts)
	began = time.Now()
	if err := signing.Export(t.Context(), &n, []store.Path{path}); err != nil {
		t.Fatal(err)
	}
	report("export, signed here")
	if err := signing.Close(); err != nil { // what it protects cannot be deleted
		t.Error(err)
	}
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Paths: []store.Path{path}}); err != nil {
		t.Errorf("delete what was imported: %v", err)
	}
}

type countWriter int64

func (n *countWriter) Write(p []byte) (int, error) {
	*n += countWriter(len(p))
	return len(p), nil
}

// TestRealGarbage deletes all garbage of the store.
func TestRealGarbage(t *testing.T) {
	testkit.CheckLeaks(t)
	s := open(t, realOptions(t))
	add := func(name string, refs ...store.Path) store.Path {
		p, err := s.AddText(t.Context(), name, []byte(rand.Text()), refs)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	leaf := add("leaf")
	kept, lost := add("kept", leaf), add("lost", leaf)
	later, err := s.Dir().TextPath("later", []byte(rand.Text()), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(t.Context(), kept, later); err != nil {
		t.Fatal(err)
	}
	wantValid := func(want ...store.Path) {
		t.Helper()
		valid, err := s.ValidPaths(t.Context(), []store.Path{leaf, kept, lost})
		if err != nil || fmt.Sprint(valid) != fmt.Sprint(want) {
			t.Errorf("valid: %s, %v, want %s", valid, err, want)
		}
	}
	dry, err := s.CollectGarbage(t.Context(), store.GCOptions{DryRun: true})
	if err != nil || dry.Freed == 0 || !slices.Contains(dry.Deleted, lost) || slices.Contains(dry.Deleted, leaf) || slices.Contains(dry.Deleted, kept) {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	young, err := s.CollectGarbage(t.Context(), store.GCOptions{OlderThan: time.Hour, Paths: []store.Path{lost}})
	if err != nil || len(young.Deleted) != 0 {
		t.Errorf("with OlderThan: %+v, %v", young, err)
	}
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Paths: []store.Path{kept}}); err == nil {
		t.Error("what is leased was deleted")
	}
	wantValid(leaf, kept, lost)
	done, err := s.CollectGarbage(t.Context(), store.GCOptions{})
	if err != nil || !slices.Contains(done.Deleted, lost) {
		t.Errorf("CollectGarbage: %+v, %v", done, err)
	}
	wantValid(leaf, kept)
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	if done, err = s.CollectGarbage(t.Context(), store.GCOptions{Paths: []store.Path{leaf}}); err != nil || len(done.Deleted) != 2 {
		t.Errorf("CollectGarbage of one: %+v, %v", done, err)
	}
	wantValid()
}

// TestRealVerify damages an item and has it found.
func TestRealVerify(t *testing.T) {
	s := open(t, realOptions(t))
	damaged, err := s.AddText(t.Context(), "damaged", []byte(rand.Text()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if os.Chmod(s.PhysicalPath(damaged), 0o600) != nil || os.WriteFile(s.PhysicalPath(damaged), []byte("?"), 0) != nil {
		t.Fatal("only root can damage an item")
	}
	found := make(map[store.Path]string)
	report := func(p store.VerifyProblem) { found[p.Path] = p.Problem }
	if err := s.Verify(t.Context(), true, report); err != nil || !strings.Contains(found[damaged], "was modified") || len(found) != 1 {
		t.Errorf("Verify: %q, %v", found, err)
	}
	clear(found)
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Paths: []store.Path{damaged}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), false, report); err != nil || len(found) != 0 {
		t.Errorf("Verify: %q, %v", found, err)
	}
}

// TestRealRestart restarts the daemon under an open store.
func TestRealRestart(t *testing.T) {
	testkit.CheckLeaks(t)
	opts := realOptions(t)
	command := os.Getenv("LIGHTER_GUIX_RESTART")
	if command == "" {
		command = "bash /lab/script service daemon"
	}
	s := open(t, opts)
	if err := s.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := s.AddText(t.Context(), "text", []byte(rand.Text()), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	if _, err := s.Info(t.Context(), p); err != nil {
		t.Errorf("Info after a restart: %v", err)
	}
	if err := s.Export(t.Context(), io.Discard, []store.Path{p}); err != nil {
		t.Errorf("Export after a restart: %v", err)
	}
	time.Sleep(lookInterval + time.Second)
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Paths: []store.Path{p}}); err == nil {
		t.Error("a lease did not survive the daemon's restart")
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// TestRealInfos asks about more items than fit a batch, several times at once.
func TestRealInfos(t *testing.T) {
	testkit.CheckLeaks(t)
	s := open(t, realOptions(t))
	p, err := s.AddText(t.Context(), "text", []byte(rand.Text()), nil)
	if err != nil {
		t.Fatal(err)
	}
	paths := make([]store.Path, 5000)
	for i := range paths {
		if paths[i] = p; i%7 == 0 {
			paths[i] = "/gnu/store/00000000000000000000000000000000-gone"
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			infos, err := s.Infos(t.Context(), paths)
			if err != nil || len(infos) != len(paths) {
				t.Errorf("Infos: %d, %v", len(infos), err)
				return
			}
			for i, info := range infos {
				if (info == nil) != (i%7 == 0) {
					t.Fatalf("info %d is %v", i, info)
				}
			}
		})
	}
	wg.Wait()
	if err := s.Download(t.Context(), p, nil); err != nil {
		t.Error(err)
	}
	if err := s.Download(t.Context(), paths[0], nil); err == nil {
		t.Error("Download made something out of nothing")
	}
}

// TestRealTimes reports what single things take.
func TestRealTimes(t *testing.T) {
	s := open(t, realOptions(t))
	bb := busybox(t, s)
	timed := func(what string, f func() error) {
		t.Helper()
		began := time.Now()
		if err := f(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		t.Logf("%-30s %8.2f ms", what, time.Since(began).Seconds()*1e3)
	}
	var archive bytes.Buffer
	timed("open another", func() error {
		o, err := Open(t.Context(), realOptions(t))
		if err != nil {
			return err
		}
		return o.Close()
	})
	timed("info", func() error { _, err := s.Info(t.Context(), bb); return err })
	timed("warm", func() error { return s.Warm(t.Context()) })
	timed("warm again", func() error { return s.Warm(t.Context()) })
	text, err := s.AddText(t.Context(), "text", []byte("small"), nil)
	if err != nil {
		t.Fatal(err)
	}
	timed("export, small", func() error { return s.Export(t.Context(), &archive, []store.Path{text}) })
	var own bytes.Buffer
	a := nar.NewArchiveWriter(&own)
	if err := a.WriteItem(&nar.Item{Path: text}, func(w io.Writer) error { return s.WriteNAR(t.Context(), w, text) }, realKey(t).Sign); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	timed("import, small", func() error { _, err := s.Import(t.Context(), &own, store.ImportOptions{}); return err })
	for range 3 {
		drv, drvText, _ := derive(t, s, recipe{name: "trivial", script: "echo > $out"})
		timed("build, trivial", func() error {
			_, err := s.Build(t.Context(), &store.BuildRequest{Derivation: drv, Text: drvText})
			return err
		})
	}
	l, _ := s.Lease(t.Context(), "test")
	timed("lease", func() error { return l.Add(t.Context(), bb) })
	timed("lease, more", func() error { return l.Add(t.Context(), text) })
}

// TestRealMeasured builds something that takes 300 MiB for some seconds, and 2 s of processor time beside that.
func TestRealMeasured(t *testing.T) {
	s := open(t, realOptions(t))
	drv, text, _ := derive(t, s, recipe{name: "measured", script: `dd if=/dev/zero of=/dev/null bs=300M count=40 &
u=0
while [ $u -lt 200 ]; do
	i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done
	read -r _ _ _ _ _ _ _ _ _ _ _ _ _ user system _ < /proc/$$/stat
	u=$((user+system))
done
wait; echo made > $out`})
	var m store.Measured
	if _, err := s.Build(t.Context(), &store.BuildRequest{Derivation: drv, Text: text, Measured: &m}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", m)
	if m.CPU < 2 || m.CPU > 120 || m.PeakMemory < 300<<20 || m.PeakMemory > 450<<20 || m.Method != store.MeasuredProcesses {
		t.Errorf("got %+v", m)
	}
	// One that is over at once, on the same connection, has nothing of that.
	drv, text, _ = derive(t, s, recipe{name: "short", script: "echo made > $out"})
	m = store.Measured{}
	if _, err := s.Build(t.Context(), &store.BuildRequest{Derivation: drv, Text: text, Measured: &m}); err != nil {
		t.Fatal(err)
	}
	if t.Logf("%+v", m); m.CPU > 1 || m.PeakMemory > 100<<20 || m.Unmeasured == "" {
		t.Errorf("got %+v", m)
	}
}
