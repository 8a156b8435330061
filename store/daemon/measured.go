package daemon

import (
	"strconv"
	"strings"
	"time"

	"lighter/internal/measure"
)

// guix-daemon forks for each connection, and what it forks starts builders, whose process ids it tells. Those
// stay in the daemon's own control group: whoever moved them out would take them from the limits that the
// machine's owner has set for the daemon.

// meter measures one builder of the daemon's.
type meter struct {
	use    *measure.Build
	parent int           // serves the connection
	before time.Duration // what it had waited for when the builder started
}

// notMeasured is what is never known of the daemon's builders.
const notMeasured = "no control group: guix-daemon's builders are in that of guix-daemon; disk: guix-daemon removes the folder of a build by itself"

// builderStarted begins to measure a builder of which the daemon tells "SYSTEM LOGFILE PID". Where that process
// is not a child of a guix-daemon here, the daemon is on another machine or in a container.
func (b *build) builderStarted(told string) {
	words := strings.Fields(told)
	pid := 0
	if len(words) > 0 {
		pid, _ = strconv.Atoi(words[len(words)-1]) // 0 is nobody's
	}
	m := b.store.meter
	parent, program, ok := m.Parent(pid)
	if !ok || !strings.Contains(program, "guix-daemon") {
		parent, pid = 0, 0
	}
	b.meter = meter{use: m.Of(pid, b.req.MemoryLimit), parent: parent}
	b.meter.before, _ = m.Waited(parent) // a process that is not seen has waited for nothing
}

// builderEnded says what a builder has used that the daemon has waited for.
func (b *build) builderEnded() {
	if b.meter.use == nil {
		return // nothing was built
	}
	if waited, ok := b.store.meter.Waited(b.meter.parent); ok {
		b.meter.use.CPU(waited - b.meter.before)
	}
	used := b.meter.use.End()
	b.meter = meter{}
	used.Unmeasured = strings.TrimPrefix(used.Unmeasured+"; "+notMeasured, "; ")
	if b.req.Measured != nil {
		*b.req.Measured = used
	}
}

// OwnLoad returns the part of the machine's load average of a minute that the builds of this store make,
// as far as guix-daemon runs where this process sees it.
func (s *Store) OwnLoad() float64 { return s.meter.OwnLoad() }
