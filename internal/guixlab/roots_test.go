//go:build guixlab

package guixlab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lighter/store"
)

// What "lighter build --root" links to, the real guix-daemon keeps, as long as the link is there.
func TestRootsOfGuixDaemon(t *testing.T) {
	f := newMixedFarm(t)
	drv := f.add(Recipe{Name: unique("rooted"), Outputs: []string{"doc", "out"}, Script: "echo out > $out; echo doc > $doc"})
	out, doc := f.Output(drv, "out"), f.Output(drv, "doc")
	link := filepath.Join(t.TempDir(), "result")
	lighter(t, "build", "--socket="+f.socket, "--root="+link, string(drv))
	listed := func() string {
		t.Helper()
		r := f.guix("gc", "--list-roots")
		if code := r.code(); code != 0 {
			t.Fatalf("guix gc --list-roots: exit code %d: %s", code, r.text.String())
		}
		return r.out.String()
	}
	contains(t, listed(), link+"\n", link+"-doc\n")

	// Whose roots they are, and what lists them, is said.
	said, err := exec.Command(Programs+"/lighter", "store", "root", "list", "--socket="+f.socket).CombinedOutput()
	if err == nil {
		t.Errorf("lighter store root list: got\n%s", said)
	}
	contains(t, string(said), "guix gc --list-roots lists them")

	f.stop() // its connections, too, keep what was added through them
	r := f.guix("gc", "--delete", string(out))
	if code := r.code(); code == 0 {
		t.Error("guix gc has deleted what has a root")
	}
	contains(t, r.text.String(), "still alive")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	r = f.guix("gc", "--delete", string(out))
	if code := r.code(); code != 0 {
		t.Errorf("guix gc --delete without the link: exit code %d: %s", code, r.text.String())
	}
	f.absent(out)
	if ok, err := store.IsValid(t.Context(), f.Store, doc); err != nil || !ok {
		t.Errorf("what has its link was deleted: %v", err)
	}
	if roots := listed(); strings.Contains(roots, link+"\n") {
		t.Errorf("there are still the roots\n%s", roots)
	}
}
