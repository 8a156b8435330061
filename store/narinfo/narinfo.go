// Package narinfo reads, checks, signs and writes narinfos, the small texts in which a
// substitute server tells of an item: name, hash, references, signature, and where its
// NAR can be downloaded. They are those of guix publish and guix substitute.
//
//	StorePath: /gnu/store/HASH-NAME
//	NarHash: sha256:BASE32
//	NarSize: 1202360
//	References: HASH-NAME HASH-NAME…
//	Deriver: HASH-NAME.drv
//	Signature: 1;HOST;BASE64
//	URL: nar/zstd/HASH-NAME
//	Compression: zstd
//	FileSize: 345678
//
// What is above the line of the signature is what was signed; what is below it may have been
// changed on the way. [Parse] believes what an item is only where it is signed,
// and that an item is what was signed only [Info.Verify] knows.
package narinfo

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"lighter/nar/signature"
	"lighter/store"
)

// MaxSize is how long a narinfo may be, in bytes. The longest have some thousand
// references of a hundred bytes.
const MaxSize = 1 << 20

// maxDownloads is how many URLs a narinfo may have; maxURL and maxWord bound each of them,
// and names of compressions and systems, in bytes.
const (
	maxDownloads = 16
	maxURL       = 2 << 10
	maxWord      = 255
)

// Ways to compress a NAR. Guix knows others too. Lzip is only read, never written.
const (
	None = "none"
	Gzip = "gzip"
	Lzip = "lzip"
	Zstd = "zstd"
)

// Download is one file in which the NAR is.
type Download struct {
	URL         string // absolute, or relative to the server
	Compression string // "none", "gzip", "zstd", or what Parse found
	FileSize    int64  // bytes of the file; 0 if it is not known
}

// Info is one narinfo.
type Info struct {
	store.Info
	System    string // that it was built for; mostly not known
	Downloads []Download

	signed    string // the text that the signature covers
	signature string // the whole field; "" if there is none
}

// ErrUnsigned is matched by the error of Verify about a narinfo without a signature.
var ErrUnsigned = errors.New("it is not signed")

// corrupt returns an error that matches store.ErrCorrupt.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errNarinfo}, args...)...)
}

// errNarinfo says "narinfo" where store.ErrCorrupt says "archive".
var errNarinfo = narinfoError{}

type narinfoError struct{}

func (narinfoError) Error() string        { return "bad narinfo" }
func (narinfoError) Is(target error) bool { return target == store.ErrCorrupt }

// Parse reads a narinfo about an item of the store dir. What an item is (its name, hash,
// size, references, deriver and system) is read only above the signature, and each such
// field may stand there once; Guix, too, wants name, hash and references there. Of a text
// without a signature everything is read. Fields that are not known are ignored.
func Parse(dir store.Dir, text []byte) (*Info, error) {
	if len(text) > MaxSize {
		return nil, corrupt("it has %d bytes, more than %d", len(text), MaxSize)
	}
	if !utf8.Valid(text) {
		return nil, corrupt("it is not UTF-8")
	}
	p := &parser{dir: dir, info: new(Info), seen: make(map[string]bool)}
	rest := string(text)
	for rest != "" {
		var line string
		at := len(text) - len(rest)
		line, rest, _ = strings.Cut(rest, "\n")
		p.line++
		if err := p.field(line, string(text[:at])); err != nil {
			return nil, corrupt("line %d: %w", p.line, err)
		}
	}
	return p.end()
}

type parser struct {
	dir  store.Dir
	info *Info
	seen map[string]bool
	line int
}

