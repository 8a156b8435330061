package ledger

import (
	"path/filepath"
	"testing"
)

func TestDiskUsage(t *testing.T) {
	l, err := Open(filepath.Join(t.TempDir(), "ledger"), Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	if n := l.DiskUsage(); n <= 0 {
		t.Errorf("an open one takes %d bytes", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := l.DiskUsage(); n != 0 {
		t.Errorf("a closed one takes %d bytes", n)
	}
}
