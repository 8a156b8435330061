package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAsGuix calls the program as guix-daemon does, and as people do who have it in the
// place of guix.
func TestAsGuix(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Another file, so that lighter is found beside the program that stands for guix.
	if err := os.Link(program, filepath.Join(dir, "lighter")); err != nil {
		copyFile(t, program, filepath.Join(dir, "lighter"))
	}
	for _, name := range []string{"guix", "lighter-guix"} {
		if err := os.Symlink("lighter", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	guix := filepath.Join(dir, "real-guix")
	if err := os.WriteFile(guix, []byte("#!/bin/sh\necho \"real guix: $*\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	const question = "1 x86_64-linux /gnu/store/00000000000000000000000000000000-x.drv \n"
	for _, tt := range []struct {
		name, args, stdin, want string
		code                    int
	}{
		{"lighter", "substitute --query", "", "real guix: substitute --query\n", 0},
		{"lighter", "authenticate", "", "real guix: authenticate\n", 0},
		{"lighter", "gc --list-busy", "", "real guix: gc --list-busy\n", 0},
		{"lighter", "build hello", "", "no coordinator answers", 5},
		{"lighter", "offload x86_64-linux 0 true 0", question, "# decline\n", 0},
		{"lighter-guix", "offload x86_64-linux 0 true 0", question, "# decline\n", 0},
		{"guix", "substitute --query", "", "real guix: substitute --query\n", 0},
		{"guix", "build hello", "", "real guix: build hello\n", 0},
		{"guix", "offload test", "", "lighter: no machines file at " + dir, 1},
		{"lighter-guix", "offload status x.scm", "", "lighter: no machines file at x.scm", 1},
	} {
		t.Run(tt.name+" "+tt.args, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, tt.name), strings.Fields(tt.args)...)
			cmd.Env = []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LIGHTER_GUIX=" + guix, "LIGHTER_STATE=" + dir, "LIGHTER_CONFIG=" + dir,
				"GUIX_CONFIGURATION_DIRECTORY=" + dir,
			}
			cmd.Stdin = strings.NewReader(tt.stdin)
			cmd.Dir = dir
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != tt.code || !strings.Contains(string(out), tt.want) {
				t.Errorf("exit code %d, want %d and %q in:\n%s", got, tt.code, tt.want, out)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}
