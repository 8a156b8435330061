package binfmt

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// registration is as the kernel shows it.
func registration(flags, magic string) string {
	return "enabled\ninterpreter /usr/libexec/qemu-binfmt/some\nflags: " + flags + "\noffset 0\nmagic " + magic + "\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
}

const (
	aarch64 = "7f454c460201010000000000000000000200b700"
	ppc     = "7f454c4601020100000000000000000000020014"
	riscv64 = "7f454c460201010000000000000000000200f300"
)

func TestSystems(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"status": "enabled\n", "register": "",
		"qemu-aarch64": registration("POCF", aarch64), "qemu-aarch64-too": registration("F", aarch64), "qemu-ppc": registration("F", ppc),
		// Without F the emulator would have to be in each sandbox.
		"qemu-riscv64": registration("PC", riscv64),
		"python3.13":   "enabled\ninterpreter /usr/bin/python3.13\nflags: \noffset 0\nmagic f30d0d0a\n",
		"jar":          "enabled\ninterpreter /usr/bin/jexec\nflags: F\nextension .jar\n",
		"off":          "disabled\ninterpreter /usr/bin/qemu\nflags: F\noffset 0\nmagic " + riscv64 + "\n",
		"short":        registration("F", aarch64[:30]), "odd": registration("F", "7f4"), "moved": "enabled\nflags: F\noffset 4\nmagic " + riscv64 + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := systemsIn(dir), []string{"aarch64-linux", "powerpc-linux"}; !slices.Equal(got, want) {
		t.Errorf("emulated: %v, want %v", got, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), []byte("disabled\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := systemsIn(dir); got != nil {
		t.Errorf("emulated though that is switched off: %v", got)
	}
	if got := systemsIn(filepath.Join(dir, "none")); got != nil {
		t.Errorf("emulated without binfmt_misc: %v", got)
	}
}
