package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lighter/machines"
	"lighter/sshtransport"
)

// scriptCommands are the commands that scripts have besides testscript's own.
var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"start-machine":      startMachine,
	"start-coordinator":  startCoordinator,
	"kill-coordinator":   killCoordinator,
	"start-data-service": startDataService,
	"await":              await,
	"follow":             follow,
	"terminal":           terminalCommand,
	"keys":               keysCommand,
	"resize":             resizeCommand,
	"shows":              showsCommand,
}

// scriptTimeout is how long scripts wait for something that must happen.
const scriptTimeout = time.Minute

// background starts lighter in a process group of its own, which ends with the
// script. Its standard error goes to NAME.log.
func background(ts *testscript.TestScript, name string, args ...string) *exec.Cmd {
	log, err := os.OpenFile(ts.MkAbs(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	ts.Check(err)
	defer log.Close()
	// testscript puts its copy of the program in front of PATH.
	program := filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "lighter")
	cmd := exec.Command(program, args...)
	for _, name := range []string{"PATH", "HOME", "LIGHTER_STATE", "LIGHTER_CONFIG", "TMPDIR", "GUIX_DAEMON_SOCKET"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func startMachine(ts *testscript.TestScript, _ bool, args []string) {
	name := args[0]
	config := ts.Getenv("LIGHTER_CONFIG")
	ts.Check(os.MkdirAll(config, 0o755))
	key := filepath.Join(config, "ssh-key")
	writeSSHKey(ts, key)
	gate := ts.MkAbs("gate") // by which a script tells builds something
	ts.Check(os.MkdirAll(gate, 0o755))
	cmd := background(ts, name, "agent", "--listen", "127.0.0.1:0", "--name", name,
		"--state", ts.MkAbs(name), "--authorized-keys", key+".pub",
		"--authorize", filepath.Join(config, "signing-key.pub"),
		"--sandbox-path", "/bin", "--sandbox-path", "/usr", "--sandbox-path", "/lib", "--sandbox-path", "/lib64",
		"--sandbox-path", "/gate="+gate)
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	var text []byte
	for buf := make([]byte, 4096); !bytes.Contains(text, []byte("\n\n")); {
		n, err := stdout.Read(buf)
		text = append(text, buf[:n]...)
		if err != nil {
			log, _ := os.ReadFile(ts.MkAbs(name + ".log"))
			ts.Fatalf("machine %s: %v\n%s\n%s", name, err, text, log)
		}
	}
	list, err := machines.ParseTOML(name, text)
	ts.Check(err)
	list[0].PrivateKey, list[0].ParallelBuilds, list[0].OverloadThreshold = key, 2, 0
	ts.Check(os.WriteFile(filepath.Join(config, "machines.toml"), machines.FormatTOML(list), 0o644))
	ts.Setenv("SYSTEM", list[0].Systems[0])
}

func writeSSHKey(ts *testscript.TestScript, file string) {
	key, err := sshtransport.LoadOrCreateHostKey(file)
	ts.Check(err)
	ts.Check(os.WriteFile(file+".pub", []byte(sshtransport.FormatHostKey(key.PublicKey())+"\n"), 0o644))
}

// coordinatorKey finds the coordinator's process among a script's values.
type coordinatorKey struct{}

type runningCoordinator struct{ cmd *exec.Cmd }

func startCoordinator(ts *testscript.TestScript, _ bool, _ []string) {
	running := ts.Value(coordinatorKey{}).(*runningCoordinator)
	cmd := background(ts, "coordinator", "coordinator", "--log-level", "debug")
	ts.Check(cmd.Start())
	running.cmd = cmd
	ts.Defer(func() { killCoordinator(ts, false, nil) })
	awaitOutput(ts, regexp.MustCompile("."), "status")
}

func killCoordinator(ts *testscript.TestScript, _ bool, _ []string) {
	running := ts.Value(coordinatorKey{}).(*runningCoordinator)
	if running.cmd == nil {
		return
	}
	_ = syscall.Kill(-running.cmd.Process.Pid, syscall.SIGKILL)
	_ = running.cmd.Wait()
	running.cmd = nil
}

// await runs "lighter ARGS…" until its output matches.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await REGEXP ARGS…")
	}
	awaitOutput(ts, regexp.MustCompile(args[0]), args[1:]...)
}

func awaitOutput(ts *testscript.TestScript, want *regexp.Regexp, args ...string) {
	deadline := time.Now().Add(scriptTimeout)
	for {
		err := ts.Exec("lighter", args...)
		out := ts.ReadFile("stdout")
		if err == nil && want.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(ts.MkAbs("coordinator.log"))
			ts.Fatalf("lighter %s: does not say %q but %q (%v)\ncoordinator:\n%s", strings.Join(args, " "), want, out, err, log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// follow runs, and says yes to, the one command of lighter's that the last output advises.
func follow(ts *testscript.TestScript, neg bool, _ []string) {
	out := ts.ReadFile("stdout")
	found := regexp.MustCompile(`(?m)lighter (\S+ authorize .*?)$`).FindStringSubmatch(out)
	if neg || found == nil {
		ts.Fatalf("no command is advised: %s", out)
	}
	ts.Check(ts.Exec("lighter", append(strings.Fields(found[1]), "--yes")...))
}
