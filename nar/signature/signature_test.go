package signature

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lighter/store"
)

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vecKey is the private key of the files in testdata.
func vecKey(t testing.TB) *PrivateKey {
	t.Helper()
	key, err := ParsePrivateKey(readTestdata(t, "keys/vec-signing-key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func aclOf(keys ...*PublicKey) *ACL {
	acl := &ACL{}
	for _, key := range keys {
		acl.Add(key)
	}
	return acl
}

// TestSign reproduces signatures of Guix to the byte.
func TestSign(t *testing.T) {
	key := vecKey(t)
	acl := aclOf(key.Public())
	check := func(t *testing.T, hash []byte, want string) {
		t.Helper()
		got, err := key.Sign(store.Hash(hash))
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		signer, err := acl.Check(want, store.Hash(hash))
		if err != nil || !signer.Equal(key.Public()) {
			t.Errorf("Check: got %v, %v", signer, err)
		}
	}
	var deterministic struct {
		Signatures []struct {
			SHA256 string `json:"sha256"`
			Text   string `json:"signature_text"`
		}
	}
	readJSON(t, "sexp/deterministic-signatures.json", &deterministic)
	if len(deterministic.Signatures) != 26 {
		t.Errorf("%d signatures, want 26", len(deterministic.Signatures))
	}
	for _, tc := range deterministic.Signatures {
		t.Run(tc.SHA256, func(t *testing.T) { check(t, fromHex(t, tc.SHA256), tc.Text) })
	}
	var odd []struct {
		Name      string
		Hash      string `json:"hash_hex"`
		Signature string `json:"signature_hex"`
	}
	readJSON(t, "sexp/signature-odd-bytes.json", &odd)
	if len(odd) != 12 {
		t.Errorf("%d odd signatures, want 12", len(odd))
	}
	for _, tc := range odd {
		t.Run(tc.Name, func(t *testing.T) { check(t, fromHex(t, tc.Hash), string(fromHex(t, tc.Signature))) })
	}
}

func TestKeyFiles(t *testing.T) {
	for _, name := range []string{"keys/vec-signing-key.pub", "sexp/rsa2048.pub", "sexp/p256.pub", "sexp/p256ecc.pub", "sexp/dsa.pub", "sexp/eddsa.pub"} {
		text := readTestdata(t, name)
		key, err := ParsePublicKey(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if key.String() != string(text) {
			t.Errorf("%s: written as %q", name, key)
		}
		again, err := ParsePublicKey(key.sexp.Canonical())
		if err != nil || !again.Equal(key) || again.Fingerprint() != key.Fingerprint() {
			t.Errorf("%s: read from the canonical form: %v, %v", name, again, err)
		}
	}
	key := vecKey(t)
	if got, want := key.String(), string(readTestdata(t, "keys/vec-signing-key.sec")); got != want {
		t.Errorf("private key: got %q, want %q", got, want)
	}
	if got, want := key.Public().String(), string(readTestdata(t, "keys/vec-signing-key.pub")); got != want {
		t.Errorf("public half: got %q, want %q", got, want)
	}
	if !strings.HasPrefix(key.Public().Fingerprint(), "SHA256:") || len(key.Public().Fingerprint()) != len("SHA256:")+43 {
		t.Errorf("fingerprint: %s", key.Public().Fingerprint())
	}
}

func TestGenerateKey(t *testing.T) {
	seen := map[string]bool{}
	for i := range 20 {
		key, err := GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		if key.d[0]&0xc0 != 0x40 || key.d[31]&7 != 0 {
			t.Errorf("d is not clamped: %x", key.d)
		}
		again, err := ParsePrivateKey([]byte(key.String()))
		if err != nil || !again.Public().Equal(key.Public()) {
			t.Fatalf("read again: %v", err)
		}
		h := store.Hash(sha256.Sum256([]byte{byte(i)}))
		text, _ := key.Sign(h)
		if _, err := aclOf(key.Public()).Check(text, h); err != nil {
			t.Error(err)
		}
		seen[key.String()] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d different keys, want 20", len(seen))
	}
}

func TestPrivateKeyRefuses(t *testing.T) {
	good := string(readTestdata(t, "keys/vec-signing-key.sec"))
	for name, tc := range map[string]struct{ text, want string }{
		"syntax":     {strings.TrimSuffix(good, ")\n"), "no s-expression"},
		"public key": {string(readTestdata(t, "keys/vec-signing-key.pub")), "want (private-key"},
		"curve":      {strings.Replace(good, "Ed25519", "Ed448", 1), "curve"},
		"flags":      {strings.Replace(good, "(curve Ed25519)", "(curve Ed25519)(flags eddsa)", 1), "flags"},
		"other d":    {strings.Replace(good, "(d #71", "(d #72", 1), "does not belong"},
		"other q":    {strings.Replace(good, "(q #3C", "(q #3D", 1), "does not belong"},
		"no d":       {strings.Replace(good, "(d #", "(e #", 1), "want d"},
		"long d":     {strings.Replace(good, "(d #", "(d #00", 1), "want d"},
		"zero d":     {"(private-key (ecc (curve Ed25519) (q #00#) (d #00#)))", "zero"},
	} {
		_, err := ParsePrivateKey([]byte(tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, tc.want)
		}
		if err != nil && strings.Contains(strings.ToUpper(err.Error()), "711A3E05") {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func TestPublicKeyRefuses(t *testing.T) {
	for _, text := range []string{"", "()", "(public-key)", "(public-key ecc)", "(public-key (ecc) (ecc))", "(private-key (ecc))", "(public-key (elg (p #01#)))", "(public-key"} {
		if key, err := ParsePublicKey([]byte(text)); err == nil {
			t.Errorf("%q was read as %v", text, key)
		}
	}
}

func TestOtherKeyTypes(t *testing.T) {
	hello := store.Hash(sha256.Sum256([]byte("hello")))
	for name, want := range map[string]string{
		"rsa2048": "",
		"p256":    "",
		"p256ecc": "",
		"dsa":     "signatures by dsa keys can't be verified",
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ParsePublicKey(readTestdata(t, "sexp/"+name+".pub"))
			if err != nil {
				t.Fatal(err)
			}
			text := string(readTestdata(t, "sexp/"+name+".signature-of-sha256-hello"))
			_, err = aclOf(key).Check(text, hello)
			if want != "" {
				if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Error(err)
			}
			// The last digits of the value, and another algorithm's flags.
			broken := breakValue(t, text)
			for _, bad := range []string{broken, strings.NewReplacer("rfc6979", "pkcs1", "pkcs1", "rfc6979").Replace(text)} {
				if _, err := aclOf(key).Check(bad, hello); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "invalid signature") {
					t.Errorf("changed: got %v", err)
				}
			}
		})
	}
}

// breakValue changes the last digit of s.
func breakValue(t *testing.T, text string) string {
	t.Helper()
	start := strings.Index(text, "(s #")
	end := start + 4 + strings.IndexByte(text[start+4:], '#') - 1
	if start < 0 {
		t.Fatal("no s")
	}
	digit := byte('0')
	if text[end] == digit {
		digit = '1'
	}
	return text[:end] + string(digit) + text[end+1:]
}

// TestNISTCurves signs with the standard library.
func TestNISTCurves(t *testing.T) {
	h := store.Hash(sha256.Sum256([]byte("something")))
	for name, curve := range map[string]elliptic.Curve{"NIST P-256": elliptic.P256(), "NIST P-384": elliptic.P384(), "NIST P-521": elliptic.P521()} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		q, err := private.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		public := fmt.Sprintf("(public-key (ecc (curve %q) (q #%X#)))", name, q)
		key, err := ParsePublicKey([]byte(public))
		if err != nil {
			t.Fatal(err)
		}
		r, s, err := ecdsa.Sign(rand.Reader, private, h[:])
		if err != nil {
			t.Fatal(err)
		}
		format := "(signature (data (flags rfc6979) (hash sha256 #%X#)) (sig-val (ecdsa (r #%X#) (s #%X#))) %s)"
		if _, err := aclOf(key).Check(fmt.Sprintf(format, h[:], r.Bytes(), s.Bytes(), public), h); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.Add(s, big.NewInt(1))
		if _, err := aclOf(key).Check(fmt.Sprintf(format, h[:], r.Bytes(), s.Bytes(), public), h); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s, s + 1: got %v", name, err)
		}
		if _, err := aclOf(key).Check(fmt.Sprintf(format, h[:], r.Bytes(), bytes.Repeat([]byte{1}, 1000), public), h); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s, long s: got %v", name, err)
		}
	}
}

