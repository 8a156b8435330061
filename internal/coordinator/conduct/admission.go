package conduct

import "time"

// admissionSlack is how much better than its limits a machine that was refused builds must be
// to get them again, as a part of the limits: without it, it would flap.
const admissionSlack = 0.1

// AdmissionRest is how long it must have stayed within its limits for that.
const AdmissionRest = 20 * time.Second

// Admission is whether a machine gets builds, by its limits.
type Admission struct {
	// Refuses says which limit the machine is beyond; empty if none.
	Refuses string
	Since   time.Time // when the machine was last beyond one
}

// Judge decides whether a machine in its present state gets builds, and reports whether that is
// new. beyond says which limit it is beyond, if they were stricter by a part of themselves; empty
// if none.
func (a *Admission) Judge(now time.Time, beyond func(slack float64) string) (changed bool) {
	refused := a.Refuses != ""
	switch text := beyond(0); {
	case text != "":
		a.Since, a.Refuses = now, text
	case !refused, now.Sub(a.Since) < AdmissionRest:
	default:
		a.Refuses = beyond(admissionSlack)
	}
	return refused != (a.Refuses != "")
}
