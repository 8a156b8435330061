package buildhook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// helpers are the first arguments with which guix-daemon starts "$GUIX" for something
// else than offloading.
var helpers = []string{"substitute", "authenticate", "perform-download", "gc", "git-download"}

// IsHelper reports whether a program with these arguments, without its name, was started
// by guix-daemon as its guix for something that the real guix is to do.
func IsHelper(args []string) bool { return len(args) > 0 && slices.Contains(helpers, args[0]) }

// Main is the program that guix-daemon is given as $GUIX: it serves "offload", and
// becomes the real guix for everything else. What of "offload" people run is lighter's, if
// that lies beside this program. It returns the exit code.
func Main(args []string) int {
	if len(args) == 6 && args[1] == "offload" {
		cfg, err := Environment(args[2:], os.Getenv)
		if err != nil {
			fmt.Fprintln(os.Stderr, "lighter:", err)
			return ExitTransient
		}
		return Run(cfg)
	}
	if len(args) > 1 && args[1] == "offload" {
		execLighter(args[1:])
	}
	err := ExecGuix(args[1:])
	fmt.Fprintln(os.Stderr, "lighter:", err)
	return 127
}

// execLighter makes this process the lighter in the same folder, for a person who works
// with guix-daemon. It returns if there is none, and then the real guix is right.
func execLighter(args []string) {
	self, err := os.Executable()
	if err != nil {
		return
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	env := os.Environ()
	if _, ok := os.LookupEnv("LIGHTER_STORE"); !ok {
		env = append(env, "LIGHTER_STORE=guix-daemon")
	}
	lighter := filepath.Join(filepath.Dir(self), "lighter")
	_ = syscall.Exec(lighter, append([]string{lighter}, args...), env)
}

// realGuix are the places where guix is looked for, in this order, if $LIGHTER_GUIX does
// not say where it is and it is not on the PATH: those of Guix System, of Guix's
// installer, and of distributions.
var realGuix = []string{
	"/run/current-system/profile/bin/guix",
	"/var/guix/profiles/per-user/root/current-guix/bin/guix",
	"/usr/local/bin/guix",
	"/usr/bin/guix",
}

// FindGuix returns the real guix program: never this one under that name.
func FindGuix(getenv func(string) string) (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if guix := getenv("LIGHTER_GUIX"); guix != "" {
		if info, err := os.Stat(guix); err == nil && os.SameFile(info, self) {
			return "", fmt.Errorf("LIGHTER_GUIX: %s is lighter itself, not guix", guix)
		}
		return guix, nil
	}
	var places []string
	for _, dir := range filepath.SplitList(getenv("PATH")) {
		if filepath.IsAbs(dir) {
			places = append(places, filepath.Join(dir, "guix"))
		}
	}
	places = append(places, realGuix...)
	for _, place := range places {
		info, err := os.Stat(place)
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !os.SameFile(info, self) {
			return place, nil
		}
	}
	return "", errors.New("no guix on the PATH nor in " + strings.Join(realGuix, ", ") + "; say where it is with LIGHTER_GUIX")
}

// ExecGuix makes this process the real guix. It returns only if that fails.
func ExecGuix(args []string) error {
	guix, err := FindGuix(os.Getenv)
	if err != nil {
		return err
	}
	if err := syscall.Exec(guix, append([]string{guix}, args...), os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", guix, err)
	}
	return nil
}
