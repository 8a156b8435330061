package publish

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"lighter/hooks"
	"lighter/internal/api"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
	"lighter/store/publish"
	"lighter/store/storetest"
)

// bench is a store with a build in it, and a hook that publishes in a folder.
type bench struct {
	*storetest.Memory
	t        *testing.T
	folder   string
	hook     *Hook
	build    *api.Build // which succeeded
	out, lib store.Path // its output, and what that refers to
}

func newBench(t *testing.T) *bench {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Memory: storetest.NewMemory(store.DefaultDir, key, nil), t: t, folder: t.TempDir()}
	w, err := publish.New(publish.Options{FS: publish.Folder(b.folder), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	b.hook = &Hook{Folder: w, Store: b, Logs: logs("it was built", nil)}
	b.lib = b.text("lib", "x")
	b.out = b.text("thing", "output", b.lib)
	b.build = &api.Build{State: api.Succeeded, OutputPaths: map[string]store.Path{"out": b.out}}
	b.build.ID, b.build.Derivation = "some-id", b.text("thing.drv", "Derive()")
	return b
}

func (b *bench) text(name, content string, refs ...store.Path) store.Path {
	b.t.Helper()
	p, err := b.AddText(b.t.Context(), name, []byte(content), refs)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func logs(text string, err error) func(context.Context, *api.Build) (io.ReadCloser, error) {
	return func(context.Context, *api.Build) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text)), err
	}
}

// run runs the hook and checks what it says.
func (b *bench) run(event string, build *api.Build, want ...string) {
	b.t.Helper()
	said, err := b.hook.Run(b.t.Context(), &hooks.Event{Name: event, Build: build})
	if err != nil {
		b.t.Errorf("%s: %v", event, err)
	}
	for _, text := range want {
		if !strings.Contains(said, text) {
			b.t.Errorf("%s: got %q, want %q in it", event, said, text)
		}
	}
}

// wantFiles checks which files are in the folder, beside those that each one has.
func (b *bench) wantFiles(want ...string) {
	b.t.Helper()
	var got []string
	err := fs.WalkDir(os.DirFS(b.folder), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && name != narinfo.CacheInfoName && name != "signing-key.pub" {
			got = append(got, name)
		}
		return err
	})
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		b.t.Errorf("got files\n%s, want\n%s; %v", strings.Join(got, "\n"), strings.Join(want, "\n"), err)
	}
}

func TestHook(t *testing.T) {
	b := newBench(t)
	drv := b.build.Derivation
	failed := *b.build
	stopped := time.Now().UTC().Truncate(time.Second)
	failed.State, failed.Stopped = api.Failed, &stopped
	failed.Failure = &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "exit 1"}
	b.run(hooks.BuildFailed, &failed, "failure published in "+b.folder)
	b.wantFiles("failures/"+drv.HashPart(), "log/"+drv.Base()+".gz")
	text, err := os.ReadFile(filepath.Join(b.folder, "failures", drv.HashPart()))
	var got Failure
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil || got.Derivation != drv || got.Build != "some-id" || !got.Time.Equal(stopped) || got.Failure.Message != "exit 1" || got.Log != "log/"+drv.Base() {
		t.Errorf("got %+v, %v", got, err)
	}

	// What failed once and succeeds then is not a failure any more.
	b.run(hooks.BuildSucceeded, b.build, "1 outputs published", "2 items written")
	b.wantFiles("log/"+drv.Base()+".gz", narinfo.Name(b.out), "nar/zstd/"+b.out.Base(), narinfo.Name(b.lib), "nar/zstd/"+b.lib.Base())
	f, err := os.Open(filepath.Join(b.folder, "log", drv.Base()+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if log, err := io.ReadAll(z); err != nil || string(log) != "it was built" {
		t.Errorf("got log %q, %v", log, err)
	}
}

func TestNothingToPublish(t *testing.T) {
	b := newBench(t)
	b.run(hooks.MachineLost, nil, "no build")
	b.run(hooks.BuildStarted, b.build, "nothing is published of build-started")
	elsewhere := *b.build
	elsewhere.OutputsOn = "machine-7"
	b.run(hooks.BuildSucceeded, &elsewhere, "machine-7")
	without := *b.build
	without.OutputPaths = nil
	b.run(hooks.BuildSucceeded, &without, "no outputs")
	for _, state := range []api.State{api.Canceled, api.Failed, api.Building} {
		other := *b.build
		other.State = state
		b.run(hooks.BuildSucceeded, &other, string(state))
	}
	canceled := *b.build
	canceled.State = api.Canceled
	b.run(hooks.BuildFailed, &canceled, "canceled")
	b.wantFiles()
}

func TestLogsAndReferences(t *testing.T) {
	b := newBench(t)
	b.hook.OutputsOnly, b.hook.Logs = true, logs("", fs.ErrNotExist)
	b.run(hooks.BuildSucceeded, b.build, "1 items written")
	b.wantFiles(narinfo.Name(b.out), "nar/zstd/"+b.out.Base())

	broken := errors.New("the disk is broken")
	b.hook.Logs = logs("", broken)
	failed := *b.build
	failed.State = api.TimedOut
	_, err := b.hook.Run(t.Context(), &hooks.Event{Name: hooks.BuildTimedOut, Build: &failed})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "some-id") {
		t.Errorf("got %v", err)
	}
	b.wantFiles(narinfo.Name(b.out), "nar/zstd/"+b.out.Base())
}
