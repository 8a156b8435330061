package estimate

import (
	"iter"
	"slices"
	"strings"
)

// Kind tells builds apart that share a name and have nothing else in common.
type Kind string

// The kinds. They are part of the ledger's format and of what is exported.
const (
	Package  Kind = "package"  // what is none of the others
	Download Kind = "download" // it has a fixed output, whose hash is known before
	Archive  Kind = "archive"  // makes an archive of sources out of another: unpacked, patched, packed
	Module   Kind = "module"   // modules of Guile for another build, collected or compiled
	Profile  Kind = "profile"  // a profile, or what a hook adds to one
	Graft    Kind = "graft"    // a copy of a package with other references
)

// Kinds are all kinds.
var Kinds = []Kind{Package, Download, Archive, Module, Profile, Graft}

// Key says what is built, as far as it matters to an estimate.
type Key struct {
	Kind   Kind
	Name   string // of the derivation, without version
	System string
	// Version is the rest of the name. Samples of other versions count too, but less.
	Version string
	// BuildSystem says how it is built, such as "cmake"; empty if that can't be told.
	BuildSystem string
	// Class is that of the machine that will build it; empty if that is open. Samples of machines of another class count
	// less then.
	Class string
}

// Build is what tells the key of a build: what is in its derivation.
type Build struct {
	Name       string // of the derivation, without ".drv"
	System     string
	Fixed      bool   // it has a fixed output
	Properties string // the variable "guix properties"; Guix says there what a derivation is
	// Inputs are the names of the derivations that it needs. They are not retained.
	Inputs iter.Seq[string]
}

// KeyOf returns the key of a build. It keeps parts of the name, and of no other text but the
// system.
func KeyOf(b Build) Key {
	k := Key{Kind: kindOf(&b), System: b.System}
	k.Name, k.Version = SplitName(b.Name)
	if k.Kind == Package {
		k.BuildSystem = buildSystemOf(k.Name, b.Inputs)
	}
	return k
}

func kindOf(b *Build) Kind {
	switch {
	case b.Fixed:
		return Download
	case strings.Contains(b.Properties, "(type . graft)"):
		return Graft
	case strings.Contains(b.Properties, "(type . profile"), b.Name == "profile":
		return Profile // or profile-hook
	case b.Name == "module-import", b.Name == "module-import-compiled":
		return Module
	case isArchive(b.Name):
		return Archive
	}
	return Package
}

// archiveEnds are how the names of sources end. A checkout is a folder.
var archiveEnds = []string{
	"-checkout", ".tar", ".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tar.lz", ".tgz", ".tbz2", ".txz", ".zip", ".crate", ".gem",
}

func isArchive(name string) bool {
	return slices.ContainsFunc(archiveEnds, func(end string) bool { return strings.HasSuffix(name, end) })
}

// SplitName takes the name of a derivation apart: "gcc" and "14.3.0" for "gcc-14.3.0". The version
// begins with a digit after a dash, and so do parts of some names: "emacs-2048-game-20151026.1233",
// "font-0xproto-2.500". So the first part that has a dot in it, or is a number with no text
// behind it, is taken for the version; where there is none, the first that begins with a digit.
func SplitName(name string) (base, version string) {
	first := -1
	for i := 0; i+1 < len(name); i++ {
		if name[i] != '-' || !isDigit(name[i+1]) {
			continue
		}
		if first < 0 {
			first = i
		}
		part, rest, _ := strings.Cut(name[i+1:], "-")
		if strings.Contains(part, ".") || strings.Trim(part, "0123456789") == "" && (rest == "" || isDigit(rest[0]) || !hasVersion(rest)) {
			return name[:i], name[i+1:]
		}
	}
	if first < 0 {
		return name, ""
	}
	return name[:first], name[first+1:]
}

// hasVersion reports whether a part of a text that follows a dash begins with a digit.
func hasVersion(text string) bool {
	for i := 0; i+1 < len(text); i++ {
		if text[i] == '-' && isDigit(text[i+1]) {
			return true
		}
	}
	return false
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// buildSystems says how packages are built whose names begin so, or that need this. The first that
// fits counts; prefixes are looked at before inputs. A derivation of Guix names its build system only
// inside its builder, which is a file of its own; what it needs it says itself.
var buildSystems = []struct {
	name     string
	prefixes []string // with the dash
	inputs   []string // names without versions
}{
	{name: "texlive", prefixes: []string{"texlive-"}},
	{name: "font", prefixes: []string{"font-"}},
	{name: "asdf", prefixes: []string{"sbcl-", "cl-", "ecl-", "clasp-"}},
	{name: "r", prefixes: []string{"r-"}},
	{name: "python", prefixes: []string{"python-", "python2-"}},
	{name: "perl", prefixes: []string{"perl-"}},
	{name: "ruby", prefixes: []string{"ruby-"}},
	{name: "emacs", prefixes: []string{"emacs-"}},
	{name: "julia", prefixes: []string{"julia-"}},
	{name: "java", prefixes: []string{"java-", "maven-"}, inputs: []string{"maven", "ant"}},
	{name: "go", prefixes: []string{"go-"}, inputs: []string{"go-std", "go"}},
	{name: "haskell", prefixes: []string{"ghc-"}, inputs: []string{"ghc"}},
	{name: "rust", prefixes: []string{"rust-"}, inputs: []string{"rust", "cargo"}},
	{name: "ocaml", prefixes: []string{"ocaml-", "ocaml5.0-"}, inputs: []string{"dune", "ocaml-findlib"}},
	{name: "erlang", prefixes: []string{"erlang-", "elixir-"}},
	{name: "node", prefixes: []string{"node-"}},
	{name: "meson", inputs: []string{"meson"}},
	{name: "cmake", inputs: []string{"cmake-minimal", "cmake", "cmake-bootstrap"}},
	{name: "python", inputs: []string{"python-setuptools", "python-wheel"}},
	{name: "gnu", inputs: []string{"make", "gcc"}},
}

// byInput has the places of inputs in buildSystems.
var byInput = func() map[string]int {
	m := make(map[string]int)
	for i := range buildSystems {
		for _, input := range buildSystems[i].inputs {
			m[input] = i
		}
	}
	return m
}()

func buildSystemOf(name string, inputs iter.Seq[string]) string {
	for i := range buildSystems {
		for _, prefix := range buildSystems[i].prefixes {
			if strings.HasPrefix(name, prefix) {
				return buildSystems[i].name
			}
		}
	}
	if inputs == nil {
		return ""
	}
	best := len(buildSystems)
	for input := range inputs {
		base, _ := SplitName(input)
		if i, ok := byInput[base]; ok {
			best = min(best, i)
		}
	}
	if best == len(buildSystems) {
		return ""
	}
	return buildSystems[best].name
}

// IsBuildSystem reports whether a build system is told apart under that name. There are less than 50.
func IsBuildSystem(name string) bool {
	for i := range buildSystems {
		if buildSystems[i].name == name {
			return true
		}
	}
	return false
}
