//go:build guixlab

package guixlab

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/internal/api"
)

// TestStoppedCoordinator has guix-daemon's own limits end a build whose coordinator was
// stopped: max-silent-time while it waits, although it may wait for longer than that in the
// queue of one that lives, and timeout in each state.
func TestStoppedCoordinator(t *testing.T) {
	const silent = 6 * time.Second
	for name, c := range map[string]struct {
		limit, script string
		queued        bool
		want          string
	}{
		"queued, max-silent-time":   {"--max-silent-time=6", "echo > $out", true, "of silence"},
		"building, max-silent-time": {"--max-silent-time=6", "while true; do echo tick; sleep 0.5; done", false, "of silence"},
		"queued, timeout":           {"--timeout=20", "echo > $out", true, "timed out after"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFarm(t, strings.Replace(entry("builder1"), "parallel-builds = 4", "parallel-builds = 1", 1))
			if c.queued {
				plug := f.add(Recipe{Name: unique("plug"), Script: "while true; do echo; sleep 0.5; done"})
				first := f.guix("build", string(plug))
				f.awaitState(plug, api.Building)
				t.Cleanup(func() { interrupt(first) })
			}
			drv := f.add(Recipe{Name: unique("waits"), Script: c.script})
			r := f.guix("build", c.limit, string(drv))
			f.awaitState(drv, map[bool]api.State{true: api.Queued, false: api.Building}[c.queued])
			select {
			case <-time.After(2 * silent):
			case err := <-r.done:
				r.done <- err
				t.Fatalf("it ended while the coordinator lived: %v:\n%s", err, r.text.String())
			}
			f.signal(syscall.SIGSTOP)
			t.Cleanup(func() { f.signal(syscall.SIGCONT) })
			if code := r.code(); code == 0 {
				t.Error("guix succeeded")
			}
			contains(t, r.text.String(), c.want)
			f.absent(f.Output(drv, "out"))
		})
	}
}

// signal sends the coordinator a signal.
func (f *farm) signal(s syscall.Signal) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.cmd.Process.Signal(s); err != nil {
		f.t.Error(err)
	}
}
