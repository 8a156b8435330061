package nar

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"lighter/store"
)

// encode puts strings and integers into the encoding of NARs.
func encode(parts ...any) string {
	var b []byte
	for _, part := range parts {
		switch v := part.(type) {
		case int64:
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		case int:
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		case string:
			b = binary.LittleEndian.AppendUint64(b, uint64(len(v)))
			b = append(b, v...)
			b = append(b, make([]byte, -len(v)&7)...)
		default:
			panic(fmt.Sprintf("encode: %T", part))
		}
	}
	return string(b)
}

func file(contents string) string { return encode("(", "type", "regular", "contents", contents, ")") }

func folder(entries ...string) string {
	return encode("(", "type", "directory") + strings.Join(entries, "") + encode(")")
}

func entry(name, node string) string {
	return encode("entry", "(", "name", name, "node") + node + encode(")")
}
func symlink(target string) string { return encode("(", "type", "symlink", "target", target, ")") }
func archive(node string) string   { return encode(magic) + node }

// treeNAR is the NAR of the tree in two.export.
func treeNAR(t testing.TB) []byte {
	t.Helper()
	return readTestdata(t, "two.export")[8 : 8+1202360]
}

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// node is what a NAR says of one node.
type node struct {
	Header
	Contents string
}

func readAll(r io.Reader) ([]node, error) {
	n := NewReader(r)
	var nodes []node
	for {
		h, err := n.Next()
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nodes, err
		}
		contents, err := io.ReadAll(n)
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, node{*h, string(contents)})
	}
}

func writeAllNodes(w io.Writer, nodes []node) error {
	n := NewWriter(w)
	for _, node := range nodes {
		if err := n.WriteHeader(&node.Header); err != nil {
			return err
		}
		if _, err := io.WriteString(n, node.Contents); err != nil {
			return err
		}
	}
	return n.Close()
}

func TestReader(t *testing.T) {
	input := archive(folder(
		entry("\xe9 Latin-1", symlink("/gnu/store")),
	))
	small := archive(folder(
		entry("-", encode("(", "type", "regular", "executable", "", "contents", "12345678", ")")),
		entry("a", folder(entry("b", folder()), entry("c", file("x")))),
		entry("a.b", file("")),
		entry("b", symlink("../..")),
	))
	for _, tc := range []struct {
		name, input string
		want        []node
	}{
		{"file", archive(file("hello")), []node{{Header{Kind: Regular, Size: 5}, "hello"}}},
		{"symlink", archive(symlink("a")), []node{{Header{Kind: Symlink, Target: "a"}, ""}}},
		{"folder", archive(folder()), []node{{Header{Kind: Directory}, ""}}},
		{"not UTF-8", input, []node{
			{Header{Kind: Directory}, ""},
			{Header{Path: "\xe9 Latin-1", Kind: Symlink, Target: "/gnu/store"}, ""},
		}},
		{"tree", small, []node{
			{Header{Kind: Directory}, ""},
			{Header{Path: "-", Kind: Regular, Executable: true, Size: 8}, "12345678"},
			{Header{Path: "a", Kind: Directory}, ""},
			{Header{Path: "a/b", Kind: Directory}, ""},
			{Header{Path: "a/c", Kind: Regular, Size: 1}, "x"},
			{Header{Path: "a.b", Kind: Regular}, ""},
			{Header{Path: "b", Kind: Symlink, Target: "../.."}, ""},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"whole": strings.NewReader(tc.input + "rest"),
				"bytes": iotest.OneByteReader(strings.NewReader(tc.input + "rest")),
				"half":  iotest.HalfReader(strings.NewReader(tc.input + "rest")),
				"error": iotest.DataErrReader(strings.NewReader(tc.input)),
			} {
				got, err := readAll(r)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				if rest, err := io.ReadAll(r); err != nil || (name != "error" && string(rest) != "rest") {
					t.Errorf("%s: after the NAR: %q, %v", name, rest, err)
				}
			}
			var b bytes.Buffer
			if err := writeAllNodes(&b, tc.want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.input, b.String()); diff != "" {
				t.Errorf("written: %s", diff)
			}
		})
	}
}

// TestReaderSkips checks that Next goes on from anywhere in a file.
func TestReaderSkips(t *testing.T) {
	big := strings.Repeat("0123456789", 5000) + "x"
	input := archive(folder(entry("a", file(big)), entry("b", file(big)), entry("c", file(""))))
	for _, n := range []int{0, 1, 4096, len(big) - 1, len(big), len(big) + 1} {
		r := NewReader(strings.NewReader(input))
		var paths []string
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("after %d bytes: %v", n, err)
			}
			paths = append(paths, h.Path)
			if _, err := io.CopyN(io.Discard, r, int64(n)); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]string{"", "a", "b", "c"}, paths); diff != "" {
			t.Errorf("after %d bytes: %s", n, diff)
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("again: got %v, want io.EOF", err)
		}
		if r.w.Offset() != int64(len(input)) {
			t.Errorf("Offset: got %d, want %d", r.w.Offset(), len(input))
		}
	}
}

