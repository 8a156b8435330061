package cli

import (
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// tmux runs a command of the tmux that is a script's terminal, and returns what that prints.
func tmux(ts *testscript.TestScript, args ...string) string {
	cmd := exec.Command("tmux", append([]string{"-u", "-f", "/dev/null", "-S", ts.MkAbs("tmux")}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "LIGHTER_STATE", "LIGHTER_CONFIG", "TMPDIR", "GUIX_DAEMON_SOCKET", "NO_COLOR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Env = append(cmd.Env, "LANG=C.UTF-8", "TERM=xterm-256color")
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// terminalCommand starts a program in a terminal: terminal COLUMNS ROWS PROGRAM…; what the terminal showed
// before is "before", and it says with which code the program left.
func terminalCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: terminal COLUMNS ROWS PROGRAM…")
	}
	program := "echo before; " + strings.Join(args[2:], " ") + "; echo left with $?; exec sleep 600"
	tmux(ts, "new-session", "-d", "-s", "screen", "-x", args[0], "-y", args[1], program)
	ts.Defer(func() { _ = exec.Command("tmux", "-S", ts.MkAbs("tmux"), "kill-server").Run() })
	tmux(ts, "set-option", "-g", "remain-on-exit", "on")
}

// keysCommand presses keys: names as tmux has them (Enter, Down, C-c), or text.
func keysCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: keys KEY…")
	}
	tmux(ts, append([]string{"send-keys", "-t", "screen"}, args...)...)
}

func resizeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: resize COLUMNS ROWS")
	}
	tmux(ts, "resize-window", "-t", "screen", "-x", args[0], "-y", args[1])
}

// showsCommand waits until the terminal shows all of some patterns at once, or none of them. The screen is in
// the file "screen" then.
func showsCommand(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(scriptTimeout)
	for {
		screen := tmux(ts, "capture-pane", "-p", "-t", "screen")
		seen := 0
		for _, pattern := range args {
			if regexp.MustCompile("(?m)" + pattern).MatchString(screen) {
				seen++
			}
		}
		if !neg && seen == len(args) || neg && seen == 0 {
			ts.Logf("%s", screen)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the terminal shows, where %q is awaited (not: %v):\n%s", args, neg, screen)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
