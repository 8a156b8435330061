package mirrors

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/store"
)

func TestReadScheme(t *testing.T) {
	for _, tt := range []struct {
		text string
		want any // nil for an error
	}{
		{`"http://x"`, "http://x"},
		{`("a" "b\n\"\\")`, []any{"a", "b\n\"\\"}},
		{" ; comment\n (gnu . ())", []any{symbol("gnu"), symbol("."), []any{}}},
		{`'(a 1 #t)`, []any{symbol("quote"), []any{symbol("a"), symbol("1"), symbol("#t")}}},
		{``, nil},
		{`(`, nil},
		{`)`, nil},
		{`"abc`, nil},
		{`"\q"`, nil},
		{`"\`, nil},
		{`'`, nil},
		{strings.Repeat("(", 200) + strings.Repeat(")", 200), nil},
	} {
		got, err := readScheme(tt.text)
		if (err != nil) != (tt.want == nil) {
			t.Errorf("%q: %v", tt.text, err)
		} else if diff := cmp.Diff(tt.want, got); err == nil && diff != "" {
			t.Errorf("%q (-want +got)\n%s", tt.text, diff)
		}
	}
}

func TestMirrors(t *testing.T) {
	mirrors, err := Parse(`((gnu "https://ftpmirror.gnu.org/gnu/" "ftp://x/gnu") (kde) (cpan "http://www.cpan.org/"))`)
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string][]string{
		"mirror://gnu/hello/hello-2.12.tar.gz": {"https://ftpmirror.gnu.org/gnu/hello/hello-2.12.tar.gz", "ftp://x/gnu/hello/hello-2.12.tar.gz"},
		"mirror://kde/x":                       nil,
		"mirror://unknown/x":                   nil,
		"https://example.org/x":                {"https://example.org/x"},
	} {
		if diff := cmp.Diff(want, Expand(mirrors, address)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", address, diff)
		}
	}
	for _, bad := range []string{`"x"`, `("x")`, `(())`, `(("gnu" "x"))`, `((gnu x))`} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// guixContentMirrors has the shape of %content-addressed-mirrors in (guix download).
const guixContentMirrors = `(begin
  (use-modules (guix base32))
  (define (guix-publish host)
    (lambda (file algo hash)
      ;; Files served by 'guix publish'.
      (string-append "https://" host "/file/" file "/" (symbol->string algo) "/" (bytevector->nix-base32-string hash))))
  (list (guix-publish "ci.example.org")
        (guix-publish "other.example.org")
        (lambda (file algo hash)
          (string-append "https://tarballs.example.org/" (symbol->string algo) "/" (bytevector->nix-base32-string hash)))
        (lambda (file algo hash)
          (if (eq? algo 'sha256) "https://conditional.example.org" #f))
        (lambda (file algo hash)
          (string-append "https://archive.example.org/api/1/content/" (symbol->string algo) ":" (bytevector->base16-string hash) "/raw/"))))`

func TestContentMirrors(t *testing.T) {
	digest, err := hex.DecodeString("f245786c831d25150f3dfb4317cda1acc5e3f79a5da4ad073ddca58886569527")
	if err != nil {
		t.Fatal(err)
	}
	got, skipped, err := ByHash(guixContentMirrors, "x.tar.xz", "sha256", digest)
	if err != nil || skipped != 1 {
		t.Fatalf("%d skipped, %v", skipped, err)
	}
	want := []string{
		"https://ci.example.org/file/x.tar.xz/sha256/" + store.EncodeBase32(digest),
		"https://other.example.org/file/x.tar.xz/sha256/" + store.EncodeBase32(digest),
		"https://tarballs.example.org/sha256/" + store.EncodeBase32(digest),
		"https://archive.example.org/api/1/content/sha256:f245786c831d25150f3dfb4317cda1acc5e3f79a5da4ad073ddca58886569527/raw/",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got)\n%s", diff)
	}
	for _, bad := range []string{
		`"x"`, `(list`, `(unknown)`, `()`, `(define)`, `(lambda x "y")`,
		`(begin (define (f) (f)) (list (f)))`,
		`(begin (define (f x) (f (string-append x x))) (f "12345678"))`,
	} {
		if got, _, err := ByHash(bad, "x", "sha256", digest); err == nil {
			t.Errorf("%s was taken: %q", bad, got)
		}
	}
}

func FuzzScheme(f *testing.F) {
	f.Add(guixContentMirrors)
	f.Add(`((gnu "https://ftpmirror.gnu.org/gnu/") (cpan))`)
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = Parse(text)
		_, _, _ = ByHash(text, "x", "sha256", make([]byte, 32))
	})
}
