package owner

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/agentapi"
	"lighter/internal/tomlfile"
	"lighter/store/local"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func flag(t *testing.T, o *Options, name string) *Option {
	t.Helper()
	i := slices.IndexFunc(o.All, func(x *Option) bool { return x.Flag == name })
	if i < 0 {
		t.Fatalf("no flag --%s", name)
	}
	return o.All[i]
}

// every is a value for each key, as the file has it and as flags have it.
var every = map[string][2]string{
	"state-directory":      {`"/srv/x"`, "/srv/x"},
	"store":                {`"local"`, "local"},
	"daemon-socket":        {`"/run/guix"`, "/run/guix"},
	"max-builds":           {`3`, "3"},
	"max-output-size":      {`"10GiB"`, "10737418240"},
	"max-output-files":     {`1000`, "1000"},
	"keep-free-disk":       {`"1GiB"`, "1073741824"},
	"impure-env-vars":      {`["http_proxy"]`, "http_proxy"},
	"sandbox-paths":        {`["/bin/sh=/opt/busybox"]`, "/bin/sh=/opt/busybox"},
	"substitute-urls":      {`["https://ci.guix.gnu.org"]`, "https://ci.guix.gnu.org"},
	"keep-failed":          {`false`, "false"},
	"collect-garbage":      {`false`, "false"},
	"max-cores":            {`8`, "8"},
	"max-time":             {`"6h"`, "6h"},
	"max-silent-time":      {`"1h"`, "1h"},
	"fixed-output-network": {`"isolated"`, "isolated"},
}

// TestEveryOption shows that the file and the flags do the same, and that what is of the
// agent goes on to its process.
func TestEveryOption(t *testing.T) {
	for _, option := range NewOptions().All {
		values, ok := every[option.Key]
		if !ok {
			t.Errorf("%s has no value in this test", option.Key)
			continue
		}
		byFile, byFlag := NewOptions(), NewOptions()
		if err := byFile.Load(write(t, option.Key+" = "+values[0]+"\n"), true); err != nil {
			t.Error(err)
		}
		if err := flag(t, byFlag, option.Flag).Set(values[1]); err != nil {
			t.Error(err)
		}
		if err := byFlag.Load(filepath.Join(t.TempDir(), "none"), false); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(byFile.Settings, byFlag.Settings); diff != "" {
			t.Errorf("%s: file and flag differ: %s", option.Key, diff)
		}
		if cmp.Equal(byFile.Settings, NewOptions().Settings) {
			t.Errorf("%s changes nothing", option.Key)
		}
		if again := slices.Contains(byFile.Args(), "--"+option.Flag+"="+values[1]); again == option.OfHeads {
			t.Errorf("%s: the agent's process gets %q", option.Key, byFile.Args())
		}
		if text, err := os.ReadFile("../../docs/machines.md"); err != nil || !strings.Contains(string(text), "| `"+option.Key+"` |") {
			t.Errorf("docs/machines.md lacks %s (%v)", option.Key, err)
		}
	}
}

func TestFlagsCountMore(t *testing.T) {
	o := NewOptions()
	for _, path := range []string{"/a", "/b=/c"} {
		if err := flag(t, o, "sandbox-path").Set(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Load(write(t, "sandbox-paths = [\"/etc\"]\nmax-time = \"2h\"\n"), true); err != nil {
		t.Fatal(err)
	}
	want := &agentapi.Offer{SandboxPaths: []string{"/a", "/b=/c"}, KeepFailed: true, CollectGarbage: true, MaxTime: 7200}
	if diff := cmp.Diff(want, o.Offer()); diff != "" {
		t.Error(diff)
	}
	if o.MaxTime != 2*time.Hour {
		t.Errorf("max-time %s", o.MaxTime)
	}
}

func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"sandbox-path = []", `:1:1: unknown key "sandbox-path"`},
		{"\nsandbox-paths = [\"/ok\", \"/a/../b\"]", `:2:25: sandbox-paths: "/a/../b" is not an absolute`},
		{"sandbox-paths = [\"/=/srv\"]", "the whole file system cannot"},
		{"sandbox-paths = [\"/a=\"]", "not an absolute"},
		{"sandbox-paths = \"/a\"", "list of strings"},
		{"substitute-urls = [\"ftp://x\"]", "does not start with"},
		{"store = \"nix\"", `unknown store "nix"`},
		{"state-directory = \"srv\"", "not an absolute"},
		{"keep-failed = 1", "true or false"},
		{"max-cores = -1", "from 0 to"},
		{"max-time = 5", "without a unit"},
		{"max-time = \"1h\"\nmax-time = \"2h\"", "max-time"},
		{"[agent]", `unknown key "agent"`},
	} {
		err := NewOptions().Load(write(t, tt.text), true)
		var found tomlfile.Errors
		if !errors.As(err, &found) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.text, err, tt.want)
		}
	}
	for _, tt := range []struct{ flag, text string }{
		{"sandbox-path", "x"},
		{"store", "nix"},
		{"max-cores", "many"},
		{"max-time", "soon"},
		{"keep-failed", "perhaps"},
		{"substitute-url", "gopher://x"},
	} {
		o := NewOptions()
		if err := flag(t, o, tt.flag).Set(tt.text); err == nil {
			t.Errorf("--%s=%s is taken", tt.flag, tt.text)
		}
	}
	if err := NewOptions().Load("/does/not/exist", true); err == nil {
		t.Error("a file that must be there is not, and that is not an error")
	}
}

