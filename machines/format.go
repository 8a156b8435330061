package machines

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"lighter/internal/quantity"
	"lighter/internal/tomlfile"
)

// FormatTOML prints machines as a file from which ParseTOML reads the same: one key
// a line in a fixed order, without the keys that have their default.
func FormatTOML(all []Machine) []byte {
	var b bytes.Buffer
	common := commonSSHConfig(all)
	if common != "" {
		fmt.Fprintf(&b, "ssh-config = %s\n\n", tomlfile.Quote(common))
	}
	for i := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		all[i].format(&b, common)
	}
	return b.Bytes()
}

// commonSSHConfig is what all machines that are reached over SSH have as SSHConfig.
func commonSSHConfig(all []Machine) string {
	common, first := "", true
	for i := range all {
		switch m := &all[i]; {
		case m.Local:
		case first:
			common, first = m.SSHConfig, false
		case m.SSHConfig != common:
			return ""
		}
	}
	return common
}

func (m *Machine) format(b *bytes.Buffer, commonSSHConfig string) {
	line := func(write bool, key, value string) {
		if write {
			fmt.Fprintf(b, "%s = %s\n", key, value)
		}
	}
	def := defaults()
	b.WriteString("[[machine]]\n")
	line(true, "name", tomlfile.Quote(m.Name))
	line(!m.Local && m.Host != m.Name, "host", tomlfile.Quote(m.Host))
	line(!m.Local && (m.Port != def.Port || m.PortGiven), "port", strconv.Itoa(m.Port))
	line(m.Local, "local", "true")
	line(true, "systems", tomlfile.QuoteList(m.Systems))
	line(m.User != "", "user", tomlfile.Quote(m.User))
	line(m.PrivateKey != "", "private-key", tomlfile.Quote(m.PrivateKey))
	line(m.HostKey != "", "host-key", tomlfile.Quote(m.HostKey))
	line(m.Transport != "" && m.Transport != def.Transport, "transport", tomlfile.Quote(m.Transport))
	line(m.SSHConfig != commonSSHConfig, "ssh-config", tomlfile.Quote(m.SSHConfig))
	line(m.ProxyJump != "", "proxy-jump", tomlfile.Quote(m.ProxyJump))
	line(m.ProxyCommand != "", "proxy-command", tomlfile.Quote(m.ProxyCommand))
	line(m.ParallelBuilds != def.ParallelBuilds, "parallel-builds", strconv.Itoa(m.ParallelBuilds))
	line(m.Speed != def.Speed, "speed", tomlfile.FormatFloat(m.Speed))
	line(len(m.Features) > 0, "features", tomlfile.QuoteList(m.Features))
	line(len(m.MandatoryFeatures) > 0, "mandatory-features", tomlfile.QuoteList(m.MandatoryFeatures))
	if m.OverloadThreshold == 0 {
		line(true, "overload-threshold", "false")
	} else {
		line(m.OverloadThreshold != def.OverloadThreshold, "overload-threshold", tomlfile.FormatFloat(m.OverloadThreshold))
	}
	line(m.MinFreeDisk != def.MinFreeDisk, "min-free-disk", tomlfile.Quote(quantity.ExactBytes(m.MinFreeDisk)))
	m.formatAdmission(line, &def)
	line(m.Store != def.Store, "store", tomlfile.Quote(m.Store))
	line(m.DaemonSocket != def.DaemonSocket, "daemon-socket", tomlfile.Quote(m.DaemonSocket))
	line(len(m.SandboxPaths) > 0, "sandbox-paths", tomlfile.QuoteList(m.SandboxPaths))
	line(m.AgentDirectory != "", "agent-directory", tomlfile.Quote(m.AgentDirectory))
	line(m.StateDirectory != "", "state-directory", tomlfile.Quote(m.StateDirectory))
}

// formatAdmission prints what was added to Guix's idea of a machine: when it takes builds,
// their limits, and what keeps its store small.
func (m *Machine) formatAdmission(line func(write bool, key, value string), def *Machine) {
	size := func(key string, n, def int64) { line(n != def, key, tomlfile.Quote(quantity.ExactBytes(n))) }
	duration := func(key string, length time.Duration) {
		line(length != 0, key, tomlfile.Quote(quantity.ExactDuration(length)))
	}
	line(m.MinFreeInodes != def.MinFreeInodes, "min-free-inodes", strconv.FormatInt(m.MinFreeInodes, 10))
	size("min-free-memory", m.MinFreeMemory, 0)
	line(m.MaxCPUPressure != 0, "max-cpu-pressure", tomlfile.FormatFloat(m.MaxCPUPressure))
	line(m.MaxMemoryPressure != 0, "max-memory-pressure", tomlfile.FormatFloat(m.MaxMemoryPressure))
	if m.Memory == MemoryUnlimited {
		line(true, "memory", "false")
	} else {
		size("memory", m.Memory, 0)
	}
	size("memory-limit", m.MemoryLimit, 0)
	line(len(m.Tokens) > 0, "tokens", tomlfile.FormatTable(m.Tokens, strconv.Itoa))
	line(m.ParallelTransfers != 0, "parallel-transfers", strconv.Itoa(m.ParallelTransfers))
	line(len(m.SubstituteURLs) > 0, "substitute-urls", tomlfile.QuoteList(m.SubstituteURLs))
	if m.BuildCores == BuildCoresAuto {
		line(true, "build-cores", `"auto"`)
	} else {
		line(m.BuildCores != 0, "build-cores", strconv.Itoa(m.BuildCores))
	}
	duration("timeout", m.Timeout)
	duration("max-silent-time", m.MaxSilentTime)
	line(len(m.Tags) > 0, "tags", tomlfile.FormatTable(m.Tags, tomlfile.Quote))
	duration("gc-interval", m.GCInterval)
	duration("gc-older-than", m.GCOlderThan)
	size("gc-max-freed", m.GCMaxFreed, 0)
}
