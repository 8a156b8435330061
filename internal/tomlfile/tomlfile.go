// Package tomlfile reads the TOML files that a person writes, and says what is wrong in
// them: all at once, each with file, line, column, the text of the line, and what would
// be right; see [Error].
//
// A [Decoder] holds one document. [Decoder.Parse] returns its values as the TOML library
// has them, and with them a [Place], which knows where each stands. The methods that
// check values ([Decoder.Text], [Decoder.Integer], [Decoder.Size] and so on) report what
// is wrong and return something usable, so that the caller goes on and finds the rest.
// [Decoder.Err] is all that was found.
//
// It is the only importer of the TOML library, which reports places for wrong syntax
// alone.
package tomlfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/BurntSushi/toml"
)

// MaxSize bounds a file, in bytes.
const MaxSize = 16 << 20

// ReadFile returns the contents of a file of at most MaxSize bytes. What it should be,
// such as "machines file", is for the error alone.
func ReadFile(file, what string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(f, file, what)
}

// Read is ReadFile of a file that is open.
func Read(f io.Reader, file, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("read %s: more than %d bytes are no %s", file, MaxSize, what)
	}
	return data, nil
}

// Syntax is how a document writes things; for hints and errors. Its zero value is TOML's.
type Syntax struct {
	// Example writes a key with a value, which is written as in TOML. Nil: "key = value".
	Example func(key, value string) string
	// Boolean writes true or false. Nil: just so.
	Boolean func(v bool) string
}

// Decoder turns the values of one document into something typed, and reports all that is
// wrong.
type Decoder struct {
	Reporter
	Syntax Syntax
}

// NewDecoder returns a decoder of a document. The name of the file is for errors alone.
func NewDecoder(file string, data []byte) Decoder {
	return Decoder{Reporter: Reporter{File: file, Doc: strings.TrimPrefix(string(data), "\ufeff")}}
}

// Parse reads the document's TOML, and finds where its values stand. If the syntax is
// wrong, ok is false, and the first place was reported.
func (d *Decoder) Parse() (document map[string]any, root *Place, ok bool) {
	places := locate(d.Doc)
	if places.tooDeep >= 0 {
		d.Errorf(places.tooDeep, "", "tables or lists are nested more than %d deep", maxDepth)
		return nil, nil, false
	}
	if _, err := toml.Decode(d.Doc, &document); err != nil {
		d.syntaxError(err)
		return nil, nil, false
	}
	if places.twice >= 0 {
		d.Errorf(places.twice, "leave one of them out", "the key appears twice")
	}
	return document, places.root, true
}

func (d *Decoder) syntaxError(err error) {
	var syntax toml.ParseError
	if !errors.As(err, &syntax) {
		d.Errorf(0, "", "%s", strings.TrimPrefix(err.Error(), "toml: "))
		return
	}
	var hint string
	if strings.HasPrefix(syntax.Message, "expected value but found") {
		hint = `put a string in quotes: key = "value"`
	}
	d.Errorf(syntax.Position.Start, hint, "%s", syntax.Message)
}

// Example writes a key with a value as the document has it; for hints. The value is
// written as in TOML.
func (d *Decoder) Example(key, value string) string {
	if d.Syntax.Example != nil {
		return d.Syntax.Example(key, value)
	}
	return key + " = " + value
}

// FormatBoolean is how the document writes true or false.
func (d *Decoder) FormatBoolean(v bool) string {
	if d.Syntax.Boolean != nil {
		return d.Syntax.Boolean(v)
	}
	return fmt.Sprint(v)
}
