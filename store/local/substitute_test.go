package local

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/store"
	"lighter/store/storetest"
)

// errOther stands for an error that matches none.
var errOther = errors.New("another error")

// TestAddSubstitute goes through its cases in order: later ones find what earlier ones added.
func TestAddSubstitute(t *testing.T) {
	from := storetest.NewMemory(store.DefaultDir, nil, nil)
	lib, err := from.AddText(t.Context(), "lib", []byte("library"), nil)
	if err != nil {
		t.Fatal(err)
	}
	top, err := from.AddText(t.Context(), "top", []byte(lib), []store.Path{lib})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Root: t.TempDir(), Dir: store.DefaultDir, NoSync: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	itself := lib + "-itself"
	for _, test := range []struct {
		name   string
		item   store.Path
		change func(*store.Info)
		cut    int // bytes from the end of the NAR
		want   error
	}{
		{"another hash", lib, func(i *store.Info) { i.NARHash[0]++ }, 0, store.ErrCorrupt},
		{"another size", lib, func(i *store.Info) { i.NARSize++ }, 0, store.ErrCorrupt},
		{"half a NAR", lib, nil, 20, io.ErrUnexpectedEOF},
		{"a derivation under a false name", lib, func(i *store.Info) { i.Path += ".drv" }, 0, store.ErrCorrupt},
		{"another store", lib, func(i *store.Info) { i.Path = store.Path("/nix/store/" + i.Path.Base()) }, 0, errOther},
		{"a reference that is not there", top, nil, 0, store.ErrNotValid},
		{"good", lib, nil, 0, nil},
		{"what refers to it", top, nil, 0, nil},
		{"there already, and not read", lib, func(i *store.Info) { i.NARHash[0]++ }, 20, nil},
		{"what refers to itself", lib, func(i *store.Info) { i.Path, i.References = itself, []store.Path{itself} }, 0, nil},
	} {
		info, err := from.Info(t.Context(), test.item)
		if err != nil {
			t.Fatal(err)
		}
		if test.change != nil {
			test.change(info)
		}
		var contents bytes.Buffer
		if err := from.WriteNAR(t.Context(), &contents, test.item); err != nil {
			t.Fatal(err)
		}
		contents.Truncate(contents.Len() - test.cut)
		err = s.AddSubstitute(t.Context(), info, &contents)
		switch {
		case test.want == nil && err != nil, test.want != nil && err == nil:
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		case !errors.Is(err, test.want) && !errors.Is(test.want, errOther):
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		case err != nil && !strings.Contains(err.Error(), string(info.Path)):
			t.Errorf("%s: %v does not name %s", test.name, err, info.Path)
		}
	}
	valid, err := s.ValidPaths(t.Context(), []store.Path{lib, top, itself, lib + ".drv"})
	if err != nil || !slices.Equal(valid, []store.Path{lib, top, itself}) {
		t.Errorf("valid: %s, %v", valid, err)
	}
	if err := s.Verify(t.Context(), true, func(p store.VerifyProblem) { t.Errorf("%+v", p) }); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(s.layout.tmp(), "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %s, %v", left, err)
	}
}
