package daemon

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
)

// What guix-daemon would not take is refused before it is asked: there is none here.
func TestAddSubstituteRefuses(t *testing.T) {
	s, err := New(Options{Socket: "/nonexistent/socket"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	path := func(name string) store.Path {
		p, err := s.Dir().MakePath("output:out", store.Hash{1}, name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	file := func(executable bool, size uint64) []byte {
		var b bytes.Buffer
		w := nar.NewWriter(&b)
		err := w.WriteHeader(&nar.Header{Kind: nar.Regular, Executable: executable, Size: 9})
		if err == nil {
			_, err = w.Write(make([]byte, 9))
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		// The length stands after the word "contents".
		text := b.Bytes()
		binary.LittleEndian.PutUint64(text[bytes.Index(text, []byte("contents"))+8:], size)
		return text
	}
	var folder bytes.Buffer
	w := nar.NewWriter(&folder)
	if err := errors.Join(w.WriteHeader(&nar.Header{Kind: nar.Directory}), w.Close()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		info     store.Info
		contents []byte
		want     error
	}{
		{"a folder that was built", store.Info{Path: path("a")}, folder.Bytes(), errors.ErrUnsupported},
		{"a file that was built", store.Info{Path: path("a")}, file(false, 9), errors.ErrUnsupported},
		{"a program that was built", store.Info{Path: path("a")}, file(true, 9), errors.ErrUnsupported},
		{"a file too large to look at", store.Info{Path: path("a")}, file(false, maxFlatItem+1), errors.ErrUnsupported},
		{"a derivation under a false name", store.Info{Path: path("a.drv")}, file(false, 9), store.ErrCorrupt},
		{"another hash", store.Info{Path: path("a"), NARHash: store.Hash{1}}, file(false, 9), store.ErrCorrupt},
	} {
		if test.info.NARHash.IsZero() {
			test.info.NARHash = sha256.Sum256(test.contents)
		}
		err := s.AddSubstitute(t.Context(), &test.info, bytes.NewReader(test.contents))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
	for _, urls := range [][]string{{""}, {"http://a b"}, {"http://a\n"}} {
		if err := s.Download(t.Context(), path("a"), urls); err == nil {
			t.Errorf("%q is a URL", urls)
		}
	}
}

func TestDownload(t *testing.T) {
	testkit.CheckLeaks(t)
	for _, urls := range [][]string{nil, {"https://a.example", "http://b.example"}} {
		pairs := []any{1, "multiplexed-build-output", "true"}
		if urls != nil {
			pairs = []any{2, "multiplexed-build-output", "true", "substitute-urls", "https://a.example http://b.example"}
		}
		s := startFake(t, play(t,
			step{enc(append([]any{opSetOptions, 0, 0, 0, 0, 0, 0, 0, 1, 1}, pairs...)...), enc(replyLast)},
			step{enc(opEnsurePath, nothing), enc(replyLast, 1)},
		)).open()
		if err := s.Download(soon(t), nothing, urls); err != nil {
			t.Error(err)
		}
	}
}
