package local

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"lighter/internal/testkit"
)

// memberVariable tells a process of the test binary that it is one of several that use
// a store at the same time.
const memberVariable = "LIGHTER_TEST_MEMBER"

func runMember() int { return 0 }

// runSelf runs the test binary once more.
func runSelf(t *testing.T, folder string, env []string, who *syscall.Credential, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), env...)
	if who != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
		cmd.Env = append(cmd.Env, testkit.OrdinaryUser+"=1")
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
