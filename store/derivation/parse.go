package derivation

import (
	"bytes"
	"fmt"
	"strings"

	"lighter/store"
)

// MaxSize bounds the text of a derivation, in bytes. The largest that Guix makes
// have a few hundred kilobytes.
const MaxSize = 16 << 20

// maxItems bounds the length of each list in a derivation.
const maxItems = 1 << 18

// SyntaxError says where a text stops being a derivation.
type SyntaxError struct {
	Offset int    // in bytes from the start of the text
	Want   string // what would be right there
	Found  string // a few of the bytes that are there; "" at the end of the text
}

func (e *SyntaxError) Error() string {
	found := "the text ends"
	if e.Found != "" {
		found = fmt.Sprintf("found %q", e.Found)
	}
	return fmt.Sprintf("derivation: offset %d: want %s, %s", e.Offset, e.Want, found)
}

// Parse reads the text of a derivation of the given store. The result does not
// share memory with text.
//
// It accepts what guix-daemon's own printer can have written, and nothing else.
// Beyond broken syntax it refuses, with a *SyntaxError:
//   - outputs, inputs, sources, variables or an input's output names that are not
//     sorted by bytes or occur twice (guix-daemon would sort them before hashing,
//     so the text would not be that of its own name);
//   - escapes other than \" \\ \n \r \t, and raw line feeds, carriage returns and
//     tabs, for the same reason; and NUL, where guix-daemon's printer ends a string;
//   - paths outside the store, and inputs that are not derivations;
//   - no outputs at all, an output with a hash beside others, a hash in anything
//     but lower-case base16, or of an algorithm that guix-daemon does not know;
//   - texts longer than MaxSize, lists of more than 262,144 items, and bytes after
//     the end.
//
// It does not compute whether the output paths are right: Check does.
func Parse(dir store.Dir, text []byte) (*Derivation, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("derivation: %d bytes are more than %d", len(text), MaxSize)
	}
	p := &parser{dir: dir, text: text}
	d := p.derivation()
	if p.err != nil {
		return nil, p.err
	}
	return d, nil
}

// parser keeps its first error; after it, all methods return zero values at once.
type parser struct {
	dir  store.Dir
	text []byte
	pos  int
	err  error
}

func (p *parser) derivation() *Derivation {
	d := new(Derivation)
	p.expect("Derive(")
	p.outputs(d)
	p.expect(",")
	p.inputs(d)
	p.expect(",")
	d.Sources = sortedList(p, p.storePath)
	p.expect(",")
	d.System = p.str()
	p.expect(",")
	d.Builder = p.str()
	p.expect(",")
	p.list(func() { d.Args = append(d.Args, p.str()) })
	p.expect(",")
	p.env(d)
	p.expect(")")
	if p.err == nil && p.pos < len(p.text) {
		p.fail(p.pos, "the end of the text")
	}
	return d
}

func (p *parser) outputs(d *Derivation) {
	start := p.pos
	p.list(func() {
		at := p.pos
		p.expect("(")
		o := Output{Name: p.str()}
		p.expect(",")
		o.Path = p.storePath()
		p.expect(",")
		o.HashAlgorithm = p.str()
		p.expect(",")
		o.Hash = p.str()
		p.expect(")")
		if n := len(d.Outputs); n > 0 {
			p.sorted(at, d.Outputs[n-1].Name, o.Name)
		}
		d.Outputs = append(d.Outputs, o)
	})
	if p.err != nil {
		return
	}
	if err := d.checkOutputs(); err != nil {
		p.fail(start, "right outputs ("+err.Error()+")")
	}
}

func (p *parser) inputs(d *Derivation) {
	p.list(func() {
		at := p.pos
		p.expect("(")
		in := Input{Path: p.storePath()}
		if p.err == nil && !in.Path.IsDerivation() {
			p.fail(at, "an input that is a derivation")
		}
		p.expect(",")
		in.Outputs = sortedList(p, p.str)
		p.expect(")")
		if n := len(d.Inputs); n > 0 {
			p.sorted(at, string(d.Inputs[n-1].Path), string(in.Path))
		}
		d.Inputs = append(d.Inputs, in)
	})
}

