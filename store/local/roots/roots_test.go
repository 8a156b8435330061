package roots

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/store"
)

const item store.Path = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x"

// TestHostileLinks refuses what is no link of the caller's to the item.
func TestHostileLinks(t *testing.T) {
	dir, f := t.TempDir(), Folder(t.TempDir())
	const target = "/files/x"
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, to := range map[string]string{"good": target, "loop": at("loop"), "elsewhere": "/etc/passwd", "escape": "/files/x/../../etc/passwd"} {
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	me := uint32(os.Geteuid()) // #nosec G115 -- a number of the kernel's
	for _, tt := range []struct {
		link string
		uid  uint32
		want string
	}{
		{at("good"), me, ""},
		{at("good"), me + 1, "somebody else's"},
		{at("loop"), me, "leads to"},
		{at("elsewhere"), me, "leads to"},
		{at("escape"), me, "leads to"},
		{at("file"), me, "no symlink"},
		{at("none"), me, "no such file"},
		{"relative", me, "want an absolute one"},
		{dir + "/../x", me, "want an absolute one"},
		{at("a\nb"), me, "want an absolute one"},
		{"/" + strings.Repeat("x", maxLink), me, "want an absolute one"},
		{at(strings.Repeat("x", 300)), me, "file name too long"},
	} {
		err := f.Add(store.Root{Link: tt.link, Path: item}, target, tt.uid)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.100q as %d: %v, want %q", tt.link, tt.uid, err, tt.want)
		}
	}
	if all, err := f.List(); err != nil || len(all) != 1 {
		t.Errorf("roots: %v, %v", all, err)
	}
}

// TestBound refuses more roots than one user may have; what is there already can be made again.
func TestBound(t *testing.T) {
	dir, f := t.TempDir(), Folder(t.TempDir())
	link := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
	add := func(i int, owner string) error {
		_ = os.Symlink("/files/x", link(i))
		return f.Add(store.Root{Link: link(i), Path: item, Owner: owner}, "/files/x", uint32(os.Geteuid())) // #nosec G115 -- as above
	}
	for i := range maxOfOwner {
		text := fmt.Sprintf(`{"link":%q,"path":%q,"owner":"alice","target":"/files/x"}`, link(i), item)
		if err := os.WriteFile(f.file(link(i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(maxOfOwner, "alice"); err == nil || !strings.Contains(err.Error(), "lighter store root remove") {
		t.Errorf("one too many: %v", err)
	}
	if err := add(0, "alice"); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	if err := add(maxOfOwner, "bob"); err != nil {
		t.Errorf("another's: %v", err)
	}
}

// TestEnds has roots end when their link is gone or leads elsewhere, and when their time is over; one
// that can't be read ends none.
func TestEnds(t *testing.T) {
	dir, f := t.TempDir(), Folder(t.TempDir())
	for _, name := range []string{"stays", "removed", "changed", "over"} {
		link := filepath.Join(dir, name)
		if err := os.Symlink("/files/x", link); err != nil {
			t.Fatal(err)
		}
		r := store.Root{Link: link, Path: item}
		if name == "over" {
			r.Expires = time.Now().Add(-time.Second)
		}
		if err := f.Add(r, "/files/x", uint32(os.Geteuid())); err != nil { // #nosec G115 -- as above
			t.Fatal(err)
		}
	}
	for _, name := range []string{"removed", "changed"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/elsewhere", filepath.Join(dir, "changed")); err != nil {
		t.Fatal(err)
	}
	all, err := f.List()
	if err != nil || len(all) != 1 || filepath.Base(all[0].Link) != "stays" {
		t.Errorf("roots: %v, %v", all, err)
	}
	if entries, err := os.ReadDir(string(f)); err != nil || len(entries) != 1 {
		t.Errorf("files: %v, %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(string(f), "damaged"+Extension), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.List(); err == nil {
		t.Error("a damaged root is left out silently")
	}
}
