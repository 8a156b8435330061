package coordinator

import (
	"time"

	"lighter/internal/machinetest"
)

// admissionSlack is how much better than its limits a machine that was refused builds must be
// to get them again, as a part of the limits: without it, it would flap.
const admissionSlack = 0.1

// admissionRest is how long it must have stayed within its limits for that.
const admissionRest = 20 * time.Second

// admit decides whether a machine in its present state gets builds.
func (m *machine) admit(l *loop, now time.Time) {
	info := machinetest.WithUnknown(m.info)
	text := machinetest.BeyondLimit(&m.Machine, info, 0)
	switch {
	case text != "":
		m.refusedAt = now
		if m.refuses == "" {
			if m.tell(l, "gets no builds for now: "+text) {
				m.log.Warn("the machine gets no builds for now", "why", text)
			}
		}
		m.refuses = text
	case m.refuses == "":
	case now.Sub(m.refusedAt) < admissionRest:
	default:
		if text := machinetest.BeyondLimit(&m.Machine, info, admissionSlack); text != "" {
			m.refuses = text
			return
		}
		m.refuses = ""
		if m.tell(l, "gets builds again") {
			m.log.Info("the machine gets builds again")
		}
	}
}
