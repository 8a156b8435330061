package store

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// regularNAR returns the NAR of a regular file. Package nar is above this one.
func regularNAR(content string) []byte {
	var b bytes.Buffer
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", content, ")"} {
		_ = binary.Write(&b, binary.LittleEndian, uint64(len(s)))
		b.WriteString(s)
		b.Write(make([]byte, -len(s)&7))
	}
	return b.Bytes()
}

// treeNARHash is the SHA-256 of the NAR that one vector is about, a tree of 1.4 MB.
const treeNARHash = "0db16e6abc1a41beb51d23d073154a1b65286b9ea4cdbf4a5b644aebab784229"

type pathVector struct {
	Kind, Name, Content, Path string
	NAROf                     string `json:"nar_of"`
	NARFile                   string `json:"nar_file"`
	Refs                      []Path
}

// make computes the path in the way that the vector's kind asks for.
func (v *pathVector) make(dir Dir) (Path, error) {
	narHash := sha256.Sum256(regularNAR("flat data\n"))
	switch kind, _, _ := strings.Cut(v.Kind, ","); kind {
	case "text":
		return dir.TextPath(v.Name, []byte(v.Content), v.Refs)
	case "source (recursive sha256)":
		if v.NARFile != "" {
			h, err := ParseHash("sha256:" + treeNARHash)
			if err != nil {
				return "", err
			}
			return dir.SourcePath(v.Name, h)
		}
		return dir.FixedOutputPath(v.Name, true, "sha256", narHash[:])
	case "fixed flat sha256":
		h := sha256.Sum256([]byte(v.Content))
		return dir.FixedOutputPath(v.Name, false, "sha256", h[:])
	case "fixed flat sha1":
		h := sha1.Sum([]byte(v.Content))
		return dir.FixedOutputPath(v.Name, false, "sha1", h[:])
	default:
		h := sha512.Sum512(regularNAR("flat data\n"))
		return dir.FixedOutputPath(v.Name, true, "sha512", h[:])
	}
}

func TestPathsOfGuix(t *testing.T) {
	var vectors []pathVector
	readTestdata(t, "storepaths.json", &vectors)
	if len(vectors) != 8 {
		t.Fatalf("%d vectors, want 8", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Kind, func(t *testing.T) {
			want, err := ParsePath(v.Path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := v.make(want.Dir())
			if err != nil || got != want {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		})
	}
}

func TestTextPathSortsReferences(t *testing.T) {
	a := Path("/gnu/store/" + strings.Repeat("0", 32) + "-a")
	b := Path("/gnu/store/" + strings.Repeat("1", 32) + "-b")
	want, err := DefaultDir.TextPath("x", nil, []Path{a, b})
	if err != nil {
		t.Fatal(err)
	}
	refs := []Path{b, a, b}
	got, err := DefaultDir.TextPath("x", nil, refs)
	if err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if !slices.Equal(refs, []Path{b, a, b}) {
		t.Error("the caller's references were changed")
	}
}

func TestMakePathRefuses(t *testing.T) {
	if p, err := DefaultDir.MakePath("text", Hash{}, "a/b"); err == nil {
		t.Errorf("a name with a slash was accepted: %s", p)
	}
	if p, err := DefaultDir.FixedOutputPath("x", true, "sha256", []byte("short")); err == nil {
		t.Errorf("a hash of 5 bytes was accepted: %s", p)
	}
}
