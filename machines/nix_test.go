package machines

import (
	"testing"
)

func TestGoodNixFiles(t *testing.T) {
	goldenOf(t, "testdata/nix-good.txtar", ".machines", func(t *testing.T, name string, data []byte) string {
		all, warnings, err := parseNix(name, data, "riscv64-linux")
		return goodText(t, name, all, warnings, err)
	})
}

func TestBadNixFiles(t *testing.T) {
	goldenOf(t, "testdata/nix-bad.txtar", ".machines", func(t *testing.T, name string, data []byte) string {
		all, _, err := ParseNix(name, data)
		return badText(t, name, all, err)
	})
}

func FuzzParseNix(f *testing.F) {
	for _, archive := range []string{"testdata/nix-good.txtar", "testdata/nix-bad.txtar"} {
		for _, data := range filesOf(f, archive, ".machines") {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, _, err := ParseNix("machines", data)
		checkRead(t, all, err)
	})
}
