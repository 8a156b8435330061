package local

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// oneID is set for the parts of tests that run as the only user of their namespace.
const oneID = "LIGHTER_TEST_ONE_ID"

// Root of a user namespace without other users builds as ordinary users do (unshare -U -r).
func TestRootOfOneID(t *testing.T) {
	if os.Getenv(oneID) != "" {
		s := openTestStore(t)
		if err := s.BuildProblem(); err != nil {
			t.Fatal(err)
		}
		r := &recipe{name: "hello", script: "echo hi > $out"}
		r.mustBuild(t, s)
		return
	}
	runAsOnlyUser(t)
}

// runAsOnlyUser runs this test once more, as root of a user namespace without other users.
func runAsOnlyUser(t *testing.T) {
	t.Helper()
	needBuilds(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), oneID+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v:\n%s", err, out)
	}
}

// What forbids user namespaces is named, with the ways out.
func TestAdviceOfNamespaces(t *testing.T) {
	for _, test := range []struct{ file, text, want string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0\n", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0\n", "sysctl -w user.max_user_namespaces=15000"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/user/max_user_namespaces", "96365\n", "something denies them to this process"},
	} {
		got := adviceOf(func(name string) ([]byte, error) {
			if name != test.file {
				return nil, fs.ErrNotExist
			}
			return []byte(test.text), nil
		})
		forbidden := !strings.HasPrefix(test.want, "something")
		if !strings.Contains(got, test.want) || forbidden && !strings.Contains(got, `user = "root"`) || strings.Contains(got, "\n") {
			t.Errorf("%s: %s", test.file, got)
		}
	}
}

// A kernel that forbids user namespaces to an ordinary user is named as what is in the way.
func TestNamespacesForbidden(t *testing.T) {
	if os.Getenv(oneID) != "" {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		s := openTestStore(t)
		if err := s.BuildProblem(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "user.max_user_namespaces is 0") {
			t.Errorf("error = %v", err)
		}
		return
	}
	runAsOnlyUser(t)
}
