package evaluate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/human"
	"lighter/store"
)

const (
	helloDrv = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-hello-2.12.drv"
	helloOut = "/gnu/store/1123456789abcdfghijklmnpqrsvwxyz-hello-2.12"
)

func line(more string) string {
	return `{"name":"hello","version":"2.12","system":"x86_64-linux"` + more + `}`
}

func TestReadPackages(t *testing.T) {
	whole := line(`,"target":"aarch64-linux-gnu","derivation":"` + helloDrv + `","outputs":{"out":"` + helloOut + `"},
		"location":{"file":"gnu/packages/base.scm","line":88,"column":2},"synopsis":"Hällo","description":"@code{x}\n",
		"home-page":"https://www.gnu.org/","licenses":["GPL 3+"],"replacement":true,"more":[1]`)
	text := strings.ReplaceAll(whole, "\n", " ") + "\n\n  \r\n" + line(`,"error":"no such file"`)
	var got []*Package
	for p, err := range ReadPackages(iotest.OneByteReader(strings.NewReader(text))) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p)
	}
	want := []*Package{
		{
			Name: "hello", Version: "2.12", System: "x86_64-linux", Target: "aarch64-linux-gnu", Derivation: helloDrv,
			Outputs: map[string]store.Path{"out": helloOut}, Location: Location{"gnu/packages/base.scm", 88, 2}, Synopsis: "Hällo",
			Description: "@code{x}\n", HomePage: "https://www.gnu.org/", Licenses: []string{"GPL 3+"}, Replacement: true,
		},
		{Name: "hello", Version: "2.12", System: "x86_64-linux", Error: "no such file"},
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Error(d)
	}
	// What is written is read again.
	back, err := json.Marshal(want[0])
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParsePackage(back); err != nil || !cmp.Equal(again, want[0]) {
		t.Errorf("%s: got %+v, %v", back, again, err)
	}
}

func TestManyOutputs(t *testing.T) {
	var outputs []string
	for i := range 100 {
		outputs = append(outputs, fmt.Sprintf(`"l%d":%q`, i, helloOut))
	}
	p, err := ParsePackage([]byte(line(`,"derivation":"` + helloDrv + `","outputs":{` + strings.Join(outputs, ",") + `}`)))
	if err != nil || len(p.Outputs) != 100 {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestReadPackagesErrors(t *testing.T) {
	good := line(`,"error":"x"`) + "\n\n"
	for name, c := range map[string]struct{ line, want string }{
		"no JSON":         {"hello", "line 3: found 'h', want a value"},
		"no object":       {"[]", "line 3: found a list, want an object in { }"},
		"cut off":         {`{"name":"he`, "line 3: the JSON ends too early"},
		"wrong kind":      {`{"name":7}`, `line 3: "name": found a number, want text in quotes`},
		"no name":         {`{"system":"x86_64-linux","error":"x"}`, `line 3: "name" is missing`},
		"no system":       {`{"name":"hello","error":"x"}`, `line 3: "system" is missing`},
		"slash":           {`{"name":"../hello","system":"x86_64-linux","error":"x"}`, `line 3: "name": "../hello" has the forbidden character '/'`},
		"escape sequence": {`{"name":"\u001b[2J","system":"x86_64-linux","error":"x"}`, `line 3: "name": "\x1b[2J" has the forbidden character '\x1b'`},
		"long word":       {line(`,"target":"` + strings.Repeat("x", 256) + `","error":"x"`), `line 3: "target" has 256 bytes, more than 255`},
		"nothing":         {line(``), "line 3: hello has neither a derivation nor an error"},
		"both":            {line(`,"derivation":"` + helloDrv + `","error":"x"`), "line 3: hello has a derivation and an error: want one of them"},
		"no derivation":   {line(`,"derivation":"` + helloOut + `"`), "line 3: hello: " + helloOut + " is no derivation: want a name that ends in .drv"},
		"outside":         {line(`,"derivation":"/etc/passwd"`), `line 3: store path "/etc/passwd": want 32 digits`},
		"empty output":    {line(`,"derivation":"` + helloDrv + `","outputs":{"out":""}`), `line 3: hello: the output "out" has no path`},
		"negative":        {line(`,"error":"x","location":{"line":-1}`), "line 3: hello: its location has a negative number"},
		"long text":       {line(`,"error":"` + strings.Repeat("x", maxText+1) + `"`), "line 3: hello has a text of more than 262144 bytes"},
		"many licenses":   {line(`,"error":"x","licenses":[""` + strings.Repeat(`,""`, maxOutputs) + `]`), "line 3: hello has more than 1000 outputs or licenses"},
		"long line":       {strings.Repeat(" ", MaxLine+1), "line 3 has more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := count(strings.NewReader(good + c.line))
			if err == nil || n != 1 || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("after %d packages: got %v, want %s", n, err, c.want)
			}
			if !errors.As(err, new(*human.InputError)) {
				t.Errorf("%T is no error of the input", err)
			}
		})
	}
	_, err := count(io.MultiReader(strings.NewReader(good), iotest.ErrReader(io.ErrClosedPipe)))
	if !errors.Is(err, io.ErrClosedPipe) || errors.As(err, new(*human.InputError)) {
		t.Errorf("of a reader that fails: got %v", err)
	}
}

// count returns how many packages come before the first error.
func count(r io.Reader) (n int, err error) {
	for _, err := range ReadPackages(r) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func FuzzReadPackages(f *testing.F) {
	f.Add([]byte(line(`,"derivation":"` + helloDrv + `","outputs":{"out":"` + helloOut + `"}`)))
	f.Add([]byte(line(`,"error":"x","location":{"file":"a","line":1}`) + "\n\n{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for p, err := range ReadPackages(bytes.NewReader(text)) {
			if err != nil {
				return
			}
			again, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParsePackage(again); err != nil {
				t.Fatalf("%s: %v", again, err)
			}
		}
	})
}
