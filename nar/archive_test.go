package nar_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// acl authorizes the keys that signed the files in testdata.
func acl(t testing.TB) *signature.ACL {
	t.Helper()
	acl := &signature.ACL{}
	for _, name := range []string{"signing-key.pub", "vec-signing-key.pub"} {
		key, err := signature.ParsePublicKey(readFile(t, name))
		if err != nil {
			t.Fatal(err)
		}
		acl.Add(key)
	}
	return acl
}

// contents is an item with its NAR.
type contents struct {
	nar.Item
	NAR string
}

// readArchive reads an archive and checks the signatures, if there is an acl.
func readArchive(r io.Reader, acl *signature.ACL) ([]contents, error) {
	a := nar.NewArchiveReader(r, store.DefaultDir)
	var items []contents
	for {
		n, err := a.Next()
		if errors.Is(err, io.EOF) {
			return items, nil
		}
		if err != nil {
			return items, err
		}
		b, err := io.ReadAll(n)
		if err != nil {
			return items, err
		}
		item, err := a.Item()
		if err != nil {
			return items, err
		}
		if acl != nil {
			if _, err := acl.Check(item.Signature, item.SignedHash); err != nil {
				return items, err
			}
		}
		items = append(items, contents{*item, string(b)})
	}
}

// writeArchive writes items; if known is set, it gives the writer what is known of
// their NARs.
func writeArchive(w io.Writer, items []contents, known bool, sign func(contents, store.Hash) (string, error)) error {
	a := nar.NewArchiveWriter(w)
	for _, c := range items {
		item := nar.Item{Path: c.Path, References: c.References, Deriver: c.Deriver}
		if known {
			item.NARHash, item.NARSize, item.NARState = c.NARHash, c.NARSize, c.NARState
		}
		err := a.WriteItem(&item,
			func(w io.Writer) error { _, err := io.WriteString(w, c.NAR); return err },
			func(h store.Hash) (string, error) { return sign(c, h) })
		if err != nil {
			return err
		}
		if diff := cmp.Diff(c.Item, item, cmpopts.IgnoreFields(nar.Item{}, "NARState")); diff != "" {
			return errors.New(diff)
		}
	}
	return a.Close()
}

