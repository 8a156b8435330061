package disk

import (
	"os"
	"testing"
)

func TestOwner(t *testing.T) {
	info, err := os.Stat(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Owner(info), UserName(uint32(os.Geteuid())); got != want {
		t.Errorf("owner %q, want %q", got, want)
	}
	if got, want := Group(info), GroupName(uint32(os.Getegid())); got != want {
		t.Errorf("group %q, want %q", got, want)
	}
	const nobody = 4_000_000_000
	if u, g := UserName(nobody), GroupName(nobody); u != "user 4000000000" || g != "4000000000" {
		t.Errorf("without a name: %q and %q", u, g)
	}
}
