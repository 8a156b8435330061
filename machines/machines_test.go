package machines

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"lighter/internal/tomlfile"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden runs got for each NAME.toml of an archive and compares with NAME.golden.
func golden(t *testing.T, file string, got func(t *testing.T, name string, data []byte) string) {
	t.Helper()
	goldenOf(t, file, ".toml", got)
}

// goldenOf is golden for the files with that extension.
func goldenOf(t *testing.T, file, extension string, got func(t *testing.T, name string, data []byte) string) {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for _, f := range archive.Files {
		if name, ok := strings.CutSuffix(f.Name, ".golden"); ok {
			want[name] = string(f.Data)
		}
	}
	out := &txtar.Archive{Comment: archive.Comment}
	for _, f := range archive.Files {
		name, ok := strings.CutSuffix(f.Name, extension)
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			text := got(t, f.Name, f.Data)
			out.Files = append(out.Files, f, txtar.File{Name: name + ".golden", Data: []byte(text)})
			if diff := cmp.Diff(want[name], text); diff != "" && !*update {
				t.Errorf("%s (-want +got):\n%s", f.Name, diff)
			}
		})
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGoodFiles(t *testing.T) {
	golden(t, "testdata/good.txtar", func(t *testing.T, name string, data []byte) string {
		all, err := ParseTOML(name, data)
		if err != nil {
			t.Fatal(err)
		}
		text := FormatTOML(all)
		again, err := ParseTOML(name+" formatted", text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all, again); diff != "" {
			t.Errorf("read again (-want +got):\n%s", diff)
		}
		return string(text)
	})
}

func TestBadFiles(t *testing.T) {
	golden(t, "testdata/bad.txtar", func(t *testing.T, name string, data []byte) string {
		all, err := ParseTOML(name, data)
		if err == nil {
			t.Fatalf("accepted: %+v", all)
		}
		var first *Error
		if !errors.As(err, &first) || first.File != name {
			t.Errorf("the error has no *Error of %s: %#v", name, err)
		}
		return err.Error() + "\n"
	})
}

func TestDefaults(t *testing.T) {
	all, err := ParseTOML("machines.toml", []byte(`
[[machine]]
name = "one"
system = "x86_64-linux"
user = "offload"
[[machine]]
name = "head"
systems = ["x86_64-linux", "i686-linux"]
local = true
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Machine{{
		Name: "one", Host: "one", Port: 22, Systems: []string{"x86_64-linux"}, User: "offload",
		ParallelBuilds: 1, Speed: 1, OverloadThreshold: 0.8, MinFreeDisk: 100 << 20,
		MinFreeInodes: 10000, Transport: "native",
		Store: "auto", DaemonSocket: "/var/guix/daemon-socket/socket",
	}, {
		Name: "head", Systems: []string{"x86_64-linux", "i686-linux"}, Local: true,
		ParallelBuilds: 1, Speed: 1, OverloadThreshold: 0.8, MinFreeDisk: 100 << 20,
		MinFreeInodes: 10000,
		Store:         "auto", DaemonSocket: "/var/guix/daemon-socket/socket",
	}}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("machines (-want +got):\n%s", diff)
	}
	if got := all[0].Addr(); got != "one:22" {
		t.Errorf("address %q", got)
	}
	if got := all[1].Addr(); got != "" {
		t.Errorf("address of the local machine %q", got)
	}
}

func TestEmptyFile(t *testing.T) {
	for _, text := range []string{"", "\n# nothing yet\n", "\ufeff", "machine = []\n"} {
		if all, err := ParseTOML("machines.toml", []byte(text)); err != nil || len(all) != 0 {
			t.Errorf("%q: got %v, %v", text, all, err)
		}
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machines.toml")
	if _, err := Load(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	if err := os.WriteFile(file, []byte("[[machine]]\nname = \"a\"\nsystem = \"x86_64-linux\"\nuser = \"u\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := Load(file); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v", all, err)
	}
	if err := os.Truncate(file, tomlfile.MaxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "no machines file") {
		t.Errorf("huge file: got %v", err)
	}
}

func TestPrivateKeyFile(t *testing.T) {
	for key, want := range map[string]string{
		"":                  "",
		"~/.ssh/id_ed25519": "/home/alice/.ssh/id_ed25519",
		"/etc/lighter/key":  "/etc/lighter/key",
	} {
		m := Machine{PrivateKey: key}
		if got := m.PrivateKeyFile("/home/alice"); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}

func TestAddr(t *testing.T) {
	for host, want := range map[string]string{"a.example": "a.example:2222", "2001:db8::1": "[2001:db8::1]:2222"} {
		m := Machine{Host: host, Port: 2222}
		if got := m.Addr(); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
}

func FuzzParseTOML(f *testing.F) {
	f.Add([]byte("top . \"le\\u0076el\" = 'a # b'\n[machine.sub]\nx = {a = 1}"))
	for _, file := range []string{"testdata/good.txtar", "testdata/bad.txtar"} {
		for _, data := range tomlFiles(f, file) {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := ParseTOML("fuzz.toml", data)
		if err != nil {
			if errs, ok := err.(Errors); !ok || len(errs) == 0 { //nolint:errorlint // must be just that
				t.Fatalf("unexpected error %#v", err)
			}
			if err.Error() == "" {
				t.Fatal("error without a text")
			}
			return
		}
		text := FormatTOML(all)
		again, err := ParseTOML("formatted.toml", text)
		if err != nil {
			t.Fatalf("formatted:\n%s\n%v", text, err)
		}
		if diff := cmp.Diff(all, again); diff != "" {
			t.Fatalf("formatted and read again (-want +got):\n%s", diff)
		}
	})
}

func tomlFiles(t testing.TB, file string) [][]byte { return filesOf(t, file, ".toml") }

func filesOf(t testing.TB, file, extension string) [][]byte {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for _, f := range archive.Files {
		if strings.HasSuffix(f.Name, extension) {
			all = append(all, f.Data)
		}
	}
	return all
}
