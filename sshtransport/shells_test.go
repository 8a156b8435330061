package sshtransport

import (
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The scripts of an upload mean the same in each login shell.
func TestScriptsInShells(t *testing.T) {
	sum := hex.EncodeToString(make([]byte, 32))
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "fish", "csh", "tcsh", "busybox"} {
		program, err := exec.LookPath(shell)
		if err != nil {
			continue // those that are there must do
		}
		t.Run(shell, func(t *testing.T) {
			home := t.TempDir()
			dir := filepath.Join(home, "it's a folder!")
			run := func(script string, args ...string) string {
				t.Helper()
				text, err := quote(append([]string{"sh", "-c", script}, args...)...)
				if err != nil {
					t.Fatal(err)
				}
				argv := []string{"-c", text}
				if shell == "busybox" {
					argv = []string{"sh", "-c", text}
				}
				cmd := exec.Command(program, argv...)
				cmd.Dir, cmd.Stdin, cmd.Stderr = home, strings.NewReader("program"), os.Stderr
				cmd.Env = append(os.Environ(), "HOME="+home)
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				return string(out)
			}
			if got := run(writeScript, filepath.Base(dir), "x"); !strings.HasSuffix(got, "\n"+magicWrite+"\n\n"+magicWritten+dir+"\n") {
				t.Errorf("write: %q", got)
			}
			if got := run(readScript, dir+"/.upload-x", "7"); !strings.HasSuffix(got, "\n"+magicContent+"\nprogram") {
				t.Errorf("read: %q", got)
			}
			if got := run(placeScript, dir, ".upload-x", sum); !strings.HasSuffix(got, "\n"+magicPlaced+"\n") {
				t.Errorf("place: %q", got)
			}
			if text, err := os.ReadFile(filepath.Join(dir, sum, programName)); err != nil || string(text) != "program" {
				t.Errorf("placed: %q, %v", text, err)
			}
			if got := run(mountsScript, dir); !strings.Contains(got, magicContent+"\n"+dir+"\n") {
				t.Errorf("mounts: %q", got[:min(len(got), 200)])
			}
			if got := run(unameScript); !strings.Contains(got, "\n"+magicUname+"Linux ") {
				t.Errorf("uname: %q", got)
			}
		})
	}
}