// TestArchive reads what Guix wrote, and writes it again to the byte.
func TestArchive(t *testing.T) {
	key, err := signature.ParsePrivateKey(readFile(t, "vec-signing-key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	recorded := func(c contents, _ store.Hash) (string, error) { return c.Signature, nil }
	signed := func(_ contents, h store.Hash) (string, error) { return key.Sign(h) }
	const (
		tree   = "/gnu/store/v59jh5m089x5kr82bvg27n51gfkx25fh-tree"
		refs   = "/gnu/store/44frx024lisp7l7pqmx9imbaaqn6bbvi-refs"
		script = "/gnu/store/wz5jnqcbfxazw5clg3c830am5a8w0kva-vec-script.sh"
		with   = "/gnu/store/4rhap45gm8x4xb2iwcsc0caqc6hj8g0m-vec-with-refs"
		output = "/gnu/store/8d06rznafs59sm042rbk05zrv16b1gpx-vec-output"
		drv    = "/gnu/store/9y2byljhx1811izhv363y1pqb5z85jif-vec-output.drv"
		noDrv  = "/gnu/store/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-x.drv"
	)
	for _, tc := range []struct {
		name string
		sign func(contents, store.Hash) (string, error)
		want []nar.Item // hashes and signatures left out
	}{
		{"two.export", recorded, []nar.Item{{Path: tree, References: []store.Path{}}, {Path: refs, References: []store.Path{tree}}}},
		{"refs.export", recorded, []nar.Item{{Path: refs, References: []store.Path{tree}}}},
		{"export/empty.nar-bundle", signed, nil},
		{"export/one-item.nar-bundle", signed, []nar.Item{{Path: with, References: []store.Path{script}}}},
		{"export/three-items.nar-bundle", signed, []nar.Item{
			{Path: script, References: []store.Path{}},
			{Path: with, References: []store.Path{script}},
			{Path: output, References: []store.Path{with, output, script}, Deriver: drv},
		}},
		{"export/good-resigned-compact.nar-bundle", recorded, []nar.Item{{Path: with, References: []store.Path{script}}}},
		{"export/ok-deriver-not-valid.nar-bundle", recorded, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			input := readFile(t, tc.name)
			for name, r := range map[string]io.Reader{
				"whole": bytes.NewReader(append(slices.Clone(input), "rest"...)),
				"bytes": iotest.OneByteReader(strings.NewReader(string(input) + "rest")),
			} {
				items, err := readArchive(r, acl(t))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if rest, err := io.ReadAll(r); err != nil || string(rest) != "rest" {
					t.Errorf("%s: after the archive: %q, %v", name, rest, err)
				}
				for _, known := range []bool{false, true} {
					var b bytes.Buffer
					if err := writeArchive(&b, items, known, tc.sign); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(b.Bytes(), input) {
						t.Errorf("%s: written again, it is different (known: %t)", name, known)
					}
				}
				if tc.want == nil {
					continue
				}
				var got []nar.Item
				for _, c := range items {
					got = append(got, nar.Item{Path: c.Path, References: c.References, Deriver: c.Deriver})
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
		})
	}
}

func TestArchiveHashes(t *testing.T) {
	items, err := readArchive(bytes.NewReader(readFile(t, "two.export")), acl(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := items[0].NARHash.String(), "sha256:0si3djhx8gbd0x86n2snj8akg58a6rxf65z8fsm5r0lfih9806ni"; got != want {
		t.Errorf("NARHash: got %s, want %s", got, want)
	}
	if got, want := items[0].SignedHash.Base16(), "d6564230c481bb23e4b1497834907930a4f01673d147c45c8b312c6d82c544f4"; got != want {
		t.Errorf("SignedHash: got %s, want %s", got, want)
	}
	if items[0].NARSize != 1202360 {
		t.Errorf("NARSize: got %d", items[0].NARSize)
	}
}

// TestArchiveKnown writes items with a state that is not, or no more, that of the NAR.
func TestArchiveKnown(t *testing.T) {
	items, err := readArchive(bytes.NewReader(readFile(t, "two.export")), acl(t))
	if err != nil {
		t.Fatal(err)
	}
	c := items[0]
	if c.NARState == nil || items[1].NARState != nil {
		t.Fatalf("states of %d and %d bytes for NARs of %d and %d", len(c.NARState), len(items[1].NARState), c.NARSize, items[1].NARSize)
	}
	noSignature := func(store.Hash) (string, error) { return "signature", nil }
	write := func(item nar.Item, contents string) (nar.Item, error) {
		err := nar.NewArchiveWriter(io.Discard).WriteItem(&item, func(w io.Writer) error {
			_, err := io.WriteString(w, contents)
			return err
		}, noSignature)
		return item, err
	}
	for _, state := range [][]byte{nil, {}, []byte("nonsense"), c.NARState[:50], append([]byte("x"), c.NARState[1:]...)} {
		item := c.Item
		item.NARState, item.NARHash = state, store.Hash{1}
		got, err := write(item, c.NAR)
		if err != nil || got.NARHash != c.NARHash || got.SignedHash != c.SignedHash {
			t.Errorf("state %.20q: %v, %s", state, err, got.NARHash)
		}
	}
	flipped := []byte(c.NAR)
	flipped[len(flipped)/2] ^= 1
	if got, err := write(c.Item, string(flipped)); err != nil || got.SignedHash != c.SignedHash {
		t.Errorf("a NAR that has changed: %v, signed %s, want what was signed before", err, got.SignedHash)
	}
	if _, err := write(c.Item, c.NAR+"12345678"); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a NAR of another size: %v", err)
	}
}

// TestArchiveSkips checks that Item and Next read what the caller has not.
func TestArchiveSkips(t *testing.T) {
	a := nar.NewArchiveReader(bytes.NewReader(readFile(t, "two.export")), store.DefaultDir)
	if _, err := a.Item(); err == nil {
		t.Error("Item before Next: no error")
	}
	a = nar.NewArchiveReader(bytes.NewReader(readFile(t, "two.export")), store.DefaultDir)
	r, err := a.Next()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
		t.Fatal(err)
	}
	item, err := a.Item()
	if err != nil {
		t.Fatal(err)
	}
	if item.NARSize != 1202360 || item.NARHash.String() != "sha256:0si3djhx8gbd0x86n2snj8akg58a6rxf65z8fsm5r0lfih9806ni" {
		t.Errorf("after a part: got %d bytes, %s", item.NARSize, item.NARHash)
	}
	if again, err := a.Item(); err != nil || again != item {
		t.Errorf("Item again: got %v, %v", again, err)
	}
	if _, err := a.Next(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := a.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: got %v, want io.EOF", err)
		}
	}
}

// TestArchiveRefuses reads what Guix refuses, and what it had better refuse.
func TestArchiveRefuses(t *testing.T) {
	for name, want := range map[string]struct {
		err  error
		text string
	}{
		"bad-content-flipped":             {store.ErrCorrupt, "hash mismatch"},
		"bad-hash-replaced-in-signature":  {store.ErrCorrupt, "invalid signature"},
		"bad-magic":                       {store.ErrCorrupt, "mark of an item's description"},
		"bad-nonzero-padding":             {store.ErrCorrupt, "padding is not zero"},
		"bad-not-a-sexp":                  {store.ErrCorrupt, "corrupt signature data"},
		"bad-path-changed":                {store.ErrCorrupt, "hash mismatch"},
		"bad-path-dotdot":                 {store.ErrCorrupt, "store path"},
		"bad-path-outside-store":          {store.ErrCorrupt, "not in the store"},
		"bad-reference-dropped":           {store.ErrCorrupt, "hash mismatch"},
		"bad-reference-not-valid":         {nil, ""}, // only a store can tell
		"bad-second-marker-2":             {store.ErrCorrupt, "found 0x2"},
		"bad-sexp-without-data":           {store.ErrCorrupt, "no data"},
		"bad-sigval-s-plus-1":             {store.ErrCorrupt, "invalid signature"},
		"bad-truncated-before-end-marker": {io.ErrUnexpectedEOF, "unexpected EOF"},
		"bad-truncated-in-nar":            {io.ErrUnexpectedEOF, "unexpected EOF"},
		"bad-unauthorized-key":            {store.ErrUnauthorized, "SHA256:"},
		"bad-unsigned":                    {store.ErrCorrupt, "lacks a signature"},
		"x-nar-duplicate":                 {store.ErrCorrupt, "appears twice"},
		"x-nar-entry-dotdot":              {store.ErrCorrupt, "forbidden"},
		"x-nar-entry-empty":               {store.ErrCorrupt, "empty"},
		"x-nar-entry-slash":               {store.ErrCorrupt, "slash"},
		"x-nar-nul-in-name":               {store.ErrCorrupt, "NUL"},
		"x-nar-unsorted":                  {store.ErrCorrupt, "order"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readArchive(bytes.NewReader(readFile(t, "export/"+name+".nar-bundle")), acl(t))
			if !errors.Is(err, want.err) {
				t.Fatalf("got %v, want %v", err, want.err)
			}
			if err != nil && !strings.Contains(err.Error(), want.text) {
				t.Errorf("got %v, want it to say %q", err, want.text)
			}
		})
	}
	files, err := filepath.Glob("testdata/export/*")
	if err != nil || len(files) != 28 {
		t.Errorf("testdata/export has %d files (%v): is each of them in a test?", len(files), err)
	}
}

func TestArchiveCutShort(t *testing.T) {
	for _, name := range []string{"refs.export", "export/three-items.nar-bundle"} {
		input := readFile(t, name)
		for n := range input {
			if _, err := readArchive(bytes.NewReader(input[:n]), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, %d bytes: got %v, want io.ErrUnexpectedEOF", name, n, err)
			}
		}
	}
}

// TestArchiveFlipped changes each bit of an archive: nothing else than the form of
// the signature's text may change without being noticed.
func TestArchiveFlipped(t *testing.T) {
	trusted := acl(t)
	for _, name := range []string{"refs.export", "export/one-item.nar-bundle"} {
		input := readFile(t, name)
		want, err := readArchive(bytes.NewReader(input), trusted)
		if err != nil {
			t.Fatal(err)
		}
		start := bytes.Index(input, []byte("(signature"))
		accepted := 0
		for i := range 8 * len(input) {
			flipped := slices.Clone(input)
			flipped[i/8] ^= 1 << (i % 8)
			got, err := readArchive(bytes.NewReader(flipped), trusted)
			if err != nil {
				if errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrUnauthorized) || errors.Is(err, io.ErrUnexpectedEOF) {
					continue
				}
				t.Fatalf("%s, bit %d of byte %d: an error of another kind: %v", name, i%8, i/8, err)
			}
			if i == 0 && len(got) == 0 {
				continue // the mark of an item became that of the end
			}
			if i/8 < start-8 { // what is before the signature and its length
				t.Errorf("%s, bit %d of byte %d: not noticed", name, i%8, i/8)
			}
			// Blanks and the case of digits carry no meaning.
			accepted++
			got[0].Signature = want[0].Signature
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, bit %d of byte %d: %s", name, i%8, i/8, diff)
			}
		}
		if accepted > 300 {
			t.Errorf("%s: %d changed bits were not noticed", name, accepted)
		}
	}
}

