package machinetest

import (
	"fmt"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/quantity"
	"lighter/machines"
)

// BeyondLimit says which of its limits a machine is beyond: the worst one, or empty if none. With
// slack the machine must be that much better than its limits, as a part of them. What an agent
// does not know does not count.
func BeyondLimit(m *machines.Machine, info *agentapi.Machine, slack float64) string {
	for _, rule := range []struct {
		free     string // says how much there is
		has      int64
		min      int64
		quantity func(int64) string
	}{
		{"only %s are free on the disk of its store", info.FreeDisk, m.MinFreeDisk, quantity.Bytes},
		{"only %s inodes are free on the disk of its store", info.FreeInodes, m.MinFreeInodes, countOf},
		{"only %s are free on the disk of its builds", info.BuildFreeDisk, m.MinFreeDisk, quantity.Bytes},
		{"only %s inodes are free on the disk of its builds", info.BuildFreeInodes, m.MinFreeInodes, countOf},
		{"only %s of memory are free", info.FreeMemory, m.MinFreeMemory, quantity.Bytes},
	} {
		limit := float64(rule.min) * (1 + slack)
		if rule.has >= 0 && rule.min > 0 && float64(rule.has) < limit {
			return fmt.Sprintf(rule.free+"; below %s it gets no builds", rule.quantity(rule.has), rule.quantity(int64(limit)))
		}
	}
	for _, rule := range []struct {
		what     string
		has, max float64
	}{
		{"memory", info.MemoryPressure, m.MaxMemoryPressure},
		{"CPU", info.CPUPressure, m.MaxCPUPressure},
	} {
		limit := rule.max * (1 - slack)
		if rule.has >= 0 && rule.max > 0 && rule.has >= limit {
			return fmt.Sprintf("%s pressure %.1f%%: from %.4g%% on it gets no builds", rule.what, rule.has, limit)
		}
	}
	return ""
}

// WithUnknown marks the figures that an older agent does not report as unknown. Such an agent
// does not describe the hardware either.
func WithUnknown(info *agentapi.Machine) *agentapi.Machine {
	if info.Hardware != (api.Hardware{}) {
		return info
	}
	marked := *info
	marked.FreeInodes, marked.BuildFreeDisk, marked.BuildFreeInodes = -1, -1, -1
	marked.CPUPressure, marked.MemoryPressure = -1, -1
	return &marked
}

func countOf(n int64) string { return fmt.Sprint(n) }
