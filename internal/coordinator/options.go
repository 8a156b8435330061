package coordinator

import (
	"cmp"
	"slices"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/machines"
)

// optionsFor returns the request to a machine's agent as far as it says how a task is built: as
// the task's builds and the machine's entry want it. The attempt fills in the rest.
func (m *machine) optionsFor(t *task) agentapi.BuildRequest {
	o := buildOptions(t)
	o.Timeout = shorter(o.Timeout, m.Timeout)
	o.MaxSilentTime = shorter(o.MaxSilentTime, m.MaxSilentTime)
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
		o.Timeout = longer(o.Timeout, lb.Timeout)
		o.MaxSilentTime = longer(o.MaxSilentTime, lb.MaxSilentTime)
		o.KeepFailed = o.KeepFailed || lb.KeepFailed
	}
	return o
}

// longer returns the longer of two limits, where 0 is no limit.
func longer(a, b api.Seconds) api.Seconds {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// shorter returns a request's limit as a machine bounds it, where 0 is no limit.
func shorter(a api.Seconds, bound time.Duration) api.Seconds {
	b := api.Seconds(bound.Seconds())
	if a == 0 || b == 0 {
		return a + b
	}
	return min(a, b)
}

// streams is how many streams of items there may be in each direction.
func (m *machine) streams() int { return cmp.Or(m.ParallelTransfers, m.c.limits.Streams) }
