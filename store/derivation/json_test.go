package derivation

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/store"
)

func TestMarshalJSON(t *testing.T) {
	d := &Derivation{
		Outputs: []Output{{"out", "/gnu/store/" + hashA + "-x", "r:md5", hashA}},
		Inputs:  []Input{{"/gnu/store/" + hashB + "-in.drv", []string{"lib", "out"}}},
		Sources: []store.Path{"/gnu/store/" + hashA + "-src"},
		System:  "x86_64-linux",
		Builder: "/bin/sh",
		Args:    []string{"a<b>&c", "caf\xe9"},
		Env:     []EnvVar{{"caf\xe9", "1"}, {"é", "\xff"}},
	}
	got, err := MarshalJSON(map[store.Path]*Derivation{"/gnu/store/" + hashB + "-x.drv": d})
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "/gnu/store/` + hashB + `-x.drv": {
    "args": [
      "a<b>&c",
      {
        "base64": "Y2Fm6Q=="
      }
    ],
    "builder": "/bin/sh",
    "env": {
      "é": {
        "base64": "/w=="
      }
    },
    "envBase64": {
      "Y2Fm6Q==": "1"
    },
    "inputDrvs": {
      "/gnu/store/` + hashB + `-in.drv": {
        "dynamicOutputs": {},
        "outputs": [
          "lib",
          "out"
        ]
      }
    },
    "inputSrcs": [
      "/gnu/store/` + hashA + `-src"
    ],
    "name": "x",
    "outputs": {
      "out": {
        "hash": "` + hashA + `",
        "hashAlgo": "r:md5",
        "path": "/gnu/store/` + hashA + `-x"
      }
    },
    "system": "x86_64-linux"
  }
}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	back, err := ParseJSON(store.DefaultDir, got)
	if err != nil {
		t.Fatal(err)
	}
	wantNamed := []Named{{Name: "x", Path: "/gnu/store/" + hashB + "-x.drv", Derivation: d}}
	if diff := cmp.Diff(wantNamed, back); diff != "" {
		t.Errorf("read back (-want +got)\n%s", diff)
	}
}

