// Package testkit has what tests of several packages share: the gates in front
// of real components.
//
// A test that needs something which a developer's machine may lack is skipped
// there with a word on what to install. In CI (the variable CI is set) the gate
// is locked: the test fails, so that nothing is ever skipped by accident.
package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
)

// NeedCommand returns the file name of a program that the test runs. Folders of
// system programs are searched too, since sshd is not on an ordinary user's PATH.
func NeedCommand(t testing.TB, name string) string {
	t.Helper()
	path, err := findCommand(name)
	if err != nil {
		Missing(t, err)
	}
	return path
}

func findCommand(name string) (string, error) {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("the program %s is not installed", name)
}

// NeedUserNamespaces skips or fails the test where the kernel does not let this
// process create user and mount namespaces.
func NeedUserNamespaces(t testing.TB) {
	t.Helper()
	if err := userNamespaces(); err != nil {
		Missing(t, err)
	}
}

// OrdinaryUser is the variable that root sets for a test's program that it runs once more as
// an ordinary user, who then need not be root.
const OrdinaryUser = "LIGHTER_TEST_ORDINARY_USER"

// NeedRoot skips or fails the test where this process is not root's.
func NeedRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv(OrdinaryUser) != "":
		t.Skip("root has run it")
	default:
		Missing(t, errors.New("only root can run this test"))
	}
}

// Missing skips or fails a test that lacks something of the machine.
func Missing(t testing.TB, err error) {
	t.Helper()
	if err := inCI(err); err != nil {
		t.Fatal(err)
	}
	t.Skip(err)
}

// HaveCommand and HaveUserNamespaces are the same gates for scripts: in CI it is an error not to
// have what they ask for.
func HaveCommand(name string) (bool, error) {
	_, err := findCommand(name)
	return err == nil, inCI(err)
}

func HaveUserNamespaces() (bool, error) {
	err := userNamespaces()
	return err == nil, inCI(err)
}

// inCI returns what is missing as the error that it is in CI, and only there.
func inCI(missing error) error {
	if missing == nil || os.Getenv("CI") == "" {
		return nil
	}
	return fmt.Errorf("%w; in CI every test must run", missing)
}

var userNamespaces = sync.OnceValue(func() error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("user namespaces cannot be created here: %w", err)
	}
	return nil
})
