package limits

import (
	"iter"
	"slices"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/machines"
)

// Options combines what several requests for one derivation, and a machine's entry, say of how it is built: the longest
// time that any request grants counts, as far as the entry bounds it.
func Options(requests iter.Seq[*api.Request], m *machines.Machine) agentapi.BuildRequest {
	var o agentapi.BuildRequest
	first := true
	for r := range requests {
		if first {
			o.Timeout, o.MaxSilentTime, first = r.Timeout, r.MaxSilentTime, false
		}
		o.Timeout = longer(o.Timeout, r.Timeout)
		o.MaxSilentTime = longer(o.MaxSilentTime, r.MaxSilentTime)
		o.KeepFailed = o.KeepFailed || r.KeepFailed
	}
	o.Timeout, o.MaxSilentTime = shorter(o.Timeout, m.Timeout), shorter(o.MaxSilentTime, m.MaxSilentTime)
	o.SandboxPaths, o.SubstituteURLs = slices.Clone(m.SandboxPaths), slices.Clone(m.SubstituteURLs)
	return o
}

// Retries returns the most that any of them grants; those that say nothing grant otherwise.
func Retries(requests iter.Seq[*api.Request], otherwise int) (granted int) {
	for r := range requests {
		n := r.Retries
		if n == 0 {
			n = otherwise
		}
		granted = max(granted, n)
	}
	return granted
}

// AllowAll reports whether all machines may build it, as far as one can see without knowing them.
func AllowAll(requests iter.Seq[*api.Request]) bool {
	none := true
	for r := range requests {
		if len(r.On) == 0 && len(r.Skip) == 0 {
			return true
		}
		none = false
	}
	return none
}

// Allow reports whether any of them lets a machine build it; without any, all may.
func Allow(requests iter.Seq[*api.Request], machine string) bool {
	none := true
	for r := range requests {
		if (len(r.On) == 0 || slices.Contains(r.On, machine)) && !slices.Contains(r.Skip, machine) {
			return true
		}
		none = false
	}
	return none
}

// Outputs returns the names of the outputs that any of them asks for, nil for all.
func Outputs(requests iter.Seq[*api.Request]) []string {
	var names []string
	for r := range requests {
		if len(r.Outputs) == 0 {
			return nil
		}
		for _, name := range r.Outputs {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// Covers reports whether some outputs are all that are wanted; in both, none stands for all.
func Covers(some, wanted []string) bool {
	if len(some) == 0 {
		return true
	}
	return len(wanted) > 0 && !slices.ContainsFunc(wanted, func(name string) bool { return !slices.Contains(some, name) })
}
