package local

import "testing"

// What a builder says of names of files need not be UTF-8, and two of them stay apart.
func TestLastLines(t *testing.T) {
	l := &buildLog{tail: []byte("\x1b[31mno file a\xff\nno file a\xfe, caf\xc3\xa9\n")}
	if got, want := l.lastLines(), "[31mno file a\\xff\nno file a\\xfe, café"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
