package daemon

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"lighter/store"
)

// TestMeasuredByTrace has a process that is called guix-daemon wait for a builder that takes processor time.
func TestMeasuredByTrace(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	input, output, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	const builder = `echo $$; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; read end <&3`
	cmd := exec.Command("/bin/sh", "-c", `/bin/sh -c "$1"; echo waited; read end <&3`, "sh", builder)
	cmd.Args[0] = "guix-daemon"
	cmd.ExtraFiles = []*os.File{input}
	said, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	input.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { output.Close(); _ = cmd.Wait() })
	lines := bufio.NewScanner(said)
	lines.Scan()
	var used store.Measured
	b := build{store: s, req: &store.BuildRequest{Measured: &used, MemoryLimit: 1}}
	b.builderStarted("x86_64-linux /log " + lines.Text())
	fmt.Fprintln(output)
	if lines.Scan(); lines.Text() != "waited" {
		t.Fatalf("it says %q", lines.Text())
	}
	b.builderEnded()
	t.Logf("%+v", used)
	if used.CPU < 0.02 || used.CPU > 60 || used.Method != store.MeasuredProcesses || used.Disk != 0 || used.MemoryLimit != 0 {
		t.Errorf("got %+v", used)
	}
	for _, want := range []string{"memory: ", "no limit of memory was set", notMeasured} {
		if !strings.Contains(used.Unmeasured, want) {
			t.Errorf("%q lacks %q", used.Unmeasured, want)
		}
	}
	// What is no child of a guix-daemon here is a builder elsewhere.
	for _, told := range []string{"", "x86_64-linux /log", "x86_64-linux /log " + fmt.Sprint(os.Getpid()), "x86_64-linux /log -1", "x86_64-linux /log 99999999999999999999"} {
		used = store.Measured{}
		b.builderStarted(told)
		if b.builderEnded(); used.CPU != 0 || used.PeakMemory != 0 || !strings.Contains(used.Unmeasured, "are not seen in /proc") {
			t.Errorf("told %q: %+v", told, used)
		}
	}
	// Nothing was built.
	used = store.Measured{}
	if b.builderEnded(); used != (store.Measured{}) {
		t.Errorf("got %+v", used)
	}
}