func TestReaderRealFiles(t *testing.T) {
	for _, tc := range []struct {
		name  string
		input []byte
		hash  string
	}{
		{"tree", treeNAR(t), "sha256:0si3djhx8gbd0x86n2snj8akg58a6rxf65z8fsm5r0lfih9806ni"},
		{"odd names", readTestdata(t, "odd-names.nar"), "sha256:0aa2g2my"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nodes, err := readAll(bytes.NewReader(tc.input))
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := writeAllNodes(&b, nodes); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), tc.input) {
				t.Error("written again, it is different")
			}
			var h Hasher
			h.Write(b.Bytes())
			if !strings.HasPrefix(h.Sum().String(), tc.hash) {
				t.Errorf("hash: got %s, want %s", h.Sum(), tc.hash)
			}
		})
	}
}

func TestReaderRefuses(t *testing.T) {
	deep := func(n int) string {
		return archive(strings.Repeat(encode("(", "type", "directory", "entry", "(", "name", "d", "node"), n))
	}
	long := strings.Repeat("x", 255)
	longPath := strings.Repeat(encode("(", "type", "directory", "entry", "(", "name", long, "node"), 17)
	for _, tc := range []struct{ name, input, path, want string }{
		{"other magic", encode("nix-archive-2"), "", `found "nix-archive-2"`},
		{"long magic", encode("nix-archive-1x"), "", "length 14 is more than 13"},
		{"other bracket", archive(encode("[")), "", `found "["`},
		{"padding of a word", encode(magic)[:23] + "\x01", "", "padding is not zero"},
		{"padding of contents", strings.Replace(archive(file("abc")), "abc\x00", "abc\x01", 1), "", "padding is not zero"},
		{"type", archive(encode("(", "type", "device")), "", `the type "device" is unknown`},
		{"type again", archive(encode("(", "type", "regular", "type", "regular")), "", `found "type"`},
		{"no contents", archive(encode("(", "type", "regular", ")")), "", `found ")"`},
		{"executable not empty", archive(encode("(", "type", "regular", "executable", "x")), "", `found "x"`},
		{"executable after contents", archive(encode("(", "type", "regular", "contents", "", "executable", "", ")")), "", `found "executable"`},
		{"negative size", archive(encode("(", "type", "regular", "contents", -1)), "", "is more than"},
		{"impossible size", archive(encode("(", "type", "regular", "contents", int64(1<<63-1))), "", "is more than"},
		{"empty target", archive(symlink("")), "", "target is empty"},
		{"NUL in target", archive(symlink("a\x00b")), "", "has a NUL"},
		{"long target", archive(symlink(strings.Repeat("x", 4096))), "", "length 4096 is more than 4095"},
		{"empty name", archive(folder(entry("a", folder(entry("", file("")))))), "a/", "a name is empty"},
		{"dot", archive(folder(entry(".", file("")))), "", `"." is forbidden`},
		{"dot dot", archive(folder(entry("..", file("")))), "", `".." is forbidden`},
		{"slash", archive(folder(entry("a/b", file("")))), "", "has a slash"},
		{"absolute", archive(folder(entry("/etc", file("")))), "", "has a slash"},
		{"NUL", archive(folder(entry("a\x00", file("")))), "", "has a NUL"},
		{"long name", archive(folder(entry(strings.Repeat("x", 256), file("")))), "", "length 256 is more than 255"},
		{"order", archive(folder(entry("b", file("")), entry("a", file("")))), "b", `"a" comes after "b"`},
		{"order of bytes", archive(folder(entry("a", file("")), entry("B", file("")))), "a", `"B" comes after "a"`},
		{"twice", archive(folder(entry("a", file("")), entry("a", folder()))), "a", `"a" appears twice`},
		{"twice, a symlink first", archive(folder(entry("a", symlink("/tmp")), entry("a", folder(entry("x", file("")))))), "a", `"a" appears twice`},
		{"twice, after a folder", archive(folder(entry("a", folder(entry("z", file("")))), entry("a", file("")))), "a", `"a" appears twice`},
		{"entry without node", archive(folder(encode("entry", "(", "name", "a", ")"))), "a", `found ")" instead of "node"`},
		{"two nodes", archive(folder(encode("entry", "(", "name", "a", "node") + file("") + encode("node"))), "a", `found "node" instead of ")"`},
		{"word in folder", archive(encode("(", "type", "directory", "executable")), "", `found "executable"`},
		{"deep", deep(1100), strings.Repeat("d/", 1023) + "d", "more than 1024 folders"},
		{"long path", archive(longPath), strings.Repeat(long+"/", 15) + long + "/", "a path has 4351 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := readAll(strings.NewReader(tc.input))
			var format *FormatError
			if !errors.As(err, &format) {
				t.Fatalf("got %v, want a FormatError", err)
			}
			if !strings.Contains(format.Err.Error(), tc.want) {
				t.Errorf("got %q, want it to say %q", format.Err, tc.want)
			}
			if !errors.Is(err, store.ErrCorrupt) {
				t.Error("it does not match store.ErrCorrupt")
			}
			if format.Path != tc.path {
				t.Errorf("path: got %q, want %q", format.Path, tc.path)
			}
		})
	}
}

