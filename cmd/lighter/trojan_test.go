package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/local"
)

// TestTrojan has the owner of a machine put two items into its agent's store: one in the place of
// an output that nobody has built, and one, in the place of another, that refers to it. Asked to
// build the second, its agent truthfully says that it is there. The head takes neither, names the
// machine, and has both built by the other.
func TestTrojan(t *testing.T) {
	f := newFarm(t)
	openssl := f.derive("openssl", "echo genuine > $out")
	lib := f.derive("lib", "echo genuine > $out")
	app := f.derive("app", "cat "+string(f.output(lib))+" > $out", lib)
	f.plant(0, f.output(openssl), "TROJAN")
	f.plant(0, f.output(lib), "uses it", f.output(openssl))
	f.start()

	f.run("machines", "drain", "m1")
	id, err := f.submit(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	f.awaitRefusal("m0", f.output(openssl))
	f.run("machines", "resume", "m1")
	f.awaitSuccess(id)
	if id, err = f.submit(t.Context(), openssl); err != nil {
		t.Fatal(err)
	}
	f.awaitSuccess(id)
	for _, drv := range []store.Path{openssl, app} {
		text, err := os.ReadFile(f.run("store", "path", string(f.output(drv))))
		if err != nil || string(text) != "genuine\n" {
			t.Errorf("%s: %q, %v", f.output(drv), text, err)
		}
	}
}

// awaitRefusal waits for the event that says of a machine that an item may not be.
func (f *farm) awaitRefusal(machine string, item store.Path) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	found := errors.New("found")
	err := f.client.Follow(ctx, 0, func(e *api.Event) error {
		if text, err := json.Marshal(e); err != nil || e.Machine == machine && strings.Contains(string(text), string(item)) {
			return cmp.Or(err, found)
		}
		return nil
	})
	if !errors.Is(err, found) {
		f.t.Fatal(err)
	}
}

// plant puts an item into the store of a machine's agent, as who owns the machine can.
func (f *farm) plant(machine int, path store.Path, content string, references ...store.Path) {
	f.t.Helper()
	if out, err := exec.Command(f.agent, "stop", "--state", f.states[machine]).CombinedOutput(); err != nil {
		f.t.Fatalf("%v\n%s", err, out)
	}
	key, err := signature.GenerateKey()
	if err != nil {
		f.t.Fatal(err)
	}
	acl := new(signature.ACL)
	acl.Add(key.Public())
	s, err := local.Open(local.Options{
		Root: filepath.Join(f.states[machine], "store"), Dir: path.Dir(), Logger: slog.New(slog.DiscardHandler),
		ACL: func() (*signature.ACL, error) { return acl, nil },
	})
	if err != nil {
		f.t.Fatal(err)
	}
	defer s.Close()
	var archive bytes.Buffer
	w := nar.NewArchiveWriter(&archive)
	err = w.WriteItem(&nar.Item{Path: path, References: references}, func(out io.Writer) error {
		n := nar.NewWriter(out)
		err := n.WriteHeader(&nar.Header{Kind: nar.Regular, Size: int64(len(content))})
		if err == nil {
			_, err = io.WriteString(n, content)
		}
		return errors.Join(err, n.Close())
	}, key.Sign)
	if err := errors.Join(err, w.Close()); err != nil {
		f.t.Fatal(err)
	}
	if _, err := s.Import(f.t.Context(), &archive, store.ImportOptions{}); err != nil {
		f.t.Fatal(err)
	}
}
