package buildhook

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestIsHelper(t *testing.T) {
	for _, args := range [][]string{{"substitute", "--query"}, {"authenticate"}, {"perform-download"}, {"gc", "--list-busy"}, {"git-download"}} {
		if !IsHelper(args) {
			t.Errorf("%q: not for guix", args)
		}
	}
	for _, args := range [][]string{nil, {}, {"offload", "x86_64-linux"}, {"build"}, {""}, {"--query", "substitute"}} {
		if IsHelper(args) {
			t.Errorf("%q: for guix", args)
		}
	}
}

// script writes a program that is a fake of guix.
func script(t *testing.T, file string) string {
	t.Helper()
	text := "#!/bin/sh\necho \"args $*\"\necho \"var $THIS_VARIABLE\"\necho to-stderr >&2\nexit 42\n"
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFindGuix(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	real := script(t, dir+"/real/guix")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir+"/self", 0o700))
	must(os.Symlink(self, dir+"/self/guix"))
	must(os.Mkdir(dir+"/linked", 0o700))
	must(os.Symlink(real, dir+"/linked/guix"))
	must(os.MkdirAll(dir+"/folder/guix", 0o700))
	must(os.Mkdir(dir+"/plain", 0o700))
	must(os.WriteFile(dir+"/plain/guix", []byte("x"), 0o600))
	must(os.Mkdir(dir+"/dangling", 0o700))
	must(os.Symlink(dir+"/nothing", dir+"/dangling/guix"))
	saved := realGuix
	defer func() { realGuix = saved }()
	realGuix = []string{dir + "/nowhere", dir + "/self/guix"}
	path := func(names ...string) string {
		for i, name := range names {
			names[i] = filepath.Join(dir, name)
		}
		return strings.Join(names, ":")
	}
	for name, c := range map[string]struct {
		variable, path string
		installed      bool
		want           string // "" is an error
	}{
		"variable":              {variable: "/x/guix", path: path("real"), want: "/x/guix"},
		"variable is lighter":   {variable: dir + "/self/guix", path: path("real")},
		"path":                  {path: path("real"), want: real},
		"symlink":               {path: path("linked"), want: dir + "/linked/guix"},
		"itself comes first":    {path: path("self", "real"), want: real},
		"no programs first":     {path: path("folder", "plain", "dangling", "missing", "real"), want: real},
		"relative":              {path: "real:."},
		"none":                  {path: path("self")},
		"empty":                 {},
		"installed":             {path: path("self"), installed: true, want: real},
		"path before installed": {path: path("linked"), installed: true, want: dir + "/linked/guix"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(dir)
			if c.installed {
				realGuix = append(realGuix, real)
				defer func() { realGuix = realGuix[:2] }()
			}
			got, err := FindGuix(func(variable string) string {
				return map[string]string{"LIGHTER_GUIX": c.variable, "PATH": c.path}[variable]
			})
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), "LIGHTER_GUIX") {
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
}

// lighterGuix runs this program as guix-daemon runs $GUIX.
func lighterGuix(t *testing.T, args []string, env ...string) (stdout, stderr string, code int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), append([]string{"LIGHTER_TEST_MAIN=1", "THIS_VARIABLE=kept"}, env...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestMainIsGuix(t *testing.T) {
	guix := script(t, t.TempDir()+"/guix")
	for _, args := range [][]string{
		{"substitute", "--query"},
		{"authenticate"},
		{"gc", "--list-busy"},
		{"build", "a b", "--x"},
		{},
		{"offload", "test"}, // a person's; no lighter lies beside this program
	} {
		out, errs, code := lighterGuix(t, args, "LIGHTER_GUIX="+guix)
		if want := "args " + strings.Join(args, " ") + "\nvar kept\n"; out != want || errs != "to-stderr\n" || code != 42 {
			t.Errorf("%q: got %q, %q, exit code %d", args, out, errs, code)
		}
	}
}

func TestMainWithoutGuix(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, guix := range []string{self, t.TempDir() + "/nothing"} {
		if out, errs, code := lighterGuix(t, []string{"substitute"}, "LIGHTER_GUIX="+guix); out != "" || code != 127 || !strings.Contains(errs, "lighter: ") {
			t.Errorf("%s: got %q, %q, exit code %d", guix, out, errs, code)
		}
	}
}

func TestMainOffloads(t *testing.T) {
	dir := t.TempDir()
	args := []string{"offload", "x86_64-linux", "3600", "true", "86400"}
	if out, errs, code := lighterGuix(t, args, "LIGHTER_STATE="+dir, "LIGHTER_GUIX=/nothing"); out != "" || errs != "" || code != 0 {
		t.Errorf("no question: got %q, %q, exit code %d", out, errs, code)
	}
	args[2] = "soon"
	if _, errs, code := lighterGuix(t, args); code != ExitTransient || !strings.Contains(errs, `MAX-SILENT-TIME "soon"`) {
		t.Errorf("bad arguments: got %q, exit code %d", errs, code)
	}
}

// TestMainIsLighter has a lighter beside this program, for people who work with guix-daemon.
func TestMainIsLighter(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/lighter-guix", program, 0o700); err != nil {
		t.Fatal(err)
	}
	text := "#!/bin/sh\necho \"$* $LIGHTER_STORE\"\nexit 43\n"
	if err := os.WriteFile(dir+"/lighter", []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir+"/lighter-guix", dir+"/guix"); err != nil {
		t.Fatal(err)
	}
	for store, want := range map[string]string{"": "offload status guix-daemon\n", "LIGHTER_STORE=/x": "offload status /x\n"} {
		cmd := exec.CommandContext(t.Context(), dir+"/guix", "offload", "status")
		cmd.Env = append(os.Environ(), "LIGHTER_TEST_MAIN=1", "LIGHTER_GUIX=/nothing")
		if store != "" {
			cmd.Env = append(cmd.Env, store)
		}
		out, err := cmd.Output()
		if string(out) != want || cmd.ProcessState.ExitCode() != 43 {
			t.Errorf("with %q: got %q, %v, want %q", store, out, err, want)
		}
	}
}
