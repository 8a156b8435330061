package machines

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FormatTOML prints machines as a file from which ParseTOML reads the same: one key
// a line in a fixed order, without the keys that have their default.
func FormatTOML(all []Machine) []byte {
	var b bytes.Buffer
	for i := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		all[i].format(&b)
	}
	return b.Bytes()
}

func (m *Machine) format(b *bytes.Buffer) {
	line := func(write bool, key, value string) {
		if write {
			fmt.Fprintf(b, "%s = %s\n", key, value)
		}
	}
	def := defaults()
	b.WriteString("[[machine]]\n")
	line(true, "name", quote(m.Name))
	line(!m.Local && m.Host != m.Name, "host", quote(m.Host))
	line(!m.Local && m.Port != def.Port, "port", strconv.Itoa(m.Port))
	line(m.Local, "local", "true")
	line(true, "systems", quoteList(m.Systems))
	line(m.User != "", "user", quote(m.User))
	line(m.PrivateKey != "", "private-key", quote(m.PrivateKey))
	line(m.HostKey != "", "host-key", quote(m.HostKey))
	line(m.ParallelBuilds != def.ParallelBuilds, "parallel-builds", strconv.Itoa(m.ParallelBuilds))
	line(m.Speed != def.Speed, "speed", formatFloat(m.Speed))
	line(len(m.Features) > 0, "features", quoteList(m.Features))
	line(len(m.MandatoryFeatures) > 0, "mandatory-features", quoteList(m.MandatoryFeatures))
	if m.OverloadThreshold == 0 {
		line(true, "overload-threshold", "false")
	} else {
		line(m.OverloadThreshold != def.OverloadThreshold, "overload-threshold", formatFloat(m.OverloadThreshold))
	}
	line(m.MinFreeDisk != def.MinFreeDisk, "min-free-disk", quote(formatSize(m.MinFreeDisk)))
	line(m.Store != def.Store, "store", quote(m.Store))
	line(m.DaemonSocket != def.DaemonSocket, "daemon-socket", quote(m.DaemonSocket))
	line(len(m.SandboxPaths) > 0, "sandbox-paths", quoteList(m.SandboxPaths))
	line(m.StateDirectory != "", "state-directory", quote(m.StateDirectory))
}

// quote writes a basic string of TOML.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func quoteList(texts []string) string {
	quoted := slices.Clone(texts)
	for i, text := range quoted {
		quoted[i] = quote(text)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// formatFloat writes a TOML float, which needs a fraction or an exponent.
func formatFloat(f float64) string {
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}
