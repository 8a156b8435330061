//go:build guixlab

package machines

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestRealGuixAgrees reads all good files once with package scheme and once with the real
// guix.
func TestRealGuixAgrees(t *testing.T) {
	const guix = "guix"
	dir := t.TempDir()
	t.Setenv("HOME", "/home/alice")
	archive, err := txtar.ParseFile("testdata/guix-good.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		if strings.HasSuffix(f.Name, ".scm") {
			if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	vectors, _ := filepath.Glob("testdata/guix/*.scm")
	own, _ := filepath.Glob(dir + "/*.scm")
	for _, file := range append(vectors, own...) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, warnings, wantErr := ParseGuix(file, data)
			d := newDecoder(file, data, Guix)
			records, notes, err := d.runGuix(t.Context(), file, Options{Guix: guix})
			if err != nil {
				if wantErr == nil {
					t.Errorf("Guix refuses what was accepted: %v", err)
				}
				return
			}
			if wantsList := len(warnings) == 1 && strings.Contains(warnings[0].Message, "not a list of"); wantsList != strings.Contains(notes, "did not return a list") {
				t.Errorf("Guix says %q; the warnings are %v", notes, warnings)
			}
			got, _, err := d.guixMachines(records)
			if (err == nil) != (wantErr == nil) {
				t.Errorf("got %v; want %v", err, wantErr)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("machines (-own +Guix):\n%s", diff)
			}
		})
	}
}

// TestRealGuixReadsTheRest has a file that only Guile can evaluate.
func TestRealGuixReadsTheRest(t *testing.T) {
	const guix = "guix"
	file := filepath.Join(t.TempDir(), "machines.scm")
	const text = `(define-syntax-rule (machine n field ...)
  (build-machine (name n) (user "u") field ...
                 (host-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDpf8W+vFz0WoC9lSKC0zs+o113ylen4DT8zwRxW2VZC")))
(display "this is not a machine")
(list (machine "a" (systems '("x86_64-linux")))
      (machine "b" (systems '("x86_64-linux")) (speed -1)))
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := Read(t.Context(), file, Options{Guix: guix})
	var first *Error
	if !errors.As(err, &first) || !strings.Contains(first.Message, "speed is -1") || first.Line != 6 {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "-1", "1/2")), 0o600); err != nil {
		t.Fatal(err)
	}
	all, warnings, err := Read(t.Context(), file, Options{Guix: guix})
	if err != nil || len(all) != 2 || all[0].Name != "a" || all[1].Speed != 0.5 || all[0].PrivateKey != "" {
		t.Errorf("got %+v, %v", all, err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0].Message, "this is not a machine") {
		t.Errorf("got warnings %v", warnings)
	}
}
