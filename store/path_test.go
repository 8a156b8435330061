package store

import (
	"encoding/json"
	"path"
	"strings"
	"testing"
)

const helloBase = "g4q2iwywb6l8kk5n8glxz5lwjrb9s7mx-hello.txt"

func TestParsePath(t *testing.T) {
	p, err := ParsePath("/gnu/store/" + helloBase)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ what, got, want string }{
		{"Dir", string(p.Dir()), "/gnu/store"},
		{"Base", p.Base(), helloBase},
		{"HashPart", p.HashPart(), "g4q2iwywb6l8kk5n8glxz5lwjrb9s7mx"},
		{"Name", p.Name(), "hello.txt"},
		{"String", p.String(), "/gnu/store/" + helloBase},
	} {
		if tt.got != tt.want {
			t.Errorf("%s() = %q, want %q", tt.what, tt.got, tt.want)
		}
	}
	if p.IsDerivation() || !(p + ".drv").IsDerivation() {
		t.Error("IsDerivation does not go by the suffix .drv")
	}
}

func TestZeroPath(t *testing.T) {
	var p Path
	if p.Dir() != "" || p.Base() != "" || p.HashPart() != "" || p.Name() != "" || p.IsDerivation() {
		t.Errorf("parts of the zero path: %q %q %q %q", p.Dir(), p.Base(), p.HashPart(), p.Name())
	}
}

func TestParsePathRefuses(t *testing.T) {
	hash := strings.Repeat("0", HashPartLen)
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "absolute"},
		{"relative", helloBase, "absolute"},
		{"in the root", "/" + helloBase, "absolute"},
		{"the store itself", "/gnu/store", "nix-base32"},
		{"dot dot", "/gnu/store/../" + helloBase, "clean"},
		{"two slashes", "/gnu//store/" + helloBase, "clean"},
		{"control character in the folder", "/gnu/st\nore/" + helloBase, "control"},
		{"NUL in the folder", "/gnu/st\x00ore/" + helloBase, "control"},
		{"no name", "/gnu/store/" + hash + "-", "a name"},
		{"no dash", "/gnu/store/" + hash + "name", "dash"},
		{"digit outside the alphabet", "/gnu/store/e" + hash[1:] + "-a", "not a digit"},
		{"upper case digit", "/gnu/store/A" + hash[1:] + "-a", "not a digit"},
		{"dot at the start", "/gnu/store/" + hash + "-.a", "dot"},
		{"space", "/gnu/store/" + hash + "-a b", "forbidden"},
		{"NUL", "/gnu/store/" + hash + "-a\x00", "forbidden"},
		{"letter that is not ASCII", "/gnu/store/" + hash + "-é", "forbidden"},
		{"too long", "/gnu/store/" + hash + "-" + strings.Repeat("a", 212), "212 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParsePath(tt.in)
			if err == nil {
				t.Fatalf("ParsePath(%q) = %s, want an error", tt.in, got)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not contain %q", err, tt.want)
			}
		})
	}
	if _, err := ParsePath("/gnu/store/" + hash + "-" + strings.Repeat("a", 211)); err != nil {
		t.Errorf("a name of 211 bytes: %v", err)
	}
}

func TestDirParsePath(t *testing.T) {
	if _, err := DefaultDir.ParsePath("/root/st/gnu/store/" + helloBase); err == nil {
		t.Error("an item of another store was accepted")
	}
	if _, err := DefaultDir.ParsePath("/gnu/store/" + helloBase + "/bin"); err == nil {
		t.Error("a file in an item was accepted as an item")
	}
	if _, err := DefaultDir.Path("../" + helloBase); err == nil {
		t.Error("a base name that climbs was accepted")
	}
}

func TestParsePathWithin(t *testing.T) {
	for _, tt := range []struct{ in, rest string }{
		{"/gnu/store/" + helloBase, ""},
		{"/gnu/store/" + helloBase + "/", ""},
		{"/gnu/store/" + helloBase + "/bin/sh", "bin/sh"},
		{"/gnu/store/" + helloBase + "//bin", "bin"},
	} {
		p, rest, err := DefaultDir.ParsePathWithin(tt.in)
		if err != nil || p.Base() != helloBase || rest != tt.rest {
			t.Errorf("ParsePathWithin(%q) = %q, %q, %v, want rest %q", tt.in, p, rest, err, tt.rest)
		}
	}
	for _, in := range []string{"", "/gnu/store", "/gnu/store/", "/gnu/storehouse/" + helloBase, "/gnu/store/../etc"} {
		if p, rest, err := DefaultDir.ParsePathWithin(in); err == nil {
			t.Errorf("ParsePathWithin(%q) = %q, %q, want an error", in, p, rest)
		}
	}
}

func TestPathFromJSON(t *testing.T) {
	var got []Path
	if err := json.Unmarshal([]byte(`["/gnu/store/`+helloBase+`", ""]`), &got); err != nil || len(got) != 2 || got[1] != "" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`["/etc/passwd"]`), &got); err == nil {
		t.Errorf("a name that is not an item was read: %q", got)
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("/gnu/store/" + helloBase)
	f.Add("/gnu/store/../" + helloBase)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePath(s)
		if err != nil {
			return
		}
		if string(p) != s || path.Clean(s) != s || strings.ContainsAny(s, "\x00\n") {
			t.Errorf("ParsePath(%q) = %q", s, p)
		}
		if again, err := p.Dir().Path(p.Base()); err != nil || again != p {
			t.Errorf("%q is not put together again from its parts: %q, %v", p, again, err)
		}
		if p.HashPart()+"-"+p.Name() != p.Base() {
			t.Errorf("%q: hash part %q and name %q", p, p.HashPart(), p.Name())
		}
	})
}