// order is L, the order of the group.
const order = "1000000000000000000000000000000014DEF9DEA2F79CD65812631A5CF5D3ED"

func TestCheckRefuses(t *testing.T) {
	key := vecKey(t)
	h := store.Hash(sha256.Sum256([]byte("hello")))
	good, _ := key.Sign(h)
	stranger, _ := GenerateKey()
	strange, _ := stranger.Sign(h)
	eddsa := readTestdata(t, "sexp/eddsa.pub")
	eddsaKey, err := ParsePublicKey(eddsa)
	if err != nil {
		t.Fatal(err)
	}
	number := func(name, digits string) string {
		start := strings.Index(good, "("+name+" #")
		end := start + strings.IndexByte(good[start:], ')')
		return good[:start] + "(" + name + " #" + digits + "#" + good[end:]
	}
	publicKey := good[strings.Index(good, "(public-key"):strings.LastIndex(good, ")")]
	acl := aclOf(eddsaKey, key.Public())
	badPoint, err := ParsePublicKey([]byte("(public-key (ecc (curve Ed25519) (q #0200000000000000000000000000000000000000000000000000000000000000#)))"))
	if err != nil {
		t.Fatal(err)
	}
	acl.Add(badPoint)
	for name, tc := range map[string]struct {
		text string
		hash store.Hash
		kind error
		want string
	}{
		"empty":                {"", h, store.ErrCorrupt, "lacks a signature"},
		"no s-expression":      {"this is not an s-expression", h, store.ErrCorrupt, "corrupt signature data"},
		"syntax":               {good[:50], h, store.ErrCorrupt, "corrupt signature data"},
		"control characters":   {"\x1b[31m(", h, store.ErrCorrupt, `\x1b`},
		"no data":              {strings.Replace(good, "(data", "(date", 1), h, store.ErrCorrupt, "no data"},
		"no key":               {strings.Replace(good, "(public-key", "(publi-key", 1), h, store.ErrCorrupt, "no public key"},
		"strange key":          {strings.Replace(good, "(ecc", "(elg", 1), h, store.ErrCorrupt, "corrupt signature data"},
		"unauthorized":         {strange, h, store.ErrUnauthorized, stranger.Public().Fingerprint()},
		"unauthorized, broken": {strings.Replace(strange, "(sig-val", "(sig-vax", 1), h, store.ErrUnauthorized, stranger.Public().Fingerprint()},
		"other hash":           {good, store.Hash{}, store.ErrCorrupt, "hash mismatch"},
		"short hash":           {strings.Replace(good, "(hash sha256 #2CF24DBA", "(hash sha256 #", 1), h, store.ErrCorrupt, "28 bytes"},
		"hash name":            {strings.Replace(good, "sha256", "sha512", 1), h, store.ErrCorrupt, "not sha256"},
		"no hash":              {strings.Replace(good, "(hash", "(hasch", 1), h, store.ErrCorrupt, "want (hash"},
		"no value":             {strings.Replace(good, "(sig-val", "(sig-vax", 1), h, store.ErrCorrupt, "sig-val"},
		"flags":                {strings.Replace(good, "rfc6979", "eddsa", 1), h, store.ErrCorrupt, "flags"},
		"no r":                 {strings.Replace(good, "(r #", "(x #", 1), h, store.ErrCorrupt, "want (ecdsa"},
		"rsa value":            {strings.Replace(good, "(ecdsa", "(rsa", 1), h, store.ErrCorrupt, "want (ecdsa"},
		"r zero":               {number("r", "00"), h, store.ErrCorrupt, "invalid signature"},
		"r empty":              {number("r", ""), h, store.ErrCorrupt, "invalid signature"},
		"s zero":               {number("s", "00"), h, store.ErrCorrupt, "invalid signature"},
		"r the order":          {number("r", order), h, store.ErrCorrupt, "invalid signature"},
		"s the order":          {number("s", order), h, store.ErrCorrupt, "invalid signature"},
		"s long":               {number("s", strings.Repeat("11", 40)), h, store.ErrCorrupt, "invalid signature"},
		"eddsa key":            {strings.Replace(good, publicKey, string(eddsa), 1), h, store.ErrCorrupt, "eddsa"},
		"no point":             {strings.Replace(good, publicKey, badPoint.String(), 1), h, store.ErrCorrupt, "not a point"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.text == good && tc.want != "hash mismatch" {
				t.Fatal("the case changes nothing")
			}
			key, err := acl.Check(tc.text, tc.hash)
			if key != nil {
				t.Errorf("a key was returned: %v", key)
			}
			if !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %v and %q", err, tc.kind, tc.want)
			}
			if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Errorf("control characters in %q", err)
			}
		})
	}
	// Neither blanks nor the form of atoms matter, nor zeros in front of numbers.
	s, err := ParseSexp([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(s.Canonical()), strings.Join(strings.Fields(good), " ")} {
		if _, err := acl.Check(text, h); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestFlippedBits changes every bit of the numbers in a signature.
func TestFlippedBits(t *testing.T) {
	key := vecKey(t)
	h := store.Hash(sha256.Sum256([]byte("hello")))
	r, s := sign(key.d, h)
	if err := verify(key.q, h, r[:], s[:]); err != nil {
		t.Fatal(err)
	}
	for i := range 256 {
		bit := byte(1) << (i % 8)
		for _, number := range []*[scalarLen]byte{&r, &s} {
			number[i/8] ^= bit
			if err := verify(key.q, h, r[:], s[:]); err == nil {
				t.Errorf("bit %d of a number: not noticed", i)
			}
			number[i/8] ^= bit
		}
		changed := h
		changed[i/8] ^= bit
		if err := verify(key.q, changed, r[:], s[:]); (err == nil) != (i/8 == 31 && i%8 < 3) {
			t.Errorf("bit %d of the hash: got %v", i, err) // its last 3 bits are cut off
		}
	}
}

func TestACL(t *testing.T) {
	for name, n := range map[string]int{"acl-empty": 0, "acl-two-keys": 2, "acl-five-key-types": 5} {
		text := readTestdata(t, "keys/"+name)
		acl, err := ParseACL(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(acl.Keys()) != n {
			t.Errorf("%s: %d keys, want %d", name, len(acl.Keys()), n)
		}
		if strings.TrimSpace(acl.String()) != strings.TrimSpace(string(text)) {
			t.Errorf("%s: written as %q", name, acl)
		}
	}
	two, err := ParseACL(readTestdata(t, "keys/acl-two-keys"))
	if err != nil {
		t.Fatal(err)
	}
	vec := vecKey(t).Public()
	if !two.Authorized(vec) || two.Add(vec) {
		t.Error("the key is listed, and was not found")
	}
	fresh, _ := GenerateKey()
	if two.Authorized(fresh.Public()) || !two.Add(fresh.Public()) || !two.Keys()[0].Equal(fresh.Public()) {
		t.Error("a new key comes first")
	}
	if !two.Remove(vec) || two.Remove(vec) || two.Authorized(vec) || len(two.Keys()) != 2 {
		t.Error("a removed key is gone")
	}
	entry := "(entry " + vec.String() + " (tag (guix import)))"
	twice, err := ParseACL([]byte("(acl " + entry + entry + ")"))
	if err != nil || len(twice.Keys()) != 1 {
		t.Errorf("an entry twice: got %v, %v", twice, err)
	}
	for name, text := range map[string]string{
		"other list": "(alc " + entry + ")",
		"nothing":    "",
		"no tag":     "(acl (entry " + vec.String() + "))",
		"other tag":  "(acl " + entry + strings.Replace(entry, "import", "export", 1) + ")",
		"more tags":  "(acl " + strings.Replace(entry, "(tag", "(tag) (tag", 1) + ")",
		"no key":     "(acl (entry (tag (guix import)) (tag (guix import))))",
		"atom":       "(acl x)",
		"syntax":     "(acl " + entry,
	} {
		if acl, err := ParseACL([]byte(text)); err == nil {
			t.Errorf("%s: read as %v", name, acl)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	file := filepath.Join(dir, "signing-key")
	key, _ := GenerateKey()
	if err := WriteKeyPair(file, key); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{SecretFile(file): 0o400, PublicFile(file): 0o444} {
		info, err := os.Stat(name)
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	secret, err := LoadPrivateKey(SecretFile(file))
	if err != nil || secret.String() != key.String() {
		t.Errorf("LoadPrivateKey: %v", err)
	}
	public, err := LoadPublicKey(PublicFile(file))
	if err != nil || !public.Equal(key.Public()) {
		t.Errorf("LoadPublicKey: %v", err)
	}
	other, _ := GenerateKey()
	if err := WriteKeyPair(file, other); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: got %v, want fs.ErrExist", err)
	}
	if err := os.Remove(SecretFile(file)); err != nil {
		t.Fatal(err)
	}
	if err := WriteKeyPair(file, other); !errors.Is(err, fs.ErrExist) {
		t.Errorf("with the public half there: got %v, want fs.ErrExist", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	for _, mode := range []fs.FileMode{0o440, 0o404, 0o600 | 0o020} {
		name := filepath.Join(dir, "open.sec")
		_ = os.Remove(name)
		if err := os.WriteFile(name, []byte(key.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPrivateKey(name); err == nil || !strings.Contains(err.Error(), "others than the owner") {
			t.Errorf("mode %v: got %v", mode, err)
		}
	}
	if _, err := LoadPrivateKey(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: got %v", err)
	}
}

func TestUpdateACL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	file := filepath.Join(dir, "acl")
	if acl, err := LoadACLIfAny(file); err != nil || len(acl.Keys()) > 0 {
		t.Errorf("without a file: %v, %v", acl, err)
	}
	if _, err := LoadACL(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: got %v", err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			key, _ := GenerateKey()
			if err := UpdateACL(file, func(acl *ACL) error { acl.Add(key.Public()); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	acl, err := LoadACL(file)
	if err != nil || len(acl.Keys()) != 20 {
		t.Fatalf("after 20 updates: %v, %v", acl, err)
	}
	refused := errors.New("refused")
	if err := UpdateACL(file, func(acl *ACL) error { acl.Remove(acl.Keys()[0]); return refused }); !errors.Is(err, refused) {
		t.Errorf("got %v, want %v", err, refused)
	}
	if again, err := LoadACL(file); err != nil || again.String() != acl.String() {
		t.Errorf("it was changed: %v", err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v; want 0644", info.Mode(), err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if err := os.WriteFile(file, []byte("(acl x)"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := UpdateACL(file, func(*ACL) error { return nil }); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken list: got %v", err)
	}
}

func BenchmarkSign(b *testing.B) {
	key := vecKey(b)
	h := store.Hash(sha256.Sum256([]byte("hello")))
	for b.Loop() {
		_, _ = key.Sign(h)
	}
}

func BenchmarkVerify(b *testing.B) {
	key := vecKey(b)
	h := store.Hash(sha256.Sum256([]byte("hello")))
	text, _ := key.Sign(h)
	acl := aclOf(key.Public())
	for b.Loop() {
		if _, err := acl.Check(text, h); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLoadOrCreateKeyPair has many want a key that is not there.
func TestLoadOrCreateKeyPair(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "signing-key")
	keys := make(chan string, 8)
	var created atomic.Int32
	for range cap(keys) {
		go func() {
			key, made, err := LoadOrCreateKeyPair(file)
			if err != nil {
				t.Error(err)
				keys <- ""
				return
			}
			if made {
				created.Add(1)
			}
			keys <- key.Public().String()
		}()
	}
	first := <-keys
	for range cap(keys) - 1 {
		if key := <-keys; key != first {
			t.Error("several keys were made")
		}
	}
	if n := created.Load(); n != 1 {
		t.Errorf("%d say that they made it", n)
	}
}
