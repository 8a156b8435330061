package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"lighter/internal/cli/command"
	"lighter/internal/human"
	"lighter/internal/testkit"
	"lighter/store/local"
)

var update = flag.Bool("update", false, "rewrite golden files and docs/commands.md")

func TestMain(m *testing.M) {
	local.MaybeRunBuilder()
	testscript.Main(m, map[string]func(){"lighter": func() { os.Exit(Main()) }})
}

// TestScripts runs the scripts in testdata/script. Each has a state and a
// configuration folder of its own.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                scriptCommands,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("LIGHTER_STATE", filepath.Join(env.WorkDir, "state"))
			env.Setenv("LIGHTER_CONFIG", filepath.Join(env.WorkDir, "config"))
			env.Setenv("GUIX_DAEMON_SOCKET", filepath.Join(env.WorkDir, "no-guix"))
			env.Values[coordinatorKey{}] = new(runningCoordinator)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "userns" {
				return testkit.HaveUserNamespaces()
			}
			if program, ok := strings.CutPrefix(cond, "program:"); ok {
				return testkit.HaveCommand(program)
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// pages returns the help page of every command, by its path.
func pages(t *testing.T, c *command.Command) (all []string) {
	t.Helper()
	var b bytes.Buffer
	if err := c.WriteHelp(&b); err != nil {
		t.Fatal(err)
	}
	all = append(all, b.String())
	for _, s := range c.Sub {
		all = append(all, pages(t, s)...)
	}
	return all
}

func TestEveryCommandHasACompletePage(t *testing.T) {
	for _, page := range pages(t, rootCommand()) {
		name, _, _ := strings.Cut(page, " - ")
		sections := []string{"\nSYNOPSIS\n", "\nEXIT CODES\n", "FLAGS\n"}
		if !strings.Contains(page, "\nCOMMANDS\n") {
			sections = append(sections, "\nEXAMPLES\n")
		}
		for _, section := range sections {
			if !strings.Contains(page, section) {
				t.Errorf("%s: the page has no%s", name, section)
			}
		}
		const width = 80
		inExamples := false
		for line := range strings.Lines(page) {
			line = strings.TrimRight(line, "\n")
			inExamples = line == "EXAMPLES" || inExamples && (line == "" || line[0] == ' ')
			if human.Width(line) > width && !inExamples {
				t.Errorf("%s: wider than %d: %q", name, width, line)
			}
			if strings.TrimRight(line, " ") != line {
				t.Errorf("%s: blanks at the end of %q", name, line)
			}
		}
	}
}

// TestCommandsDocument keeps docs/commands.md the same as the help pages.
func TestCommandsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Commands\n\nThe help pages of all commands; `go test ./internal/cli -update` writes this file.\n")
	for _, page := range pages(t, rootCommand()) {
		name, _, _ := strings.Cut(page, " - ")
		fmt.Fprintf(&b, "\n## %s\n\n```text\n%s```\n", name, page)
	}
	file := filepath.Join("..", "..", "docs", "commands.md")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), b.String()); diff != "" {
		t.Errorf("docs/commands.md is out of date; run go test ./internal/cli -update (-file +pages):\n%s", diff)
	}
}

func TestUsageErrors(t *testing.T) {
	for name, c := range map[string]struct {
		args string
		want string
	}{
		"unknown command":      {"biuld", `unknown command "biuld"; did you mean "build"?`},
		"nothing near":         {"xyzzy", `unknown command "xyzzy"; the commands are build, builds`},
		"unknown subcommand":   {"machines chekc", `lighter machines: unknown command "chekc"; did you mean "check"?`},
		"no subcommand":        {"machines", `lighter machines: which one? list, status`},
		"unknown flag":         {"build --kep-going x", `lighter build: unknown flag --kep-going; did you mean --keep-going?`},
		"unknown short flag":   {"build -Z x", `lighter build: unknown flag -Z; see "lighter build --help"`},
		"wrong value":          {"build --timeout soon x", `--timeout "soon" is not a length of time`},
		"no number":            {"build --retries x y", `lighter build: --retries "x": want a whole number` + "\n"},
		"no positive number":   {"events --from -1", `--from "-1": want a whole number that is not negative`},
		"large number":         {"build --retries 99999999999999999999 y", `--retries "99999999999999999999": that is too large a number`},
		"lines in bytes":       {"builds log --tail 4KiB x", `--tail "4KiB": want a whole number; for a size there is --bytes`},
		"no truth":             {"builds list --ids=maybe", `--ids "maybe": want true or false`},
		"no tag":               {"build --tag a y", `--tag "a": want NAME=VALUE`},
		"half a quote":         {`builds list --state "a`, `--state "\"a": a quote in it has no other half`},
		"no value":             {"builds list --limit", `lighter builds list: --limit wants a value; see`},
		"negative priority":    {"builds priority -10 ID", `a negative number comes after --: lighter builds priority -- -10`},
		"missing argument":     {"build", `lighter build: DRV is missing`},
		"too many":             {"key generate a b", `one argument too many: "b"`},
		"none wanted":          {"status now", `takes no arguments, got "now"`},
		"help of nothing":      {"help biulds", `unknown command "biulds"; did you mean "builds"?`},
		"help below a leaf":    {"help build now", `lighter build has no command "now" below it`},
		"wrong size":           {"store gc --max-freed lots", `"lots" is not a size`},
		"wrong state":          {"builds list --only don", `no state is called "don"; they are queued`},
		"flag before command":  {"--nonsense x build", `unknown flag --nonsense`},
		"control characters":   {"\x1b[2J", `unknown command "\x1b[2J"`},
		"negative time limit":  {"build --timeout=-1s x", "is not a length of time"},
		"authorized with FILE": {"key show --authorized x", "takes no FILE"},
	} {
		var out, errs bytes.Buffer
		getenv := func(name string) string {
			if name == "LIGHTER_STORE" {
				return ""
			}
			return t.TempDir() // all others name folders and files
		}
		p := command.Process{In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: getenv}
		if code := Run(t.Context(), strings.Fields(c.args), p); code != command.ExitUsage {
			t.Errorf("%s: exit code %d, want %d", name, code, command.ExitUsage)
		}
		if got := errs.String(); !strings.Contains(got, c.want) || !strings.HasPrefix(got, "lighter") {
			t.Errorf("%s: error %q, want %q", name, got, c.want)
		}
		if out.Len() > 0 {
			t.Errorf("%s: output %q", name, out.String())
		}
	}
}
