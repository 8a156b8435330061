package coordinator

import (
	"cmp"

	"lighter/internal/agentapi"
	"lighter/internal/coordinator/limits"
	"lighter/internal/coordinator/reserve"
	"lighter/machines"
)

// optionsFor returns the request to a machine's agent as far as it says how a task is built: as
// the task's builds and the machine's entry want it. The attempt fills in the rest.
func (m *machine) optionsFor(t *task) agentapi.BuildRequest {
	o := limits.Options(t.requests(), &m.Machine)
	o.Check = t.check != nil
	if o.Cores = m.BuildCores; o.Cores == machines.BuildCoresAuto {
		o.Cores = m.autoCores()
	}
	if o.Check && m.peer.StoreKind() == machines.StoreDaemon {
		o.KeepFailed = true // else it does not say what it made, only that it differs
	}
	return o
}

// autoCores is how many cores a build gets that is placed on the machine now, with those that are
// placed in the same round: what is left for each if all run that may run beside it.
func (m *machine) autoCores() int {
	if m.info == nil {
		return 0
	}
	beside := m.host.running() + m.host.coming
	if m.host.awaited {
		beside = max(beside, m.ParallelBuilds)
	}
	return reserve.Cores(m.info.Cores, beside)
}

// streams is how many streams of items there may be in each direction.
func (m *machine) streams() int { return cmp.Or(m.ParallelTransfers, m.c.limits.Streams) }
