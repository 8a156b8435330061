package machines

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"lighter/machines/scheme"
)

// TestRealGuixAgrees reads all good files once with package scheme and once with the guix
// program that LIGHTER_TEST_GUIX names.
func TestRealGuixAgrees(t *testing.T) {
	guix := os.Getenv("LIGHTER_TEST_GUIX")
	if guix == "" {
		t.Skip("LIGHTER_TEST_GUIX names no guix program")
	}
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
	guix := os.Getenv("LIGHTER_TEST_GUIX")
	if guix == "" {
		t.Skip("LIGHTER_TEST_GUIX names no guix program")
	}
	file := filepath.Join(t.TempDir(), "machines.scm")
	const text = `(define-syntax-rule (machine n field ...)
  (build-machine (name n) (user "u") field ...
                 (host-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDpf8W+vFz0WoC9lSKC0zs+o113ylen4DT8zwRxW2VZC")))
(display "this is no machine")
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
	if len(warnings) != 1 || !strings.Contains(warnings[0].Message, "this is no machine") {
		t.Errorf("got warnings %v", warnings)
	}
}

func TestGuixIsNotAskedWithoutNeed(t *testing.T) {
	opts := Options{Guix: "/nowhere/guix"}
	if _, _, err := Read(t.Context(), "testdata/guix/10-unknown-field.scm", opts); err == nil || strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a mistake: got %v", err)
	}
	_, _, err := Read(t.Context(), "testdata/guix/17-unbound-variable.scm", opts)
	var absent *scheme.Unsupported
	if !errors.As(err, &absent) || !strings.Contains(err.Error(), `there is no program "/nowhere/guix" to ask`) {
		t.Errorf("got %v", err)
	}
}

func TestGuixIsStopped(t *testing.T) {
	program := filepath.Join(t.TempDir(), "guix")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, err := Read(ctx, "testdata/guix/17-unbound-variable.scm", Options{Guix: program})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestGuixOutput(t *testing.T) {
	d := newDecoder("machines.scm", []byte("(list\n (build-machine))"), Guix)
	tests := []struct{ name, text, want string }{
		{"nothing", "", "it ended early"},
		{"no end", `((name "a"))`, "it ended early"},
		{"no machine", `5 END`, "it printed 5, which is no machine"},
		{"no field", `((name "a" "b")) END`, `it printed (name "a" "b"), which is no field`},
		{"no Scheme", `((name "a)`, "what it printed can't be read: 1:8: a string does not end"},
		{"good", `((name "a") (location ("/x/machines.scm" 2 1))) END`, ""},
		{"elsewhere", `((name "a") (location ("/x/other.scm" 900 1))) END`, ""},
		{"no place", `((name "a") (location #f)) END`, ""},
		{"huge place", `((name "a") (location ("machines.scm" 99999999999999999999 1e9))) END`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			records, err := d.guixOutput(tt.text, "/y/machines.scm")
			if got := errorText(err); got != tt.want {
				t.Fatalf("got %q; want %q", got, tt.want)
			}
			if err == nil && len(records) != 1 {
				t.Errorf("got %d records", len(records))
			}
			if want := len("(list\n "); tt.name == "good" && records[0].At != want {
				t.Errorf("it stands at %d; want %d", records[0].At, want)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