// TestCompleteFromBare adds a derivation as a person writes it: without any paths
// of its own.
func TestCompleteFromBare(t *testing.T) {
	named, err := ParseJSON(store.DefaultDir, []byte(`{
		"name": "plain", "system": "x86_64-linux", "builder": "/bin/sh", "args": ["-c", "exit 0"],
		"outputs": {"out": {}}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	h := NewHasher(store.DefaultDir, resolver(nil))
	if err := named[0].Complete(h); err != nil {
		t.Fatal(err)
	}
	const want = "16sinjk1m03pqb9yw34r33xlbv7vajf0-plain.drv"
	if got := named[0].Path.Base(); got != want {
		t.Errorf("its path is %s, want %s", got, want)
	}
	text, err := os.ReadFile("testdata/special/" + want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), string(named[0].Derivation.Marshal())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCompleteRefuses(t *testing.T) {
	const wrong = `/gnu/store/` + hashA + `-x`
	for _, tt := range []struct{ name, json, want string }{
		{"output path", `{"name":"x","builder":"b","system":"s","outputs":{"out":{"path":"` + wrong + `"}}}`, `output "out" is said to be`},
		{"variable", `{"name":"x","builder":"b","system":"s","outputs":{"out":{}},"env":{"out":"` + wrong + `"}}`, `variable "out" is said to be`},
		{"path", `{"` + wrong + `.drv":{"builder":"b","system":"s","outputs":{"out":{}}}}`, "its contents give"},
		{"input that is not there", `{"name":"x","builder":"b","system":"s","outputs":{"out":{}},"inputDrvs":{"` + wrong + `.drv":["out"]}}`, "not valid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			named, err := ParseJSON(store.DefaultDir, []byte(tt.json))
			if err != nil {
				t.Fatal(err)
			}
			err = named[0].Complete(NewHasher(store.DefaultDir, resolver(nil)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestParseJSONOfOthers reads the shapes that other versions of Nix write.
func TestParseJSONOfOthers(t *testing.T) {
	const head = `{"name":"x","builder":"b","system":"s","args":[],"env":{},"inputSrcs":[],`
	for _, tt := range []struct{ name, outputs, inputs, algorithm string }{
		{"list of outputs", `{"hashAlgo":"sha1","hash":"` + hashA + `00000000"}`, `["out"]`, "sha1"},
		{"method nar", `{"method":"nar","hashAlgo":"sha1","hash":"` + hashA + `00000000"}`, `{"outputs":["out"],"dynamicOutputs":{}}`, "r:sha1"},
		{"method flat", `{"method":"flat","hashAlgo":"sha1","hash":"` + hashA + `00000000","path":null}`, `{"outputs":["out"]}`, "sha1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := head + `"outputs":{"out":` + tt.outputs + `},"inputDrvs":{"/gnu/store/` + hashB + `-in.drv":` + tt.inputs + `}}`
			named, err := ParseJSON(store.DefaultDir, []byte(data))
			if err != nil {
				t.Fatal(err)
			}
			d := named[0].Derivation
			if got := d.Outputs[0].HashAlgorithm; got != tt.algorithm {
				t.Errorf("algorithm %q, want %q", got, tt.algorithm)
			}
			if diff := cmp.Diff([]Input{{"/gnu/store/" + hashB + "-in.drv", []string{"out"}}}, d.Inputs); diff != "" {
				t.Errorf("inputs (-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseJSONOrder(t *testing.T) {
	const a, b = "/gnu/store/" + hashA + "-a.drv", "/gnu/store/" + hashB + "-b.drv"
	one := func(path, inputs string) string {
		return `"` + path + `":{"builder":"b","system":"s","outputs":{"out":{}},"inputDrvs":{` + inputs + `}}`
	}
	named, err := ParseJSON(store.DefaultDir, []byte("{"+one(a, `"`+b+`":["out"]`)+","+one(b, "")+"}"))
	if err != nil {
		t.Fatal(err)
	}
	if len(named) != 2 || named[0].Path != b || named[1].Path != a {
		t.Errorf("order: %v", named)
	}
	for _, data := range []string{
		"{" + one(a, `"`+b+`":["out"]`) + "," + one(b, `"`+a+`":["out"]`) + "}",
		"{" + one(a, `"`+a+`":["out"]`) + "}",
	} {
		if _, err := ParseJSON(store.DefaultDir, []byte(data)); err == nil {
			t.Errorf("derivations that need each other were read: %s", data)
		}
	}
	if named, err := ParseJSON(store.DefaultDir, []byte("{}")); err != nil || len(named) != 0 {
		t.Errorf("no derivations: %v, %v", named, err)
	}
}

func TestParseJSONRefuses(t *testing.T) {
	const good = `{"name":"x","builder":"b","system":"s","outputs":{"out":{}},` + "\n" + `"args":["a"],"env":{"v":"w"},"inputDrvs":{},"inputSrcs":[]}`
	if _, err := ParseJSON(store.DefaultDir, []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, before, after, want string }{
		{"not JSON", `"args":`, `"args"`, "line 2, column 7: found '[', want a colon"},
		{"cut off", `"inputSrcs":[]}`, `"inputSrcs":[]`, "the JSON ends too early"},
		{"empty", good, ``, "the JSON ends too early"},
		{"a list", good, `[]`, "line 1, column 1: found a list"},
		{"something after the end", `[]}`, `[]} x`, `line 2, column 61: found "x" after the end`},
		{"unknown member", `"args"`, `"arguments"`, `unknown field "arguments"`},
		{"member twice", `"args":["a"]`, `"args":["a"],"args":[]`, `line 2, column 19: the member "args" occurs twice`},
		{"variable twice", `"v":"w"`, `"v":"w","v":""`, `the member "v" occurs twice`},
		{"variable twice in two ways", `"env":{"v":"w"}`, `"env":{"v":"w"},"envBase64":{"dg==":""}`, `variable "v" occurs twice`},
		{"number for a string", `"a"`, `1`, "found 1; want a string"},
		{"null for a string", `"a"`, `null`, "found null; want a string"},
		{"base64", `"a"`, `{"base64":"?"}`, "illegal base64"},
		{"base64 of a name", `"env":{"v":"w"}`, `"envBase64":{"?":"w"}`, "envBase64"},
		{"wrong kind", `"args":["a"]`, `"args":"a"`, `line 2, column 10: "args": found text, want a list`},
		{"NUL", `"a"`, `"\u0000"`, "NUL"},
		{"NUL in a name", `"v":"w"`, `"\u0000":"w"`, "NUL"},
		{"not UTF-8", `"a"`, "\"\xe9\"", "line 2, column 10: the byte 0xe9 is not UTF-8"},
		{"half a pair", `"a"`, `"\\\udc00"`, `line 2, column 12: \udc00 is half a surrogate pair`},
		{"two first halves", `"a"`, `"\ud800\ud800"`, "half a surrogate pair"},
		{"no name", `"name":"x",`, ``, `name ""`},
		{"forbidden name", `"name":"x"`, `"name":"x/y"`, `name "x/y"`},
		{"no outputs", `"out":{}`, ``, "no outputs"},
		{"path of an output", `"out":{}`, `"out":{"path":"/etc"}`, `output "out": store path`},
		{"method", `"out":{}`, `"out":{"method":"text","hashAlgo":"sha256"}`, `method "text"`},
		{"contradicting method", `"out":{}`, `"out":{"method":"flat","hashAlgo":"r:sha256"}`, `method "flat"`},
		{"input outside the store", `"inputDrvs":{}`, `"inputDrvs":{"/x":[]}`, "inputDrvs: store path"},
		{"input that is not a derivation", `"inputDrvs":{}`, `"inputDrvs":{"/gnu/store/` + hashA + `-x":[]}`, "is not a derivation"},
		{"dynamic outputs", `"inputDrvs":{}`, `"inputDrvs":{"/gnu/store/` + hashA + `-x.drv":{"outputs":[],"dynamicOutputs":{"out":{}}}}`, "dynamicOutputs"},
		{"source outside the store", `"inputSrcs":[]`, `"inputSrcs":["x"]`, "inputSrcs: store path"},
		{"version", `"name":"x"`, `"name":"x","version":3`, "version 3"},
		{"version 4", good, `{"version":4,"derivations":{}}`, "version 4"},
		{"key that is not a path", good, `{"x":{}}`, `member "x": want`},
		{"key that is not a derivation", good, `{"/gnu/store/` + hashA + `-x":{}}`, "not the name of a derivation"},
		{"name beside another path", good, `{"/gnu/store/` + hashA + `-x.drv":{"name":"y"}}`, `its name is said to be "y"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Count(good, tt.before) != 1 {
				t.Fatalf("%q is not exactly once in the JSON", tt.before)
			}
			named, err := ParseJSON(store.DefaultDir, []byte(strings.Replace(good, tt.before, tt.after, 1)))
			if err == nil {
				t.Fatalf("it was read: %v", named)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not contain %q", err, tt.want)
			}
		})
	}
}

