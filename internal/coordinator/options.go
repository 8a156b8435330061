package coordinator

import (
	"cmp"
	"slices"

	"lighter/internal/agentapi"
	"lighter/internal/coordinator/limits"
	"lighter/machines"
)

// optionsFor returns the request to a machine's agent as far as it says how a task is built: as
// the task's builds and the machine's entry want it. The attempt fills in the rest.
func (m *machine) optionsFor(t *task) agentapi.BuildRequest {
	o := buildOptions(t)
	o.Timeout = limits.Shorter(o.Timeout, m.Timeout)
	o.MaxSilentTime = limits.Shorter(o.MaxSilentTime, m.MaxSilentTime)
	o.Cores = m.BuildCores
	o.SandboxPaths = slices.Clone(m.SandboxPaths)
	o.SubstituteURLs = slices.Clone(m.SubstituteURLs)
	if o.Check && m.peer.StoreKind() == machines.StoreDaemon {
		o.KeepFailed = true // else it does not say what it made, only that it differs
	}
	return o
}

// buildOptions combines the options of a task's builds: the longest time that any of them
// grants counts.
func buildOptions(t *task) agentapi.BuildRequest {
	var o agentapi.BuildRequest
	builds := t.builds
	if t.check != nil {
		o.Check, builds = true, []*liveBuild{t.check.build}
	}
	for i, lb := range builds {
		if i == 0 {
			o.Timeout, o.MaxSilentTime = lb.Timeout, lb.MaxSilentTime
		}
		o.Timeout = limits.Longer(o.Timeout, lb.Timeout)
		o.MaxSilentTime = limits.Longer(o.MaxSilentTime, lb.MaxSilentTime)
		o.KeepFailed = o.KeepFailed || lb.KeepFailed
	}
	return o
}

// streams is how many streams of items there may be in each direction.
func (m *machine) streams() int { return cmp.Or(m.ParallelTransfers, m.c.limits.Streams) }
