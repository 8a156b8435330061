package evaluatecommand_test

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/cli"
	"lighter/internal/cli/command"
)

func lighter(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = cli.Run(t.Context(), append([]string{"evaluate"}, args...), command.Process{In: strings.NewReader(""), Out: &o, Err: &e, Getenv: os.Getenv})
	return code, o.String(), e.String()
}

// me is who runs the test: root has to say so.
func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return "--user=" + u.Username
}

func write(t *testing.T, lines ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func drv(digit string) string { return "/gnu/store/" + strings.Repeat(digit, 32) + "-x.drv" }

func line(name, derivation string) string {
	return fmt.Sprintf(`{"name":%q,"version":"1","system":"x86_64-linux","derivation":%q}`, name, derivation)
}

func broken(name string) string {
	return fmt.Sprintf(`{"name":%q,"version":"1","system":"x86_64-linux","location":{"file":"a.scm","line":7},"error":"no\nsuch \u001b[2J"}`, name)
}

func TestEvaluate(t *testing.T) {
	before := write(t, line("same", drv("1")), line("other", drv("1")), line("gone", drv("1")), line("breaks", drv("1")))
	after := "--command=cat " + write(t, `{"total":5}`, line("same", drv("1")), line("other", drv("2")), line("twin", drv("2")), broken("breaks"))
	broke := `{"name":"breaks","version":"1","system":"x86_64-linux","location":{"file":"a.scm","line":7},"error":"no\nsuch \u001b[2J"`
	changed := strings.TrimSuffix(line("other", drv("2")), "}")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{line("same", drv("1")), line("other", drv("2")), line("twin", drv("2")), broke + "}"}},
		{[]string{"--derivations"}, []string{drv("1"), drv("2")}},
		{[]string{"--errors"}, []string{`a.scm:7: breaks@1 for x86_64-linux: no | such \x1b[2J`}},
		{[]string{"--since", before, "--derivations"}, []string{drv("2")}},
		{[]string{"--since", before, "--errors"}, []string{`a.scm:7: breaks@1 for x86_64-linux: no | such \x1b[2J`}},
		{[]string{"--since", before}, []string{
			changed + `,"change":"changed"}`, strings.Replace(changed, "other", "twin", 1) + `,"change":"new"}`,
			broke + `,"change":"changed"}`, strings.TrimSuffix(line("gone", drv("1")), "}") + `,"change":"gone"}`,
		}},
	} {
		code, out, errs := lighter(t, append(c.args, me(t), after)...)
		if want := strings.Join(c.want, "\n") + "\n"; code != 0 || out != want {
			t.Errorf("%q: code %d, got\n%swant\n%s%s", c.args, code, out, want, errs)
		}
		if !strings.Contains(errs, ": 4 packages, 1 error, in 0s\n") {
			t.Errorf("%q: standard error %q", c.args, errs)
		}
	}
}

func TestEvaluateErrors(t *testing.T) {
	good := "--command=cat " + write(t, line("a", drv("1")))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--command=echo hello"}, command.ExitBadInput, "line 1 of what the evaluation prints: found 'h'"},
		{[]string{`--command=echo '{"module":"(a b)","error":"unbound"}'`}, command.ExitBadInput, "not loaded: (a b): unbound\n"},
		{[]string{"--command=echo no daemon >&2; exit 3"}, command.ExitFailure, "the evaluation ended: exit status 3; its last words:\nno daemon"},
		{[]string{good, "--since", write(t, line("a", drv("1")), "{}")}, command.ExitBadInput, `line 2: "name" is missing`},
		{[]string{good, "--since", "/nowhere"}, command.ExitFailure, "open /nowhere: no such file"},
		{[]string{good, "--derivations", "--errors"}, command.ExitUsage, "exclude each other"},
		{[]string{good, "--profile", "/x"}, command.ExitUsage, "only one of --profile, --channels and --command"},
		{nil, command.ExitUsage, "which packages? --all,"},
		{[]string{"--manifest", "/"}, command.ExitUsage, "--manifest: / is a folder: want a file"},
		{[]string{"--load-path", "/nowhere"}, command.ExitUsage, "--load-path: stat /nowhere: no such file"},
		{[]string{"--all", "--profile", "/nowhere"}, command.ExitFailure, "/nowhere/bin/guix: no such file"},
		{[]string{good, "--system", "--help"}, command.ExitFailure, `"--help" is no name of a system`},
		{[]string{good, "--user", "nobody-of-that-name"}, command.ExitFailure, "unknown user nobody-of-that-name"},
	} {
		code, out, errs := lighter(t, append([]string{me(t)}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.want) || out != "" && code != command.ExitFailure {
			t.Errorf("%q: code %d, want %d; got %q, %q, want %s", c.args, code, c.code, out, errs, c.want)
		}
	}
	if os.Geteuid() == 0 {
		if code, _, errs := lighter(t, good); code != command.ExitUsage || !strings.Contains(errs, "you are root: say in whose account with --user NAME") {
			t.Errorf("as root: code %d, %q", code, errs)
		}
	}
}
