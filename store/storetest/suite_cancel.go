package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"lighter/store"
)

// testCanceled calls everything with a context that is over.
func testCanceled(t *testing.T, s *suite) {
	it, fresh := s.make(t, "item"), s.make(t, "fresh")
	s.fill(t, it)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	want := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", what, err)
		}
	}
	_, err := s.importer(t).Import(ctx, s.archive(t, fresh), store.ImportOptions{})
	want("Import", err)
	if exporter, ok := s.store.(store.Exporter); ok {
		want("Export", exporter.Export(ctx, io.Discard, []store.Path{it.path}))
	}
	if w, ok := s.store.(store.NARWriter); ok {
		want("WriteNAR", w.WriteNAR(ctx, io.Discard, it.path))
	}
	var added []made
	if adder, ok := s.store.(store.Adder); ok {
		text, source := []byte("canceled "+s.nonce), treeNAR(t, "canceled "+s.nonce, nil)
		_, err := adder.AddText(ctx, "canceled", text, nil)
		want("AddText", err)
		_, err = adder.AddNAR(ctx, "canceled", bytes.NewReader(source))
		want("AddNAR", err)
		path, err := s.store.Dir().TextPath("canceled", text, nil)
		if err != nil {
			t.Fatal(err)
		}
		added = append(added, made{path: path})
	}
	if collector, ok := s.store.(store.Collector); ok && !s.Shared {
		_, err := collector.CollectGarbage(ctx, store.GCOptions{})
		want("CollectGarbage", err)
	}
	if verifier, ok := s.store.(store.Verifier); ok && !s.Shared {
		want("Verify", verifier.Verify(ctx, true, func(p store.VerifyProblem) { t.Errorf("a problem: %+v", p) }))
	}
	wantValid(t, s.store, false, append(added, fresh)...)
	wantContents(t, s.store, it)
}

// testCanceledImport cancels an import while it reads its second item.
func testCanceledImport(t *testing.T, s *suite) {
	first, second := s.make(t, "first"), s.make(t, "second")
	archive := archiveOf(t, s.Key, first, second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cut := len(archive) - len(second.nar)/2
	r := io.MultiReader(bytes.NewReader(archive[:cut]), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, io.EOF
	}), bytes.NewReader(archive[cut:]))
	_, err := s.importer(t).Import(ctx, r, store.ImportOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Import: %v, want context.Canceled", err)
	}
	wantValid(t, s.store, false, second)
	if !s.Shared {
		wantContents(t, s.store, first)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
