package derivation

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/store"
)

const (
	hashA = "00000000000000000000000000000000"
	hashB = "11111111111111111111111111111111"
)

func TestParse(t *testing.T) {
	text := `Derive([("out","/gnu/store/` + hashA + `-x","","")],` +
		`[("/gnu/store/` + hashB + `-in.drv",["lib","out"])],["/gnu/store/` + hashA + `-src"],` +
		`"x86_64-linux","/bin/sh",["-c","a\"b\\c\n\r\td` + "\xe9" + `"],[("empty",""),("out","/gnu/store/` + hashA + `-x")])`
	want := &Derivation{
		Outputs: []Output{{Name: "out", Path: "/gnu/store/" + hashA + "-x"}},
		Inputs:  []Input{{"/gnu/store/" + hashB + "-in.drv", []string{"lib", "out"}}},
		Sources: []store.Path{"/gnu/store/" + hashA + "-src"},
		System:  "x86_64-linux",
		Builder: "/bin/sh",
		Args:    []string{"-c", "a\"b\\c\n\r\td\xe9"},
		Env:     []EnvVar{{"empty", ""}, {"out", "/gnu/store/" + hashA + "-x"}},
	}
	got, err := Parse(store.DefaultDir, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := string(got.Marshal()); got != text {
		t.Errorf("written as %s", got)
	}
}

// TestParseRefuses damages a good text in one place. The mark ^ in after is where
// the error must point to.
func TestParseRefuses(t *testing.T) {
	const good = `Derive([("out","/gnu/store/` + hashA + `-x","","")],` +
		`[("/gnu/store/` + hashA + `-a.drv",["lib","out"]),("/gnu/store/` + hashB + `-b.drv",["out"])],` +
		`["/gnu/store/` + hashA + `-s","/gnu/store/` + hashB + `-s"],` +
		`"x86_64-linux","/bin/sh",["-c"],[("a","1"),("b","2")])`
	if _, err := Parse(store.DefaultDir, []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, before, after, want string }{
		{"not a derivation", `Derive(`, `^Drive(`, "want 'Derive('"},
		{"space", `,"/bin/sh"`, `,^ "/bin/sh"`, `want '"', found " \"/bin`},
		{"missing comma in a list", `"lib","out"`, `"lib"^"out"`, "',' or ']'"},
		{"comma at the end of a list", `["-c"]`, `["-c",^]`, `want '"'`},
		{"bytes after the end", `"2")])`, `"2")])^` + "\n", "the end of the text"},
		{"unknown escape", `"-c"`, `"-^\c"`, `one of \" \\ \n \r \t`},
		{"raw line feed", `"-c"`, "\"-^\n\"", "raw control"},
		{"NUL", `"-c"`, "\"-^\x00\"", "raw control"},
		{"outputs twice", `[("out"`, `^[("a","/gnu/store/` + hashA + `-x-a","md5","00"),("out"`, "one output"},
		{"unsorted outputs", `[("out"`, `[("p","/gnu/store/` + hashA + `-x-p","",""),^("out"`, `sorts after "p"`},
		{"no outputs", `[("out","/gnu/store/` + hashA + `-x","","")]`, `^[]`, "no outputs"},
		{"output name", `[("out"`, `^[("o/t"`, "forbidden character"},
		{"output outside the store", `("out","/gnu/store/`, `("out",^"/gnu/stare/`, "not in the store"},
		{"output without path", `("out","/gnu/store/` + hashA + `-x"`, `("out",^""`, "store path"},
		{"hash without algorithm", `-x","",""`, `-x","","00"`, "unknown hash algorithm"},
		{"algorithm without hash", `-x","",""`, `-x","sha256",""`, "want 64 digits"},
		{"short hash", `-x","",""`, `-x","r:sha1","00"`, "want 40 digits"},
		{"upper-case hash", `-x","",""`, `-x","md5","AA000000000000000000000000000000"`, "lower-case"},
		{"input that is not a derivation", `("/gnu/store/` + hashA + `-a.drv"`, `^("/gnu/store/` + hashA + `-a"`, "is a derivation"},
		{"input twice", `("/gnu/store/` + hashB + `-b.drv"`, `^("/gnu/store/` + hashA + `-a.drv"`, "sorts after"},
		{"unsorted output names", `["lib","out"]`, `["out",^"lib"]`, `sorts after "out"`},
		{"source twice", `"/gnu/store/` + hashB + `-s"`, `^"/gnu/store/` + hashA + `-s"`, "sorts after"},
		{"source that climbs", `"/gnu/store/` + hashA + `-s"`, `^"/gnu/store/../x"`, "store path"},
		{"variable twice", `("b","2")`, `^("a","2")`, `sorts after "a"`},
		{"tuple too long", `("b","2")`, `("b","2"^,"3")`, "want ')'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Count(good, tt.before) != 1 {
				t.Fatalf("%q is not exactly once in the text", tt.before)
			}
			marked := strings.Replace(good, tt.before, tt.after, 1)
			offset := strings.IndexByte(marked, '^')
			_, err := Parse(store.DefaultDir, []byte(strings.Replace(marked, "^", "", 1)))
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("error %v, want a *SyntaxError", err)
			}
			if offset >= 0 && syntax.Offset != offset {
				t.Errorf("offset %d, want %d: %v", syntax.Offset, offset, err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not contain %q", err, tt.want)
			}
		})
	}
}

