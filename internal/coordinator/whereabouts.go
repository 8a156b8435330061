package coordinator

import "lighter/internal/agentapi"

// whereabouts says on which machines there is something of a task.
type whereabouts struct {
	machine  *machine // of the current or last attempt
	underWay *attempt // nil if none is under way
	elder    *attempt // the one before it, if that goes on elsewhere (see again.go)
	takeUpOn *machine // where the attempt is under way that is to be taken up
	kept     *machine // the machine that keeps the outputs while they are needed; nil if they are at home
}

// uses reports whether what the host's agent has of the task is still wanted, or about to be
// replaced there.
func (w *whereabouts) uses(h *host) bool { return w.worksOn(h) || w.keptOn(h) }

// worksOn reports whether an attempt at the task is under way on a host.
func (w *whereabouts) worksOn(h *host) bool {
	return w.underWay != nil && w.underWay.machine.host == h || w.elder != nil && w.elder.machine.host == h || w.takeUpOn != nil && w.takeUpOn.host == h
}

// keptOn reports whether a host keeps the task's outputs.
func (w *whereabouts) keptOn(h *host) bool { return w.kept != nil && w.kept.host == h }

// somewhere reports whether some agent has something of the task that is wanted.
func (w *whereabouts) somewhere() bool {
	return w.underWay != nil || w.takeUpOn != nil || w.kept != nil
}

// has reports whether an attempt with a number goes on on a host.
func (w *whereabouts) has(h *host, s *agentapi.BuildStatus) bool {
	is := func(a *attempt) bool { return a != nil && !a.FetchOnly && a.host == h && a.Number == s.Attempt }
	return is(w.underWay) || is(w.elder)
}

// early reports whether the outputs are coming home though nobody asked for them.
func (w *whereabouts) early() bool { return w.underWay != nil && w.underWay.Later }

// replace has another machine of the same host stand for one, and reports whether anything goes on there.
func (w *whereabouts) replace(from, to *machine) (uses bool) {
	for _, at := range []**machine{&w.kept, &w.takeUpOn} {
		if *at == from {
			*at, uses = to, true
		}
	}
	if a := w.underWay; a != nil && a.machine == from {
		a.machine, uses = to, true
	}
	if w.machine == from {
		w.machine = to
	}
	return uses
}
