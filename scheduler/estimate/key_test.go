package estimate

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// TestKeyOfRealNames has derivations of Guix; see testdata/README.md.
func TestKeyOfRealNames(t *testing.T) {
	const file = "testdata/names.tsv"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	keys := make(map[Key]string)
	kinds := make(map[Kind]int)
	for line := range strings.Lines(string(text)) {
		columns := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		name, fixed, inputs := columns[0], columns[1], columns[2]
		k := KeyOf(Build{Name: name, System: "x86_64-linux", Fixed: fixed == "fixed", Inputs: slices.Values(strings.Fields(inputs))})
		got.WriteString(strings.Join([]string{name, fixed, inputs, string(k.Kind), k.Name, k.Version, k.BuildSystem}, "\t") + "\n")
		if other, ok := keys[k]; ok {
			t.Errorf("%s and %s have the same key", name, other)
		}
		keys[k] = name
		kinds[k.Kind]++
		if k.Version != "" && name != k.Name+"-"+k.Version || k.Version == "" && name != k.Name {
			t.Errorf("%s is taken apart into %q and %q", name, k.Name, k.Version)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if got.String() != string(text) {
		t.Errorf("the keys are others than in %s:\n%s", file, got.String())
	}
	if kinds[Package] < 100 || kinds[Download] < 100 || kinds[Archive] < 50 || kinds[Module] == 0 {
		t.Errorf("kinds: %v", kinds)
	}
}

func TestKeyOf(t *testing.T) {
	for _, tt := range []struct {
		build   Build
		kind    Kind
		name    string
		version string
		system  string // build system
	}{
		{Build{Name: "gmp-6.3.0.tar.xz", Fixed: true}, Download, "gmp", "6.3.0.tar.xz", ""},
		{Build{Name: "gmp-6.3.0.tar.zst"}, Archive, "gmp", "6.3.0.tar.zst", ""},
		{Build{Name: "gmp-6.3.0", Inputs: slices.Values([]string{"make-4.4.1", "gcc-14.3.0"})}, Package, "gmp", "6.3.0", "gnu"},
		{Build{Name: "gmp-6.3.0"}, Package, "gmp", "6.3.0", ""},
		{Build{Name: "gmp-6.3.0", Properties: "((type . graft) (graft (count . 3)))"}, Graft, "gmp", "6.3.0", ""},
		{Build{Name: "profile", Properties: "((type . profile) (profile (count . 3)))"}, Profile, "profile", "", ""},
		{Build{Name: "profile"}, Profile, "profile", "", ""},
		{Build{Name: "fonts-dir", Properties: "((type . profile-hook) (hook . fonts-dir))"}, Profile, "fonts-dir", "", ""},
		{Build{Name: "module-import"}, Module, "module-import", "", ""},
		{Build{Name: "module-import-compiled"}, Module, "module-import-compiled", "", ""},
		{Build{Name: "abc-1.0-checkout", Fixed: true}, Download, "abc", "1.0-checkout", ""},
		{Build{Name: "abc-1.0-checkout"}, Archive, "abc", "1.0-checkout", ""},
		{Build{Name: "abc-2", Inputs: slices.Values([]string{"make-4.4.1", "cmake-minimal-3.30.5", "gcc-14.3.0"})}, Package, "abc", "2", "cmake"},
		{Build{Name: "abc-2", Inputs: slices.Values([]string{"ghc-9.2.8", "make-4.4.1"})}, Package, "abc", "2", "haskell"},
		{Build{Name: "python-abc-2", Inputs: slices.Values([]string{"cmake-3.30.5"})}, Package, "python-abc", "2", "python"},
		{Build{Name: "-1"}, Package, "", "1", ""},
		{Build{Name: ""}, Package, "", "", ""},
		{Build{Name: "a-"}, Package, "a-", "", ""},
		{Build{Name: "7zip"}, Package, "7zip", "", ""},
		{Build{Name: "two-2.0"}, Package, "two", "2.0", ""},
		{Build{Name: "a-1-b"}, Package, "a", "1-b", ""},
		{Build{Name: "emacs-2048-game-20151026.1233"}, Package, "emacs-2048-game", "20151026.1233", "emacs"},
		{Build{Name: "foo-20200101-1.abcd123"}, Package, "foo", "20200101-1.abcd123", ""},
		{Build{Name: "tcc-0.9.26-1149-g46a75d0c"}, Package, "tcc", "0.9.26-1149-g46a75d0c", ""},
		{Build{Name: "font-0xproto-2.500"}, Package, "font-0xproto", "2.500", "font"},
	} {
		k := KeyOf(tt.build)
		if k.Kind != tt.kind || k.Name != tt.name || k.Version != tt.version || k.BuildSystem != tt.system {
			t.Errorf("%s: got %+v", tt.build.Name, k)
		}
	}
}

func FuzzSplitName(f *testing.F) {
	for _, name := range []string{"gcc-14.3.0", "a-1-b", "-1", "", "a--1-2.3"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		base, version := SplitName(name)
		if version == "" && base != name || version != "" && (base+"-"+version != name || !isDigit(version[0])) {
			t.Errorf("%q is taken apart into %q and %q", name, base, version)
		}
	})
}

func TestIsBuildSystem(t *testing.T) {
	if !IsBuildSystem("gnu") || IsBuildSystem("") || IsBuildSystem("gnus") {
		t.Error("gnu is one, and nothing else here")
	}
}