func TestParseJSONSurrogatePair(t *testing.T) {
	named, err := ParseJSON(store.DefaultDir, []byte(`{"name":"x","builder":"\ud83d\ude00 \\ud800","outputs":{"out":{}},"system":""}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := named[0].Derivation.Builder, "\U0001f600 \\ud800"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzParseJSON shows that what was read is written so that it reads the same.
func FuzzParseJSON(f *testing.F) {
	for p, d := range guixDerivations(f) {
		if data, err := MarshalJSON(map[store.Path]*Derivation{p: d}); err == nil && len(data) < 1500 {
			f.Add(data)
		}
	}
	f.Add([]byte(`{"name":"x","builder":{"base64":"/w=="},"system":"s","outputs":{"out":{"method":"nar","hashAlgo":"md5","hash":"` + hashA + `"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		named, err := ParseJSON(store.DefaultDir, data)
		if err != nil {
			return
		}
		all := make(map[store.Path]*Derivation)
		for i, n := range named {
			if n.Path == "" {
				named[i].Path = store.Path("/gnu/store/" + hashA + "-" + n.Name + Extension)
			}
			all[named[i].Path] = n.Derivation
		}
		written, err := MarshalJSON(all)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseJSON(store.DefaultDir, written)
		if err != nil {
			t.Fatalf("%v in %s", err, written)
		}
		if diff := cmp.Diff(named, again); diff != "" {
			t.Errorf("(-first +again)\n%s", diff)
		}
	})
}
