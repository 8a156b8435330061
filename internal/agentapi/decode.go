package agentapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"lighter/internal/stream"
)

// transportError is a failure of the way to an agent in the middle of an answer, as
// opposed to an answer that cannot be right.
type transportError struct{ err error }

func (e *transportError) Error() string { return e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

// readAll reads what has no more than limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, &transportError{err}
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("it has more than %d bytes", limit)
	}
	return text, nil
}

// decodeOne reads an answer that is one value of at most limit bytes.
func decodeOne(r io.Reader, limit int64, value any) error {
	text, err := readAll(r, limit)
	if err != nil {
		return err
	}
	return unmarshal(text, value)
}

// unmarshal decodes a value whose length is known to be bounded. JSON's null is no value.
func unmarshal(text []byte, value any) error {
	if n := bytes.Count(text, []byte("{")); n > maxObjects {
		return fmt.Errorf("it has %d objects, more than %d", n, maxObjects)
	}
	if text = bytes.TrimSpace(text); bytes.Equal(text, []byte("null")) {
		return errors.New("it is null")
	}
	return json.Unmarshal(text, value)
}

// listReader reads an answer that is a list, one bounded element at a time.
type listReader struct {
	// field is what has the list; if it is empty the answer is the list.
	field   string
	element int64 // bytes of one element, at most
	most    int   // elements
	// each is called with each element, and other, if not nil, with the answer's other fields.
	each  func(text json.RawMessage) error
	other func(name string, text json.RawMessage) error

	decoder *json.Decoder
	from    *stream.Allowance
}

var errTooLong = errors.New("an element is too long")

// read reads it. null is an empty list. What comes after the answer, or twice, is an
// error.
func (l listReader) read(r io.Reader) error {
	l.from = &stream.Allowance{R: r, TooMuch: errTooLong}
	l.decoder = json.NewDecoder(l.from)
	err := l.answer()
	if l.from.Failed != nil {
		return &transportError{l.from.Failed}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (l *listReader) answer() error {
	var err error
	if l.field == "" {
		err = l.list()
	} else {
		err = l.object()
	}
	if err != nil {
		return err
	}
	if _, err := l.token(); err == nil {
		return errors.New("something comes after it")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (l *listReader) object() error {
	if err := l.delimiter('{'); err != nil {
		return err
	}
	found := false
	for l.more() {
		token, err := l.token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		switch {
		case name == l.field && found:
			return fmt.Errorf("%s appears twice", name)
		case name == l.field:
			found = true
			err = l.list()
		default:
			err = l.others(name)
		}
		if err != nil {
			return err
		}
	}
	if err := l.delimiter('}'); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("it lacks %s", l.field)
	}
	return nil
}

func (l *listReader) others(name string) error {
	text, err := l.next()
	if err != nil || l.other == nil {
		return err
	}
	return l.other(name, text)
}

func (l *listReader) list() error {
	first, err := l.token()
	if err != nil || first == nil {
		return err
	}
	if first != json.Delim('[') {
		return errors.New("what should be a list is not one")
	}
	for n := 0; l.more(); n++ {
		if n == l.most {
			return fmt.Errorf("it lists more than %d", n)
		}
		text, err := l.next()
		if err == nil {
			err = l.each(text)
		}
		if err != nil {
			return err
		}
	}
	return l.delimiter(']')
}

func (l *listReader) more() bool {
	l.from.Left = l.element
	return l.decoder.More()
}

func (l *listReader) token() (json.Token, error) {
	l.from.Left = l.element
	return l.decoder.Token()
}

func (l *listReader) delimiter(want json.Delim) error {
	got, err := l.token()
	if err == nil && got != want {
		err = fmt.Errorf("want %q", rune(want))
	}
	return err
}

func (l *listReader) next() (text json.RawMessage, err error) {
	l.from.Left = l.element
	err = l.decoder.Decode(&text)
	return text, err
}
