package machines

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/machines/scheme"
)

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
		{"no machine", `5 END`, "it printed 5, which is not a machine"},
		{"no field", `((name "a" "b")) END`, `it printed (name "a" "b"), which is not a field`},
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