// part encodes a part of an archive.
func part(parts ...any) string {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case int:
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		case string:
			b = binary.LittleEndian.AppendUint64(b, uint64(len(v)))
			b = append(b, v...)
			b = append(b, make([]byte, -len(v)&7)...)
		}
	}
	return string(b)
}

func TestArchiveReaderRefuses(t *testing.T) {
	const (
		a = "/gnu/store/v59jh5m089x5kr82bvg27n51gfkx25fh-tree"
		b = "/gnu/store/44frx024lisp7l7pqmx9imbaaqn6bbvi-refs"
	)
	start := part(1, "nix-archive-1", "(", "type", "directory", ")", 0x4558494e)
	for _, tc := range []struct{ name, input, want string }{
		{"mark", part(2), "found 0x2 instead of the mark of an item or of the end"},
		{"no path", start + part(""), "not in the store"},
		{"inside an item", start + part(a+"/x"), "forbidden character"},
		{"other store", start + part("/nix/store/v59jh5m089x5kr82bvg27n51gfkx25fh-tree"), "not in the store /gnu/store"},
		{"long path", start + part(a+strings.Repeat("x", 2000)), "length"},
		{"many references", start + part(a, 1<<20), "count 1048576"},
		{"reference", start + part(a, 1, "/etc/passwd", ""), "reference:"},
		{"reference twice", start + part(a, 2, b, b, ""), "appears twice"},
		{"deriver", start + part(a, 0, "x.drv"), "deriver:"},
		{"has signature", start + part(a, 0, "", 2), "integer 2"},
		{"empty signature", start + part(a, 0, "", 1, ""), "signature is empty"},
		{"long signature", start + part(a, 0, "", 1, strings.Repeat("x", 1<<17)), "length 131072"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := nar.NewArchiveReader(strings.NewReader(tc.input), store.DefaultDir)
			_, err := r.Next()
			if err == nil {
				_, err = r.Item()
			}
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want store.ErrCorrupt with %q", err, tc.want)
			}
			if _, again := r.Next(); !errors.Is(again, err) {
				t.Errorf("the error did not stay: %v", again)
			}
		})
	}
}