// TestFileOfOthers shows that nobody else can write what the owner says.
func TestFileOfOthers(t *testing.T) {
	for name, spoil := range map[string]func(file string) error{
		"group may write": func(file string) error { return os.Chmod(file, 0o620) },
		"all may write":   func(file string) error { return os.Chmod(file, 0o602) },
		"open folder":     func(file string) error { return os.Chmod(filepath.Dir(file), 0o777) },
		"folder of a group": func(file string) error {
			return os.Chmod(filepath.Dir(file), 0o770)
		},
		"link to what all may write": func(file string) error {
			other := filepath.Join(filepath.Dir(file), "open")
			return errors.Join(os.Rename(file, other), os.Chmod(other, 0o666), os.Symlink(other, file))
		},
		"a folder": func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
		"another's": func(file string) error {
			if os.Getuid() != 0 {
				return os.Chmod(file, 0o622)
			}
			return os.Chown(file, 12345, 12345)
		},
	} {
		file := write(t, "max-cores = 1\n")
		if err := NewOptions().Load(file, true); err != nil {
			t.Fatal(err)
		}
		if err := spoil(file); err != nil {
			t.Fatal(err)
		}
		if err := NewOptions().Load(file, true); err == nil || !strings.Contains(err.Error(), "settings of the machine's owner") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSize(t *testing.T) {
	var n int64
	o := size("max-x", "", "1GiB", &n)
	if err := o.Set("2KiB"); err != nil || n != 2048 || o.String() != "2048" {
		t.Errorf("got %d, %v", n, err)
	}
	if err := o.Set("much"); err == nil {
		t.Error("much is a size")
	}
}

func TestMakeState(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, want string
		mode       os.FileMode
		ledger     bool
		after      os.FileMode
	}{
		{"new", "", 0, false, 0o700},
		{"open", "", 0o755, false, 0o700},
		{"all may write", "", 0o777, false, 0o700},
		{"of a coordinator", "", 0o755, true, 0o755},
		{"of a careless coordinator", "others can change", 0o775, true, 0o775},
		{"closed", "", 0o500, false, 0o500},
	} {
		state := filepath.Join(dir, tt.name, "state")
		if tt.mode != 0 {
			if err := os.MkdirAll(state, 0o700); err != nil {
				t.Fatal(err)
			}
			if tt.ledger {
				if err := os.Mkdir(filepath.Join(state, "ledger"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(state, tt.mode); err != nil {
				t.Fatal(err)
			}
		}
		err := MakeState(state)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if info, err := os.Stat(state); err != nil || info.Mode().Perm() != tt.after {
			t.Errorf("%s: mode %v, %v, want %v", tt.name, info.Mode(), err, tt.after)
		}
	}
	if os.Getuid() == 0 {
		theirs := filepath.Join(dir, "theirs")
		if err := errors.Join(os.Mkdir(theirs, 0o700), os.Chown(theirs, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
		if err := MakeState(theirs); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("another's: %v", err)
		}
	}
}

// TestNoImpureVariables shows that a file that allows none is told from one that says
// nothing, also by the agent's process.
func TestNoImpureVariables(t *testing.T) {
	o := NewOptions()
	if err := o.Load(write(t, "impure-env-vars = []\n"), true); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(o.Args(), "--impure-env-var=") {
		t.Errorf("the agent's process gets %q", o.Args())
	}
	again := NewOptions()
	if err := flag(t, again, "impure-env-var").Set(""); err != nil {
		t.Fatal(err)
	}
	for _, settings := range []*Settings{&o.Settings, &again.Settings} {
		var opts local.Options
		settings.StoreOptions(&opts)
		if opts.ImpureEnvVars == nil || slices.Contains(opts.ImpureEnvVars, "http_proxy") {
			t.Errorf("got %q", opts.ImpureEnvVars)
		}
	}
	if err := NewOptions().Load(write(t, `impure-env-vars = ["A=B"]`), true); err == nil {
		t.Error("a name with an = was accepted")
	}
}
