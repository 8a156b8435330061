package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lighter/internal/backoff"
)

// scopeTime is how long systemd may take to move a process.
const scopeTime = 5 * time.Second

// lingering has a file for each user whose manager systemd runs without a login, too (loginctl enable-linger).
const lingering = "/var/lib/systemd/linger"

// LeaveLogin moves this process from the scope of a login session, where no control groups can be made, to
// one of its own, which systemd delegates to it. It does nothing for other processes and where systemd does not run.
// With an error all is as it was: a user who does not linger has no manager that would outlive the login.
func LeaveLogin(ctx context.Context) error {
	before, err := ownGroup("/proc")
	if _, noSystemd := os.Stat(systemdFolder); err != nil || noSystemd != nil || !strings.HasPrefix(filepath.Base(before), "session-") {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, scopeTime, fmt.Errorf("systemd has not moved it after %s", scopeTime))
	defer cancel()
	manager, env := "--system", os.Environ()
	if uid := os.Geteuid(); uid != 0 {
		manager, env = "--user", append(env, fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", uid))
		account, err := user.Current()
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(lingering, account.Username)); err != nil {
			return fmt.Errorf("%s does not linger (loginctl enable-linger)", account.Username)
		}
	}
	pid := strconv.Itoa(os.Getpid())
	cmd := exec.CommandContext(ctx, "busctl", manager, "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
		"org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", "lighter-agent-"+pid+".scope", "fail",
		"3", "PIDs", "au", "1", pid, "Delegate", "b", "true", "CollectMode", "s", "inactive-or-failed", "0")
	cmd.Env = env
	if said, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w: %.200q", cmd.Args[0], err, said), context.Cause(ctx))
	}
	for {
		if now, err := ownGroup("/proc"); err != nil || now != before {
			return err
		}
		if err := backoff.Wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
