package agentd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/agent"
	"lighter/internal/agentapi"
	"lighter/internal/testkit"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/local"
	"lighter/store/storetest"
)

// TestSubstitutes shows that an agent in this process gets inputs from servers.
func TestSubstitutes(t *testing.T) {
	testkit.CheckLeaks(t)
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	acl := func() (*signature.ACL, error) {
		var a signature.ACL
		a.Add(key.Public())
		return &a, nil
	}
	logger := slog.New(slog.DiscardHandler)
	s, err := local.Open(local.Options{Root: t.TempDir(), Dir: store.DefaultDir, NoSync: true, Logger: logger, ACL: acl})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	state := t.TempDir()
	a, err := Start(&Backend{Store: s, ACL: acl, Disk: state}, agent.Options{StateDir: state, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	client := agentapi.NewClient(a.Dial)
	defer client.Close()

	folder := t.TempDir()
	input := storetest.Publish(t, folder, key, "item")
	drv := &derivation.Derivation{Outputs: []derivation.Output{{Name: "out"}}, System: "x86_64-linux", Builder: "/bin/sh", Env: []derivation.EnvVar{{Name: "out"}}}
	if err := drv.Fill(store.DefaultDir, "x", nil); err != nil {
		t.Fatal(err)
	}
	path, err := drv.Path(store.DefaultDir, "x")
	if err != nil {
		t.Fatal(err)
	}
	absent, err := store.DefaultDir.TextPath("absent", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	status, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: "one"}, &agentapi.BuildRequest{
		Attempt: 1, Derivation: path, Text: drv.Marshal(), Outputs: []store.Path{drv.Outputs[0].Path},
		Inputs: []store.Path{absent, input}, SubstituteURLs: []string{"file://" + folder},
	})
	if err != nil || len(status.Missing) != 1 || status.Missing[0] != absent {
		t.Errorf("got %+v, %v; want only %s to be missing", status, err, absent)
	}
}

// TestHeadsStore keeps a machine's agent from deleting what a head has, where they share a folder.
func TestHeadsStore(t *testing.T) {
	f := Folders(t.TempDir())
	if kept, err := f.Keep(t.Context(), nil); err != nil || len(kept) > 0 {
		t.Errorf("a machine's own store: %v, %v", kept, err)
	}
	if err := os.Mkdir(filepath.Join(string(f), "ledger"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Keep(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "lighter store gc") {
		t.Errorf("a head's store: %v", err)
	}
}