func TestArchiveWriterRefuses(t *testing.T) {
	item := &nar.Item{Path: "/gnu/store/v59jh5m089x5kr82bvg27n51gfkx25fh-tree"}
	broken := errors.New("broken")
	good := func(w io.Writer) error { _, err := io.WriteString(w, part("nix-archive-1", "(")); return err }
	for _, tc := range []struct {
		name  string
		write func(io.Writer) error
		sign  func(store.Hash) (string, error)
		want  string
	}{
		{"nothing written", func(io.Writer) error { return nil }, nil, "is not a NAR"},
		{"not aligned", func(w io.Writer) error { _, err := io.WriteString(w, "x"); return err }, nil, "is not a NAR"},
		{"NAR fails", func(io.Writer) error { return broken }, nil, "broken"},
		{"sign fails", good, func(store.Hash) (string, error) { return "", broken }, "broken"},
		{"empty signature", good, func(store.Hash) (string, error) { return "", nil }, "empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := nar.NewArchiveWriter(io.Discard)
			err := w.WriteItem(item, tc.write, tc.sign)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), string(item.Path)) {
				t.Errorf("got %v, want %q and the path", err, tc.want)
			}
			if again := w.Close(); !errors.Is(again, err) {
				t.Errorf("Close: got %v, want the error that was there", again)
			}
		})
	}
	w := nar.NewArchiveWriter(io.Discard)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteItem(item, good, nil); err == nil {
		t.Error("an item after Close: no error")
	}
}

// TestArchiveToTree unpacks straight from an archive and packs straight into one.
func TestArchiveToTree(t *testing.T) {
	input := readFile(t, "two.export")
	a := nar.NewArchiveReader(bytes.NewReader(input), store.DefaultDir)
	var out bytes.Buffer
	w := nar.NewArchiveWriter(&out)
	for {
		r, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(t.TempDir(), "target")
		defer nar.RemoveAll(target)
		if err := nar.Unpack(r, target); err != nil {
			t.Fatal(err)
		}
		item, err := a.Item()
		if err != nil {
			t.Fatal(err)
		}
		text := item.Signature
		err = w.WriteItem(item,
			func(w io.Writer) error { return nar.Pack(w, target) },
			func(store.Hash) (string, error) { return text, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), input) {
		t.Error("packed again, it is different")
	}
}

// TestArchiveErrorsAreSaidOnce checks the text of errors that pass through several
// readers.
func TestArchiveErrorsAreSaidOnce(t *testing.T) {
	input := readFile(t, "export/x-nar-duplicate.nar-bundle")
	for name, tc := range map[string]struct {
		input        string
		unpack, item string
	}{
		"cut short": {string(input[:100]), `read NAR: offset 88, in "": unexpected EOF`, `read archive: item 1: offset 96: unexpected EOF`},
		"bad": {
			string(input), `read NAR: offset 336, in "a": the name "a" appears twice`,
			`read archive: item 1: read NAR: offset 344, in "a": the name "a" appears twice`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := nar.NewArchiveReader(strings.NewReader(tc.input), store.DefaultDir)
			r, err := a.Next()
			if err != nil {
				t.Fatal(err)
			}
			err = nar.Unpack(r, filepath.Join(t.TempDir(), "target"))
			if err == nil || err.Error() != tc.unpack {
				t.Errorf("Unpack: got %v, want %s", err, tc.unpack)
			}
			if _, err := a.Item(); err == nil || err.Error() != tc.item {
				t.Errorf("Item: got %v, want %s", err, tc.item)
			}
		})
	}
}
