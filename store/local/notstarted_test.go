package local

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/store"
	"lighter/store/derivation"
)

// elf64 is a program for this kind of machine that names an interpreter.
func elf64(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	head := append([]byte(nil), text[:64]...)
	header := make([]byte, 56)
	header[0] = 3                                // PT_INTERP
	header[8], header[32] = 0, byte(len(name)+1) // p_offset, p_filesz
	header[9] = 1                                // the name is at 256
	copy(head[32:40], []byte{64, 0, 0, 0, 0, 0, 0, 0})
	head[54], head[55], head[56], head[57] = 56, 0, 1, 0
	file := append(head, header...)
	file = append(file, make([]byte, 256-len(file))...)
	return append(append(file, name...), 0)
}

func TestInterpreter(t *testing.T) {
	for _, tt := range []struct {
		name, file, want string
	}{
		{"script", "#!/bin/sh -e\nexit 1\n", "/bin/sh"},
		{"script with a blank", "#!  /usr/bin/env perl", "/usr/bin/env"},
		{"script that names nothing", "#!\n/bin/sh", ""},
		{"text", "hello\n", ""},
		{"empty", "", ""},
		{"program", string(elf64(t, "/lib64/ld.so")), "/lib64/ld.so"},
		{"cut program", string(elf64(t, "/lib64/ld.so")[:100]), ""},
		{"cut name", string(elf64(t, "/lib64/ld.so")[:260]), ""},
		{"header far away", "\x7fELF\x02\x01" + strings.Repeat("\xff", 100), ""},
		{"many headers", "\x7fELF\x01\x01" + strings.Repeat("\xff", 100), ""},
	} {
		if got := interpreter(bytes.NewReader([]byte(tt.file))); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzInterpreter(f *testing.F) {
	f.Add([]byte("#!/bin/sh\n"))
	f.Add([]byte("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 60)))
	f.Fuzz(func(t *testing.T, file []byte) {
		if name := interpreter(bytes.NewReader(file)); len(name) > maxInterpreter {
			t.Errorf("a name of %d bytes", len(name))
		}
	})
}

// TestUnable builds what another machine might build, and names what is missing.
func TestUnable(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	s := openTestStore(t)
	folder := scratch(t)
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"script": "#!/no/such/interpreter -x\n", "program": string(elf64(t, "/lib64/ld-linux-nowhere.so")), "item-script": "#!/gnu/store/00000000000000000000000000000000-sh/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("script", filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(folder, "dangling")); err != nil {
		t.Fatal(err)
	}
	build := func(d *derivation.Derivation) error {
		t.Helper()
		req := rawRequest(t, s, d)
		req.SandboxPaths = append(systemPaths(), "/bad="+folder)
		_, err := s.Build(t.Context(), req)
		wantClean(t, s)
		return err
	}
	for _, tt := range []struct{ system, builder, message string }{
		{"sparc64-linux", "/bin/sh", "it is for sparc64-linux, and this machine builds for " + machineSystems()[0]},
		{"", "builtin:unknown", "this machine has no builder builtin:unknown"},
		{"", "/nonexistent/1", "no such file or directory; it is not in the store, so the machine's sandbox paths must include it"},
		{"", "/bad/dangling", "so the machine's sandbox paths must include it"},
		{"", "/bad/script", "start the builder /bad/script: it needs /no/such/interpreter, which is not in the sandbox"},
		{"", "/bad/link", "it needs /no/such/interpreter, which is not in the sandbox"},
		{"", "/bad/program", "it needs /lib64/ld-linux-nowhere.so, which is not in the sandbox: the machine's sandbox paths must include that too"},
	} {
		system := tt.system
		if system == "" {
			system = machineSystems()[0]
		}
		err := build(&derivation.Derivation{System: system, Builder: tt.builder})
		var unable *store.UnableError
		if !errors.As(err, &unable) || !strings.Contains(err.Error(), tt.message) {
			t.Errorf("%s: got %v, want an UnableError with %q", tt.builder, err, tt.message)
		}
	}
	// What is in the store must be among the inputs, wherever it is built.
	var failed *store.BuildError
	if err := build(&derivation.Derivation{System: machineSystems()[0], Builder: "/bad/item-script"}); !errors.As(err, &failed) || !strings.Contains(failed.Message, "it is not among the derivation's inputs") {
		t.Errorf("a script for an item that is no input: %v", err)
	}
	// A variable is named.
	err := build(&derivation.Derivation{System: machineSystems()[0], Builder: "/bin/sh", Env: []derivation.EnvVar{{Name: "big", Value: strings.Repeat("x", 200_000)}}})
	if !errors.As(err, &failed) || !strings.Contains(failed.Message, "argument list too long: the variable big has 195 KiB") {
		t.Errorf("a variable of 200,000 bytes: %v", err)
	}
}

// TestKilled tells builders that were killed, or whose programs were, from those that failed.
func TestKilled(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	s := openTestStore(t)
	for script, want := range map[string]store.BuildFailure{
		"kill -9 $$": store.FailedKilled, "exit 137": store.FailedKilled, "kill -15 $$": store.FailedExit, "exit 136": store.FailedExit,
	} {
		_, err := s.Build(t.Context(), (&recipe{name: "victim", script: script}).request(t, s))
		var failed *store.BuildError
		if !errors.As(err, &failed) || failed.Failure != want {
			t.Errorf("%s: %v, want a failure %q", script, err, want)
		}
	}
}