func (p *parser) env(d *Derivation) {
	p.list(func() {
		at := p.pos
		p.expect("(")
		v := EnvVar{Name: p.str()}
		p.expect(",")
		v.Value = p.str()
		p.expect(")")
		if n := len(d.Env); n > 0 {
			p.sorted(at, d.Env[n-1].Name, v.Name)
		}
		d.Env = append(d.Env, v)
	})
}

// sortedList reads a list in which each item is greater than the one before.
func sortedList[S ~string](p *parser, item func() S) (all []S) {
	p.list(func() {
		at := p.pos
		s := item()
		if len(all) > 0 {
			p.sorted(at, string(all[len(all)-1]), string(s))
		}
		all = append(all, s)
	})
	return all
}

// list reads "[", items with commas between them, and "]".
func (p *parser) list(item func()) {
	p.expect("[")
	if p.peek() == ']' {
		p.pos++
		return
	}
	for n := 0; p.err == nil; n++ {
		if n == maxItems {
			p.fail(p.pos, fmt.Sprintf("no more than %d items", maxItems))
			return
		}
		item()
		switch p.peek() {
		case ']':
			p.pos++
			return
		case ',':
			p.pos++
		default:
			p.fail(p.pos, "',' or ']'")
		}
	}
}

// str reads a string in quotes.
func (p *parser) str() string {
	p.expect(`"`)
	if p.err != nil {
		return ""
	}
	rest := p.text[p.pos:]
	if i := bytes.IndexAny(rest, "\"\\\n\r\t\x00"); i >= 0 && rest[i] == '"' {
		p.pos += i + 1
		return string(rest[:i])
	}
	return p.escaped()
}

// unescaped has what stands for each character after a backslash.
var unescaped = map[byte]byte{'"': '"', '\\': '\\', 'n': '\n', 'r': '\r', 't': '\t'}

// escaped reads the rest of a string that is not plain, and its closing quote.
func (p *parser) escaped() string {
	var b strings.Builder
	for ; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; c {
		case '"':
			p.pos++
			return b.String()
		case '\n', '\r', '\t', 0:
			p.fail(p.pos, "a string without raw control characters")
			return ""
		case '\\':
			p.pos++
			u, ok := unescaped[p.peek()]
			if !ok {
				p.fail(p.pos-1, `one of \" \\ \n \r \t`)
				return ""
			}
			b.WriteByte(u)
		default:
			b.WriteByte(c)
		}
	}
	p.fail(len(p.text), `'"'`)
	return ""
}

// storePath reads a string that names an item of the store.
func (p *parser) storePath() store.Path {
	at := p.pos
	s := p.str()
	if p.err != nil {
		return ""
	}
	path, err := p.dir.ParsePath(s)
	if err != nil {
		p.fail(at, "a store path ("+err.Error()+")")
	}
	return path
}

// sorted fails unless b, which was read at the offset, may come after a.
func (p *parser) sorted(at int, a, b string) {
	if p.err == nil && a >= b {
		p.fail(at, fmt.Sprintf("something that sorts after %q", abbreviate(a)))
	}
}

func (p *parser) expect(s string) {
	if p.err != nil {
		return
	}
	if !bytes.HasPrefix(p.text[p.pos:], []byte(s)) {
		p.fail(p.pos, "'"+s+"'")
		return
	}
	p.pos += len(s)
}

// peek returns the next byte, or 0 at the end and after an error.
func (p *parser) peek() byte {
	if p.err != nil || p.pos == len(p.text) {
		return 0
	}
	return p.text[p.pos]
}

func (p *parser) fail(at int, want string) {
	if p.err == nil {
		p.err = &SyntaxError{Offset: at, Want: want, Found: abbreviate(string(p.text[at:min(at+64, len(p.text))]))}
	}
}

// abbreviate cuts text for an error message.
func abbreviate(s string) string {
	const most = 48
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
