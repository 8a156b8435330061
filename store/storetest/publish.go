package storetest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
)

// Publish writes a text item, signed, into a folder that a substitute server could serve.
func Publish(t testing.TB, folder string, key *signature.PrivateKey, name string) store.Path {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	var contents bytes.Buffer
	if err := nar.Pack(&contents, file); err != nil {
		t.Fatal(err)
	}
	var h nar.Hasher
	_, _ = h.Write(contents.Bytes())
	path, err := store.DefaultDir.TextPath(name, []byte(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	info := &store.Info{Path: path, NARHash: h.Sum(), NARSize: h.Size()}
	text, err := narinfo.Sign(key, "test", info, []narinfo.Download{{URL: path.Base() + ".nar", Compression: narinfo.None}})
	if err != nil {
		t.Fatal(err)
	}
	for file, contents := range map[string][]byte{narinfo.Name(path): text, path.Base() + ".nar": contents.Bytes()} {
		if err := os.WriteFile(filepath.Join(folder, file), contents, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}