// field reads one line. above is all of the text before it.
func (p *parser) field(line, above string) error {
	line = strings.TrimRight(line, " \r")
	if line == "" {
		return nil
	}
	if strings.ContainsFunc(line, unicode.IsControl) {
		return fmt.Errorf("%q has a control character", clip(line))
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("%q has no colon: want NAME: VALUE", clip(line))
	}
	value = strings.TrimSpace(value)
	switch name {
	case "URL", "Compression", "FileSize":
		return p.download(name, value)
	case "StorePath", "NarHash", "NarSize", "References", "Deriver", "System", "Signature":
		if p.seen[name] {
			return fmt.Errorf("a second %s", name)
		}
		p.seen[name] = true
	default:
		return nil
	}
	if name == "Signature" {
		// Guix looks for the word wherever it is, so that it must be nowhere else.
		if strings.Contains(above, "Signature:") {
			return errors.New("the word Signature: stands above as well")
		}
		p.info.signature, p.info.signed = value, above
		return nil
	}
	if p.seen["Signature"] {
		return fmt.Errorf("%s comes below the signature, where anyone may have written it", name)
	}
	if err := p.item(name, value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// item reads a field that says what the item is.
func (p *parser) item(name, value string) (err error) {
	switch name {
	case "StorePath":
		p.info.Path, err = p.dir.ParsePath(value)
	case "NarHash":
		if !strings.HasPrefix(value, "sha256:") {
			return fmt.Errorf("%q is not a SHA-256: want sha256: and its digits", clip(value))
		}
		p.info.NARHash, err = store.ParseHash(value)
	case "NarSize":
		p.info.NARSize, err = parseSize(value)
	case "References":
		p.info.References, err = p.references(value)
	case "Deriver":
		if value != "" && value != "unknown-deriver" {
			p.info.Deriver, err = p.path(value)
		}
	case "System":
		p.info.System, err = value, checkLength(value, maxWord)
	}
	return err
}

// path reads the name of an item, with or without its folder.
func (p *parser) path(s string) (store.Path, error) {
	if strings.HasPrefix(s, "/") {
		return p.dir.ParsePath(s)
	}
	return p.dir.Path(s)
}

func (p *parser) references(value string) ([]store.Path, error) {
	refs := make([]store.Path, 0, strings.Count(value, " ")+1)
	for name := range strings.FieldsSeq(value) {
		ref, err := p.path(name)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	slices.Sort(refs)
	return slices.Compact(refs), nil
}

// download reads a line of the groups that say where the NAR is. Each starts with a URL.
func (p *parser) download(name, value string) error {
	if name == "URL" {
		if len(p.info.Downloads) == maxDownloads {
			return fmt.Errorf("more than %d URLs", maxDownloads)
		}
		p.info.Downloads = append(p.info.Downloads, Download{URL: value})
		return checkLength(value, maxURL)
	}
	if len(p.info.Downloads) == 0 {
		return fmt.Errorf("%s stands above the first URL", name)
	}
	d := &p.info.Downloads[len(p.info.Downloads)-1]
	if name == "Compression" {
		d.Compression = value
		return checkLength(value, maxWord)
	}
	size, err := parseSize(value)
	if err != nil {
		return fmt.Errorf("FileSize: %w", err)
	}
	d.FileSize = size
	return nil
}

// end checks that nothing is missing.
func (p *parser) end() (*Info, error) {
	for _, name := range []string{"StorePath", "NarHash", "NarSize", "References"} {
		if !p.seen[name] {
			return nil, corrupt("it has no %s", name)
		}
	}
	if len(p.info.Downloads) == 0 {
		return nil, corrupt("it has no URL")
	}
	for i := range p.info.Downloads {
		// Guix: a file whose compression is not named is not compressed.
		if d := &p.info.Downloads[i]; d.Compression == "" {
			d.Compression = None
		}
	}
	return p.info, nil
}

func checkLength(value string, most int) error {
	if len(value) > most {
		return fmt.Errorf("%q has %d bytes, more than %d", clip(value), len(value), most)
	}
	return nil
}

func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of bytes", clip(s))
	}
	return n, nil
}

// clip shortens what is quoted in an error.
func clip(s string) string {
	const most = 60
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// Verify checks that a key of the ACL signed what the narinfo says of its item, and
// returns the key. The error matches ErrUnsigned, store.ErrUnauthorized or
// store.ErrCorrupt.
func (i *Info) Verify(acl *signature.ACL) (*signature.PublicKey, error) {
	if i.signature == "" {
		return nil, ErrUnsigned
	}
	text, err := signatureText(i.signature)
	if err != nil {
		return nil, err
	}
	return acl.Check(text, sha256.Sum256([]byte(i.signed)))
}

// signatureText returns the s-expression of "1;HOST;BASE64". Guix encodes its bytes, as if
// they were Latin-1, in UTF-8.
func signatureText(field string) (string, error) {
	version, rest, _ := strings.Cut(field, ";")
	_, encoded, ok := strings.Cut(rest, ";")
	if !ok {
		return "", corrupt("signature %q: want 1;HOST;BASE64", clip(field))
	}
	if version != "1" {
		return "", corrupt("signature %q: its version is not 1", clip(field))
	}
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", corrupt("signature: %w", err)
	}
	raw := make([]byte, 0, len(text))
	for _, c := range string(text) {
		if c > 0xff {
			return "", corrupt("signature: it has a character that is not a byte")
		}
		raw = append(raw, byte(c)) //nolint:gosec // it is a byte, checked above
	}
	return string(raw), nil
}

// Sign returns the narinfo of an item, signed. The host's name is for people. Each field
// of info, other than Registered, is in it.
func Sign(key *signature.PrivateKey, host string, info *store.Info, downloads []Download) ([]byte, error) {
	text := describe(info)
	sig, err := key.Sign(sha256.Sum256([]byte(text)))
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", info.Path, err)
	}
	var b strings.Builder
	b.WriteString(text)
	fmt.Fprintf(&b, "Signature: 1;%s;%s\n", cleanHost(host), encodeSignature(sig))
	for _, d := range downloads {
		fmt.Fprintf(&b, "URL: %s\nCompression: %s\n", d.URL, d.Compression)
		if d.FileSize > 0 {
			fmt.Fprintf(&b, "FileSize: %d\n", d.FileSize)
		}
	}
	// Nothing is written that would not be read.
	if _, err := Parse(info.Path.Dir(), []byte(b.String())); err != nil {
		return nil, fmt.Errorf("sign %s: %w", info.Path, err)
	}
	return []byte(b.String()), nil
}

// describe returns what is signed.
func describe(info *store.Info) string {
	var b strings.Builder
	bases := make([]string, 0, len(info.References))
	for _, r := range info.References {
		bases = append(bases, r.Base())
	}
	fmt.Fprintf(&b, "StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: %s\n",
		info.Path, info.NARHash, info.NARSize, strings.Join(bases, " "))
	if info.Deriver != "" {
		fmt.Fprintf(&b, "Deriver: %s\n", info.Deriver.Base())
	}
	return b.String()
}

// encodeSignature is the reverse of signatureText.
func encodeSignature(sig string) string {
	var utf strings.Builder
	for i := range len(sig) {
		utf.WriteRune(rune(sig[i]))
	}
	return base64.StdEncoding.EncodeToString([]byte(utf.String()))
}

// cleanHost leaves out of a host's name what would end the field.
func cleanHost(host string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == ';' || r == utf8.RuneError || r > '~' {
			return -1
		}
		return r
	}, host)
}
