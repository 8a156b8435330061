package local

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"testing"

	"lighter/store"
)

// TestExportChanged changes items on the disk under a store: what it then exports,
// nobody takes.
func TestExportChanged(t *testing.T) {
	from, to := openTestStore(t), openTestStore(t)
	for _, size := range []int{10, 1 << 20} { // the larger one is not hashed again
		r := &recipe{name: "item", script: `head -c "$size" /dev/zero > $out`, env: map[string]string{"size": strconv.Itoa(size)}}
		r.mustBuild(t, from)
		path := r.out("out")
		file, err := from.PhysicalPath(path)
		if err != nil {
			t.Fatal(err)
		}
		var good bytes.Buffer
		if err := from.Export(t.Context(), &good, []store.Path{path}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text[size/2] ^= 1
		if err := errors.Join(os.Chmod(file, 0o644), os.WriteFile(file, text, 0o644)); err != nil {
			t.Fatal(err)
		}
		var bad bytes.Buffer
		err = from.Export(t.Context(), &bad, []store.Path{path})
		if err == nil {
			_, err = to.Import(t.Context(), &bad, store.ImportOptions{})
		}
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if _, err := to.Info(t.Context(), path); !errors.Is(err, store.ErrNotValid) {
			t.Errorf("%d bytes: the changed item is there: %v", size, err)
		}
		if _, err := to.Import(t.Context(), &good, store.ImportOptions{}); err != nil {
			t.Errorf("%d bytes: the good one: %v", size, err)
		}
	}
}
