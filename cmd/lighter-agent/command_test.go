package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	for _, tt := range []struct {
		args string
		want int
		text string // in what is printed
	}{
		{"", exitOK, "commands:"},
		{"help", exitOK, "exit status:"},
		{"--help", exitOK, "exit status:"},
		{"serve --help", exitOK, "exit status:"},
		{"version", exitOK, "protocol 1"},
		{"dance", exitUsage, `unknown command "dance"`},
		{"--dance", exitUsage, "--dance"},
		{"start now", exitUsage, `unexpected argument "now"`},
		{"authorize", exitUsage, "which FILE"},
		{"authorize /does/not/exist --state " + state + " --socket " + state + "/s", exitFail, "/does/not/exist"},
		{"serve --log-level loud --state " + state, exitUsage, "loud"},
		{"serve --store nix --socket " + state + "/s --state " + state, exitUsage, "nix"},
		{"serve --store-directory gnu --socket " + state + "/s --state " + state, exitUsage, "gnu"},
		{"start --socket /" + strings.Repeat("x", 107), exitFail, "108 bytes"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var out bytes.Buffer
			got := run(t.Context(), strings.Fields(tt.args), stdio{strings.NewReader(""), &out, &out})
			if got != tt.want || !strings.Contains(out.String(), tt.text) {
				t.Errorf("got %d: %s; want %d and %q", got, out.String(), tt.want, tt.text)
			}
		})
	}
}
