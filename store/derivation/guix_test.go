package derivation

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/store"
)

// guixTexts returns the derivations that a real Guix wrote, by path.
func guixTexts(t testing.TB) map[store.Path][]byte {
	t.Helper()
	texts := make(map[store.Path][]byte)
	readClosure(t, texts)
	files, err := filepath.Glob("testdata/special/*.drv")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		addText(t, texts, filepath.Base(file), text)
	}
	if want := 228 + 16; len(texts) != want {
		t.Fatalf("%d derivations in testdata, want %d", len(texts), want)
	}
	return texts
}

func readClosure(t testing.TB, texts map[store.Path][]byte) {
	f, err := os.Open("testdata/hello-closure.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(z); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		addText(t, texts, path.Base(header.Name), text)
	}
}

func addText(t testing.TB, texts map[store.Path][]byte, base string, text []byte) {
	p, err := store.DefaultDir.Path(base)
	if err != nil {
		t.Fatal(err)
	}
	texts[p] = text
}

func guixDerivations(t testing.TB) map[store.Path]*Derivation {
	t.Helper()
	all := make(map[store.Path]*Derivation)
	for p, text := range guixTexts(t) {
		d, err := Parse(store.DefaultDir, text)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		all[p] = d
	}
	return all
}

func resolver(all map[store.Path]*Derivation) Resolver {
	return func(p store.Path) (*Derivation, error) {
		if d := all[p]; d != nil {
			return d, nil
		}
		return nil, store.NotValid(p)
	}
}

// expectation is a line of the tables: one output.
type expectation struct {
	drv    store.Path
	output string
	path   store.Path
	masked string // hash in base16, or "fixed" and the algorithm
	modulo string
}

func guixExpectations(t testing.TB) []expectation {
	t.Helper()
	var all []expectation
	for _, file := range []string{"hello-closure", "special"} {
		table, err := os.ReadFile("testdata/" + file + ".expected.tsv")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			if len(f) != 5 {
				t.Fatalf("%s: line with %d fields: %q", file, len(f), line)
			}
			all = append(all, expectation{store.Path(f[0]), f[1], store.Path(f[2]), f[3], f[4]})
		}
	}
	if want := 253 + 19; len(all) != want {
		t.Fatalf("%d outputs in the tables, want %d", len(all), want)
	}
	return all
}

func TestGuixDerivationsRoundTrip(t *testing.T) {
	for p, text := range guixTexts(t) {
		d, err := Parse(store.DefaultDir, text)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		if got := d.Marshal(); !bytes.Equal(got, text) {
			t.Errorf("%s: (-want +got)\n%s", p, cmp.Diff(string(text), string(got)))
		}
		if got, err := d.Path(store.DefaultDir, NameOf(p)); err != nil || got != p {
			t.Errorf("the path of %s is computed as %s, %v", p, got, err)
		}
	}
}

func TestGuixHashes(t *testing.T) {
	all := guixDerivations(t)
	h := NewHasher(store.DefaultDir, resolver(all))
	for _, want := range guixExpectations(t) {
		d := all[want.drv]
		if d == nil {
			t.Errorf("%s is not in testdata", want.drv)
			continue
		}
		got := expectation{drv: want.drv, output: want.output}
		paths, err := h.OutputPaths(NameOf(want.drv), d)
		if err != nil {
			t.Errorf("%s: %v", want.drv, err)
			continue
		}
		got.path = paths[want.output]
		if got.masked, err = maskedOrFixed(h, d); err != nil {
			t.Errorf("%s: %v", want.drv, err)
		}
		modulo, err := h.moduloOf(want.drv, make(open))
		if err != nil {
			t.Errorf("%s: %v", want.drv, err)
		}
		got.modulo = modulo.Base16()
		if got != want {
			t.Errorf("%s, output %s:\n got %+v\nwant %+v", want.drv, want.output, got, want)
		}
	}
}

func maskedOrFixed(h *Hasher, d *Derivation) (string, error) {
	if out, ok := d.FixedOutput(); ok {
		return "fixed " + out.HashAlgorithm, nil
	}
	masked, err := h.Masked(d)
	return masked.Base16(), err
}

// TestGuixFill removes what Fill computes and has it put back, in the file too.
func TestGuixFill(t *testing.T) {
	all := guixDerivations(t)
	h := NewHasher(store.DefaultDir, resolver(all))
	for p, d := range all {
		if err := h.Check(NameOf(p), d); err != nil {
			t.Errorf("Check: %v", err)
		}
		if err := d.Check(store.DefaultDir, NameOf(p)+"x", resolver(all)); err == nil {
			t.Errorf("%s passed Check under another name", p)
		}
		empty := *d
		empty.Outputs, empty.Env = nil, nil
		for _, o := range d.Outputs {
			o.Path = ""
			empty.Outputs = append([]Output{o}, empty.Outputs...)
		}
		for _, v := range d.Env {
			if _, isOutput := d.Output(v.Name); !isOutput {
				empty.Env = append(empty.Env, v)
			}
		}
		if err := h.Fill(NameOf(p), &empty); err != nil {
			t.Errorf("Fill %s: %v", p, err)
		}
		if diff := cmp.Diff(d, &empty); diff != "" {
			t.Errorf("Fill %s (-want +got)\n%s", p, diff)
		}
	}
}

func TestGuixJSON(t *testing.T) {
	all := guixDerivations(t)
	data, err := MarshalJSON(all)
	if err != nil {
		t.Fatal(err)
	}
	named, err := ParseJSON(store.DefaultDir, data)
	if err != nil {
		t.Fatal(err)
	}
	if len(named) != len(all) {
		t.Errorf("%d derivations are %d in JSON", len(all), len(named))
	}
	h := NewHasher(store.DefaultDir, func(p store.Path) (*Derivation, error) {
		return nil, fmt.Errorf("%s comes after its user", p)
	})
	for _, n := range named {
		if diff := cmp.Diff(all[n.Path], n.Derivation); diff != "" {
			t.Errorf("%s (-want +got)\n%s", n.Path, diff)
		}
		if err := n.Complete(h); err != nil {
			t.Errorf("Complete: %v", err)
		}
	}
}

// TestGuixTruncated cuts a real derivation at each of its bytes.
func TestGuixTruncated(t *testing.T) {
	text, err := os.ReadFile("testdata/special/kam6fxjlnpz07b4iaw9n2a52q0nprip3-escapes.drv")
	if err != nil {
		t.Fatal(err)
	}
	for n := range text {
		_, err := Parse(store.DefaultDir, text[:n])
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax.Offset > n {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	texts := guixTexts(b)
	for b.Loop() {
		for p, text := range texts {
			if _, err := Parse(store.DefaultDir, text); err != nil {
				b.Fatalf("%s: %v", p, err)
			}
		}
	}
}

// BenchmarkCheck checks the output paths of all derivations, with nothing known
// at the start.
func BenchmarkCheck(b *testing.B) {
	all := guixDerivations(b)
	for b.Loop() {
		h := NewHasher(store.DefaultDir, resolver(all))
		for p, d := range all {
			if err := h.Check(NameOf(p), d); err != nil {
				b.Fatal(err)
			}
		}
	}
}
