// Package standstill logs which builds wait without a machine: once, and again when the reason is
// another.
package standstill

import (
	"log/slog"
	"maps"
	"strings"
	"time"

	"lighter/scheduler"
)

// Log remembers what was logged. The zero value is ready.
type Log struct {
	said map[string]string
	idle map[string]time.Time // when it was last logged that a build waits though a machine is free
}

// Tell logs what has changed, given all builds that can be placed nowhere now.
func (l *Log) Tell(log *slog.Logger, blocked []scheduler.Blocked) {
	now := make(map[string]string)
	for i := range blocked {
		b := &blocked[i]
		kind := strings.Join(append([]string{b.System}, b.Features...), " ")
		if !b.Absent || now[kind] != "" {
			continue
		}
		now[kind] = b.Reason
		if l.said[kind] != b.Reason {
			log.Warn("builds wait without a machine", "builds", b.Builds, "system", b.System, "features", strings.Join(b.Features, ","), "why", b.Reason)
		}
	}
	for kind := range maps.Keys(l.said) {
		if now[kind] == "" {
			log.Info("no builds wait without a machine any more", "for", kind)
		}
	}
	l.said = now
}