func TestParseBounds(t *testing.T) {
	if _, err := Parse(store.DefaultDir, make([]byte, MaxSize+1)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too long a text: %v", err)
	}
	args := `Derive([("out","/gnu/store/` + hashA + `-x","","")],[],[],"s","b",[` + strings.Repeat(`"",`, maxItems) + `""],[])`
	if _, err := Parse(store.DefaultDir, []byte(args)); err == nil || !strings.Contains(err.Error(), "no more than") {
		t.Errorf("too long a list: %v", err)
	}
}

func TestMarshalSorts(t *testing.T) {
	d := &Derivation{
		Outputs: []Output{{Name: "out"}, {Name: "lib"}},
		Inputs:  []Input{{"/gnu/store/" + hashB + "-b.drv", []string{"out", "lib"}}, {"/gnu/store/" + hashA + "-a.drv", nil}},
		Sources: []store.Path{"b", "a"},
		Args:    []string{"z", "y"},
		Env:     []EnvVar{{"b", ""}, {"a", ""}},
	}
	want := fmt.Sprintf(`Derive([("lib","","",""),("out","","","")],[("/gnu/store/%s-a.drv",[]),("/gnu/store/%s-b.drv",["lib","out"])],`+
		`["a","b"],"","",["z","y"],[("a",""),("b","")])`, hashA, hashB)
	if got := string(d.Marshal()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if d.Outputs[0].Name != "out" || d.Env[0].Name != "b" || d.Sources[0] != "b" {
		t.Error("Marshal changed the derivation")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range guixTexts(f) {
		if len(text) < 1500 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Parse(store.DefaultDir, text)
		if err != nil {
			var syntax *SyntaxError
			if errors.As(err, &syntax) && (syntax.Offset < 0 || syntax.Offset > len(text)) {
				t.Errorf("offset %d in a text of %d bytes", syntax.Offset, len(text))
			}
			return
		}
		if got := d.Marshal(); !bytes.Equal(got, text) {
			t.Errorf("%q is written as %q", text, got)
		}
	})
}

func TestOptions(t *testing.T) {
	text, err := os.ReadFile("testdata/special/8nikkdf9mk0fm78y0xgmkrxjrzi85k2k-options.drv")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(store.DefaultDir, text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"kvm", "big-parallel"}, d.RequiredFeatures()); diff != "" {
		t.Errorf("RequiredFeatures (-want +got)\n%s", diff)
	}
	if d.SubstitutesAllowed() {
		t.Error("SubstitutesAllowed, which is unset")
	}
	if got := d.ImpureEnvVars(); got != nil {
		t.Errorf("ImpureEnvVars of a derivation with any contents: %q", got)
	}
	if words, ok := d.ReferenceRule(AllowedReferences); !ok || cmp.Diff([]string{"out"}, words) != "" {
		t.Errorf("AllowedReferences: %q, %v", words, ok)
	}
	if words, ok := d.ReferenceRule(AllowedRequisites); ok || words != nil {
		t.Errorf("AllowedRequisites, which is not set: %q, %v", words, ok)
	}
	if diff := cmp.Diff([]string{"graph", "/gnu/store/wfikbj6gs6bskgsx8gblrz8l9y0q86xh-with-refs"}, d.ReferencesGraph()); diff != "" {
		t.Errorf("ReferencesGraph (-want +got)\n%s", diff)
	}
}

func TestOptionsUnset(t *testing.T) {
	d := &Derivation{Builder: "builtin:download"}
	if !d.SubstitutesAllowed() || len(d.RequiredFeatures()) != 0 {
		t.Error("options of an empty derivation")
	}
	if name, ok := d.IsBuiltin(); !ok || name != "download" {
		t.Errorf("IsBuiltin: %q, %v", name, ok)
	}
	d = &Derivation{
		Outputs: []Output{{Name: "out", HashAlgorithm: "md5", Hash: "00"}},
		Env:     []EnvVar{{"impureEnvVars", " http_proxy\tLC_ALL\n"}},
	}
	if diff := cmp.Diff([]string{"http_proxy", "LC_ALL"}, d.ImpureEnvVars()); diff != "" {
		t.Errorf("ImpureEnvVars (-want +got)\n%s", diff)
	}
}
