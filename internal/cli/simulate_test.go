package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lighter/internal/cli/command"
)

// TestSimulatePage runs the commands of docs/simulate.md that need no coordinator, and has all others
// understood.
func TestSimulatePage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "simulate.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	machines := ""
	for _, name := range []string{"big1", "slow"} {
		machines += "[[machine]]\nname = \"" + name + "\"\nhost = \"192.0.2.1\"\nuser = \"" + name + "\"\nsystem = \"x86_64-linux\"\n"
	}
	for name, text := range map[string]string{
		"machines.toml": machines,
		"world.tsv":     "0\tlow-1.0\tx86_64-linux\tF\t\t\n1\thigh-1.0\tx86_64-linux\tR\t\t0\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	here, _ := os.Getwd()
	getenv := func(name string) string {
		if name == "LIGHTER_STORE" {
			return ""
		}
		return here // all others name folders and files
	}
	ran := 0
	for _, line := range regexp.MustCompile(`(?m)^lighter simulate .*$`).FindAllString(string(page), -1) {
		var args []string
		for _, word := range regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`).FindAllString(line, -1)[1:] {
			args = append(args, strings.Trim(word, `"'`))
		}
		var out, errs bytes.Buffer
		code := Run(t.Context(), args, command.Process{In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: getenv})
		switch {
		case strings.Contains(line, "--graph") && (code != command.ExitDone || errs.Len() > 0):
			t.Errorf("%s: exit code %d: %s", line, code, errs.String())
		case code == command.ExitUsage:
			t.Errorf("%s: %s", line, errs.String())
		}
		ran++
	}
	if ran < 6 {
		t.Errorf("only %d commands are on the page", ran)
	}
	if _, err := os.Stat("world.svg"); err != nil {
		t.Error(err)
	}
}