// TestReaderCutShort cuts real NARs at every length, leaving out only the inside
// of long contents.
func TestReaderCutShort(t *testing.T) {
	input := treeNAR(t)
	for n := range input {
		if len(input)-n > 400 && n > 5000 && n%9973 != 0 {
			continue
		}
		r := NewReader(bytes.NewReader(input[:n]))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes: got %v, want io.ErrUnexpectedEOF", n, err)
		}
	}
}

// TestReaderPassesErrorsOn checks that a source that fails is not taken for a bad NAR.
func TestReaderPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	input := archive(folder(entry("a", file("some contents"))))
	for n := range input {
		r := NewReader(io.MultiReader(strings.NewReader(input[:n]), iotest.ErrReader(broken)))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, broken) || errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("after %d bytes: got %v, want %v", n, err, broken)
		}
		if _, again := r.Next(); !errors.Is(again, err) {
			t.Fatalf("the error did not stay: got %v", again)
		}
		if _, again := r.Read(make([]byte, 1)); !errors.Is(again, err) {
			t.Fatalf("the error did not stay: got %v", again)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	root := Header{Kind: Directory}
	file := func(path string) Header { return Header{Path: path, Kind: Regular} }
	for _, tc := range []struct {
		name    string
		headers []Header
		want    string
	}{
		{"nothing", nil, "nothing was written"},
		{"no root", []Header{file("a")}, "the root is missing"},
		{"two roots", []Header{root, root}, "the root comes a second time"},
		{"root is a file", []Header{file(""), file("a")}, "its folder has not been started"},
		{"no folder", []Header{root, file("a/b")}, "its folder has not been started"},
		{"folder is a file", []Header{root, file("a"), file("a/b")}, "its folder has not been started"},
		{"folder is complete", []Header{root, {Path: "a", Kind: Directory}, file("b"), file("a/c")}, "is complete"},
		{"order", []Header{root, file("b"), file("a")}, `after "b"`},
		{"twice", []Header{root, file("a"), file("a")}, `after "a"`},
		{"dot dot", []Header{root, file("..")}, "forbidden"},
		{"empty name", []Header{root, {Path: "a", Kind: Directory}, file("a/")}, "empty"},
		{"NUL", []Header{root, file("a\x00")}, "NUL"},
		{"kind", []Header{{}}, "kind 0"},
		{"target", []Header{{Kind: Symlink}}, "target is empty"},
		{"negative size", []Header{{Kind: Regular, Size: -1}}, "impossible"},
		{"missing contents", []Header{root, {Path: "a", Kind: Regular, Size: 1}, file("b")}, "1 bytes of 1 are missing"},
		{"missing contents at the end", []Header{{Kind: Regular, Size: 9}}, "9 bytes of 9 are missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := NewWriter(io.Discard)
			var err error
			for _, h := range tc.headers {
				err = w.WriteHeader(&h)
			}
			closeErr := w.Close()
			if err != nil && !errors.Is(closeErr, err) {
				t.Errorf("Close: got %v, want the error that was there", closeErr)
			}
			if closeErr == nil || !strings.Contains(closeErr.Error(), tc.want) {
				t.Errorf("got %v, want it to say %q", closeErr, tc.want)
			}
		})
	}

	w := NewWriter(io.Discard)
	_ = w.WriteHeader(&Header{Kind: Regular, Size: 2})
	if _, err := w.Write([]byte("abc")); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("too much: got %v, want io.ErrShortWrite", err)
	}
}

func sum(b []byte) store.Hash { return sha256.Sum256(b) }
