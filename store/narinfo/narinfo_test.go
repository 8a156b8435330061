package narinfo

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"lighter/nar/signature"
	"lighter/store"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// aclOf authorizes the keys in files of testdata.
func aclOf(t testing.TB, names ...string) *signature.ACL {
	t.Helper()
	acl := new(signature.ACL)
	for _, name := range names {
		key, err := signature.ParsePublicKey(read(t, name))
		if err != nil {
			t.Fatal(err)
		}
		acl.Add(key)
	}
	return acl
}

func TestOfGuix(t *testing.T) {
	acl := aclOf(t, "signing-key.pub", "vec-signing-key.pub")
	files, err := filepath.Glob("testdata/*.narinfo")
	if err != nil || len(files) != 5 {
		t.Fatalf("got %d files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text := read(t, filepath.Base(file))
			info, err := Parse(store.DefaultDir, text)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := info.Verify(acl); err != nil {
				t.Error(err)
			}
			if _, err := info.Verify(new(signature.ACL)); !errors.Is(err, store.ErrUnauthorized) {
				t.Errorf("with an empty ACL: %v", err)
			}
			if got, want := describe(&info.Info), info.signed; got != want {
				t.Errorf("it would be written as\n%s, not\n%s", got, want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	info, err := Parse(store.DefaultDir, read(t, "8d06rznafs59sm042rbk05zrv16b1gpx.narinfo"))
	if err != nil {
		t.Fatal(err)
	}
	if want := store.Path("/gnu/store/8d06rznafs59sm042rbk05zrv16b1gpx-vec-output"); info.Path != want {
		t.Errorf("got path %s, want %s", info.Path, want)
	}
	if want := store.Path("/gnu/store/9y2byljhx1811izhv363y1pqb5z85jif-vec-output.drv"); info.Deriver != want {
		t.Errorf("got deriver %s, want %s", info.Deriver, want)
	}
	if len(info.References) != 3 || info.NARSize != 1144 {
		t.Errorf("got %d references and %d bytes, want 3 and 1144", len(info.References), info.NARSize)
	}
	want := []Download{
		{URL: "nar/gzip/8d06rznafs59sm042rbk05zrv16b1gpx-vec-output", Compression: Gzip},
		{URL: "nar/lzip/8d06rznafs59sm042rbk05zrv16b1gpx-vec-output", Compression: "lzip"},
	}
	if !reflect.DeepEqual(info.Downloads, want) {
		t.Errorf("got downloads %+v, want %+v", info.Downloads, want)
	}
}

func TestParseRefuses(t *testing.T) {
	good := string(read(t, "refs.narinfo"))
	replace := func(old, replacement string) string { return strings.Replace(good, old, replacement, 1) }
	above, below, _ := strings.Cut(good, "Signature:")
	for _, test := range []struct{ name, text, want string }{
		{"path of another store", replace("/gnu/store/", "/nix/store/"), "line 1: StorePath: store path"},
		{"no hash", replace("NarHash:", "NurHash:"), "no NarHash"},
		{"no references", replace("References:", "Refs:"), "no References"},
		{"another hash", replace("sha256:", "sha512:"), "not a SHA-256"},
		{"negative size", replace("NarSize: 168", "NarSize: -1"), "line 3: NarSize"},
		{"no URL", above, "no URL"},
		{"name twice", "StorePath: /gnu/store/v59jh5m089x5kr82bvg27n51gfkx25fh-tree\n" + good, "second StorePath"},
		{"name below", replace("StorePath: /gnu/store/44frx024lisp7l7pqmx9imbaaqn6bbvi-refs\n", "") + "StorePath: /gnu/store/v59jh5m089x5kr82bvg27n51gfkx25fh-tree\n", "below the signature"},
		{"references below", replace("References: v59jh5m089x5kr82bvg27n51gfkx25fh-tree\n", "") + "References: \n", "below the signature"},
		{"size below", replace("NarSize: 168\n", "") + "NarSize: 168\n", "below the signature"},
		{"escape", good + "X: \x1b[2J\n", "control character"},
		{"NUL in a URL", good + "URL: nar/\x00\n", "control character"},
		{"line within a line", replace("StorePath: ", "StorePath: \r"), "control character"},
		{"NEL", good + "X: \u0085\n", "control character"},
		{"signature twice", good + "Signature:" + below, "second Signature"},
		{"signature above", "X: Signature: 1\n" + good, "as well"},
		{"path in a reference", replace("References: v", "References: ../v"), "References: store path"},
		{"no colon", "junk\n" + good, "line 1"},
		{"compression first", "Compression: gzip\n" + good, "above the first URL"},
		{"many URLs", good + strings.Repeat("URL: x\n", maxDownloads), "more than 16"},
		{"too long", good + strings.Repeat("#", MaxSize), "more than"},
		{"not UTF-8", good + "\xff", "UTF-8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(store.DefaultDir, []byte(test.text))
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want one with %q", err, test.want)
			}
		})
	}
}

// TestParseLineEnds reads what a server for another system may have made of a narinfo.
func TestParseLineEnds(t *testing.T) {
	text := strings.ReplaceAll(string(read(t, "refs.narinfo")), "\n", " \r\n")
	if _, err := Parse(store.DefaultDir, []byte(text)); err != nil {
		t.Error(err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	good := string(read(t, "refs.narinfo"))
	acl := aclOf(t, "signing-key.pub")
	above, rest, _ := strings.Cut(good, "Signature:")
	field, below, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	sexp, err := signatureText(field)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, text string
		want       error
	}{
		{"no signature", above + below, ErrUnsigned},
		{"another size", strings.Replace(good, "NarSize: 168", "NarSize: 169", 1), store.ErrCorrupt},
		{"another blank", strings.Replace(good, "NarSize: 168", "NarSize:  168", 1), store.ErrCorrupt},
		{"another version", strings.Replace(good, "Signature: 1;", "Signature: 2;", 1), store.ErrCorrupt},
		{"no host", strings.Replace(good, "Signature: 1;vm;", "Signature: 1;", 1), store.ErrCorrupt},
		{"no base64", strings.Replace(good, "1;vm;KH", "1;vm;!!", 1), store.ErrCorrupt},
		{"another signature", strings.Replace(good, field, "1;vm;"+encodeSignature(strings.Replace(sexp, "(s #B", "(s #A", 1)), 1), store.ErrCorrupt},
	} {
		t.Run(test.name, func(t *testing.T) {
			info, err := Parse(store.DefaultDir, []byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := info.Verify(acl); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestBelowTheSignature(t *testing.T) {
	info, err := Parse(store.DefaultDir, append(read(t, "tree.narinfo"), "FileSize: 7\n\nNew: field\n"...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := info.Verify(aclOf(t, "signing-key.pub")); err != nil {
		t.Error(err)
	}
	if got := info.Downloads[1].FileSize; got != 7 {
		t.Errorf("got file size %d, want 7", got)
	}
}

func TestSign(t *testing.T) {
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	acl := new(signature.ACL)
	acl.Add(key.Public())
	in, err := Parse(store.DefaultDir, read(t, "8d06rznafs59sm042rbk05zrv16b1gpx.narinfo"))
	if err != nil {
		t.Fatal(err)
	}
	downloads := []Download{{"nar/zstd/x", Zstd, 77}, {"nar/x", None, 0}}
	text, err := Sign(key, "my;host\n", &in.Info, downloads)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("Signature: 1;myhost;")) {
		t.Errorf("the host's name breaks the field:\n%s", text)
	}
	out, err := Parse(store.DefaultDir, text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Verify(acl); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(out.Info, in.Info) || !reflect.DeepEqual(out.Downloads, downloads) {
		t.Errorf("got %+v, want %+v", out, in)
	}
}

func TestSignatureBytes(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	got, err := signatureText("1;h;" + encodeSignature(string(every)))
	if err != nil || got != string(every) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCacheInfo(t *testing.T) {
	text := read(t, CacheInfoName)
	c, err := ParseCacheInfo(text)
	if err != nil {
		t.Fatal(err)
	}
	if want := (CacheInfo{StoreDir: store.DefaultDir, Priority: 100}); *c != want {
		t.Errorf("got %+v, want %+v", *c, want)
	}
	if c.String() != string(text) {
		t.Errorf("it is written as %q, not %q", c, text)
	}
	for _, bad := range []string{"", "StoreDir: store\n", "StoreDir: /gnu/store\nPriority: high\n", strings.Repeat("x", 5000)} {
		if _, err := ParseCacheInfo([]byte(bad)); err == nil {
			t.Errorf("%q was read", clip(bad))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"tree.narinfo", "refs.narinfo", "8d06rznafs59sm042rbk05zrv16b1gpx.narinfo"} {
		f.Add(read(f, name))
	}
	acl := aclOf(f, "signing-key.pub", "vec-signing-key.pub")
	f.Fuzz(func(t *testing.T, text []byte) {
		info, err := Parse(store.DefaultDir, text)
		if err != nil {
			return
		}
		if _, err := store.ParsePath(string(info.Path)); err != nil {
			t.Errorf("a narinfo of %q was read", info.Path)
		}
		_, _ = info.Verify(acl)
	})
}
