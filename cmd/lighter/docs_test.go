package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the line numbers of docs/design.md")

// TestWalk holds the places in the code that docs/design.md names against the code.
func TestWalk(t *testing.T) {
	const root, doc = "../..", "../../docs/design.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	const near = 60 // lines by which a place may be off: not every change is to update the document
	places := regexp.MustCompile("`([a-z/]+\\.go):([0-9]+)` `([A-Za-z]+)`")
	found, moved := 0, false
	right := places.ReplaceAllStringFunc(string(text), func(place string) string {
		found++
		m := places.FindStringSubmatch(place)
		code, err := os.ReadFile(filepath.Join(root, m[1]))
		if err != nil {
			t.Error(err)
			return place
		}
		at := regexp.MustCompile(`(?m)^func (\([a-z]+ \*?[A-Za-z]+\) )?` + m[3] + `\(`).FindIndex(code)
		if at == nil {
			t.Errorf("%s has no function %s", m[1], m[3])
			return place
		}
		line := 1 + strings.Count(string(code[:at[0]]), "\n")
		if said, err := strconv.Atoi(m[2]); err != nil || said < line-near || said > line+near {
			moved = true
		}
		return fmt.Sprintf("`%s:%d` `%s`", m[1], line, m[3])
	})
	if found == 0 {
		t.Fatal("docs/design.md names no place")
	}
	if *update {
		if err := os.WriteFile(doc, []byte(right), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if moved {
		t.Error("lines have moved: go test ./cmd/lighter -run TestWalk -update")
	}
}
