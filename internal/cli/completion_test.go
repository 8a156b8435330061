package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/cli/command"
)

func TestCompletion(t *testing.T) {
	s := newStub(t)
	s.answer("GET /v1/machines", []api.MachineStatus{
		{Name: "alpha", State: "up", Systems: []string{"x86_64-linux", "i686-linux"}},
		{Name: "beta", State: "down", Systems: []string{"x86_64-linux"}},
		{Name: "ev\x1bil", State: "up"},
	})
	b := api.Build{State: api.Failed}
	b.ID = "3f2a91c0"
	b.Derivation, b.Tags = "/gnu/store/00000000000000000000000000000000-hello-2.12.drv", map[string]string{"branch": "master"}
	s.answer("GET /v1/builds", api.BuildList{Builds: []api.Build{b}})
	for _, tt := range []struct{ typed, want string }{
		{"machi|", "machines"},
		{"machines drain |", "alpha\tup beta\tdown"},
		{"machines drain alpha |", "beta\tdown"},
		{"builds show |", "3f2a91c0\thello-2.12.drv, failed"},
		{"builds priority 5 3|", "3f2a91c0\thello-2.12.drv, failed"},
		{"builds list --state fail|", "failed"},
		{"builds list --tag |", "branch=master"},
		{"builds list --system i|", "i686-linux"},
		{"build --on b|", "beta\tdown"},
		{"coordinator --log-level |", "debug info warn error"},
		{"events --kind m|", "missing-inputs machine-lost machine-back"},
		{"completion z|", "zsh"},
		{"status |", ""},
	} {
		t.Run(tt.typed, func(t *testing.T) {
			words := strings.Split(strings.TrimSuffix(tt.typed, "|"), " ")
			r := s.run("", append([]string{"__complete"}, words...)...)
			var got []string
			for line := range strings.Lines(r.out) {
				if line = strings.TrimSpace(line); line[0] != ':' {
					got = append(got, strings.TrimSuffix(line, "\tlist machines, test and authorize them"))
				}
			}
			if text := strings.Join(got, " "); !strings.HasPrefix(text, tt.want) || tt.want == "" && text != "" {
				t.Errorf("got %q, want %q", text, tt.want)
			}
		})
	}
}

// TestCompletionWithoutCoordinator offers nothing, quietly.
func TestCompletionWithoutCoordinator(t *testing.T) {
	s := newStub(t)
	s.socket = filepath.Join(t.TempDir(), "none")
	s.run("", "__complete", "machines", "drain", "").want(t, command.ExitDone, ":4\n", "")
}

func TestManPages(t *testing.T) {
	folder := t.TempDir()
	if err := WriteManPages(folder); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(folder, "lighter-machines-check.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{".TH LIGHTER\\-MACHINES\\-CHECK 1", ".SH SYNOPSIS\n.nf\nlighter machines check [FLAGS] [FILE]\n", "\n.SH EXIT CODES\n", ".BR lighter\\-machines (1)"} {
		if !strings.Contains(string(page), part) {
			t.Errorf("there is no %q in\n%s", part, page)
		}
	}
}
