package machinetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/machines"
)

// Systems returns those that a machine is for by its entry in the machines file, without those that
// it has said not to build for. info is nil as long as it has said nothing.
func Systems(m *machines.Machine, info *agentapi.Machine) []string {
	if info == nil || len(info.Systems) == 0 {
		return m.Systems
	}
	builds := info.Builds()
	if foreign := func(system string) bool { return !slices.Contains(builds, system) }; slices.ContainsFunc(m.Systems, foreign) {
		return slices.DeleteFunc(slices.Clone(m.Systems), foreign)
	}
	return m.Systems
}

// ForeignSystems says which systems of its entry a machine does not build for; empty if there are
// none.
func ForeignSystems(m *machines.Machine, info *agentapi.Machine) string {
	mine := Systems(m, info)
	foreign := slices.DeleteFunc(slices.Clone(m.Systems), func(system string) bool { return slices.Contains(mine, system) })
	if len(foreign) == 0 {
		return ""
	}
	return Unlike(info, strings.Join(foreign, ", "))
}

// Unlike says that a machine does not build for a system that its entry names.
func Unlike(info *agentapi.Machine, system string) string {
	return fmt.Sprintf("the machines file says that it builds for %s, but it builds for %s", system, strings.Join(info.Builds(), ", "))
}

// Describe fills in what an agent last said of its machine; skew is by how much its clock is ahead.
func Describe(s *api.MachineStatus, info *agentapi.Machine, skew time.Duration) {
	info = WithUnknown(info)
	s.Agent, s.Kernel, s.StoreKind, s.Cores = info.Version, info.Kernel, info.StoreKind, info.Cores
	s.Load = info.Load / float64(max(1, info.Cores))
	s.FreeDisk, s.FreeMemory, s.PublicKey = info.FreeDisk, info.FreeMemory, info.PublicKey
	// What is not known is left out.
	s.FreeInodes, s.BuildFreeDisk = max(0, info.FreeInodes), max(0, info.BuildFreeDisk)
	s.CPUPressure, s.MemoryPressure = max(0, info.CPUPressure), max(0, info.MemoryPressure)
	s.ClockSkew = api.Seconds(skew.Seconds())
	if info.Hardware != (api.Hardware{}) {
		hardware := info.Hardware
		s.Hardware = &hardware
	}
}
