package api

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckText says what is wrong with a text of one line: more than most bytes, bytes that are
// not UTF-8, or control characters, which would be commands to a terminal or the end of a
// line in a file. The name of what it is begins the error.
func CheckText(what, text string, most int) error {
	switch {
	case len(text) > most:
		return fmt.Errorf("%s has %d bytes, at most %d are taken", what, len(text), most)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s %.40q is not UTF-8", what, text)
	}
	if at := strings.IndexFunc(text, unicode.IsControl); at >= 0 {
		return fmt.Errorf("%s %.40q has a control character; want one line of plain text", what, text[at:])
	}
	return nil
}

// CheckTags says what is wrong with the tags of a build or a machine.
func CheckTags(tags map[string]string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("%d tags, at most %d are taken", len(tags), MaxTags)
	}
	for k, v := range tags {
		if k == "" || len(k)+len(v) > MaxTag {
			return fmt.Errorf("tag %.40q: a tag has a name, and at most %d bytes", k, MaxTag)
		}
		if err := CheckText("the name of a tag", k, MaxTag); err != nil {
			return err
		}
		if err := CheckText("the value of tag "+k, v, MaxTag); err != nil {
			return err
		}
	}
	return nil
}

// CheckTokens says what is wrong with the tokens of a request. A name is one word, as a feature is, without
// commas and "=": NAME=N is how they are written elsewhere.
func CheckTokens(tokens map[string]int) error {
	if len(tokens) > MaxTokenNames {
		return fmt.Errorf("%d names of tokens, at most %d are taken", len(tokens), MaxTokenNames)
	}
	for name, n := range tokens {
		if name == "" || len(name) > MaxToken || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ',' || r == '=' }) {
			return fmt.Errorf("token %.40q: want a word of at most %d bytes, without commas and =", name, MaxToken)
		}
		if err := CheckText("the name of a token", name, MaxToken); err != nil {
			return err
		}
		if n < 1 || n > MaxTokens {
			return fmt.Errorf("token %s: %d is not in 1 to %d", name, n, MaxTokens)
		}
	}
	return nil
}
