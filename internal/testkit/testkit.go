// Package testkit has what tests of several packages share: the gates in front
// of real components.
//
// A test that needs something which a developer's machine may lack is skipped
// there with a word on what to install. In CI (the variable CI is set) the gate
// is locked: the test fails, so that nothing is ever skipped by accident.
package testkit

import (
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
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	missing(t, "the program "+name+" is not installed")
	return ""
}

// NeedUserNamespaces skips or fails the test where the kernel does not let this
// process create user and mount namespaces.
func NeedUserNamespaces(t testing.TB) {
	t.Helper()
	if err := userNamespaces(); err != nil {
		missing(t, "user namespaces cannot be created here: "+err.Error())
	}
}

// HaveUserNamespaces reports whether the kernel lets this process create user and
// mount namespaces. In CI it is an error if not.
func HaveUserNamespaces() (bool, error) {
	err := userNamespaces()
	if err != nil && os.Getenv("CI") != "" {
		return false, fmt.Errorf("user namespaces cannot be created here: %w; in CI every test must run", err)
	}
	return err == nil, nil
}

var userNamespaces = sync.OnceValue(func() error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd.Run()
})

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s; in CI every test must run", what)
	}
	t.Skipf("%s", what)
}
