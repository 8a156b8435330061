package sshtransport

import (
	"fmt"
	"strings"
)

// platform is an operating system and a processor in Go's words.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// unameMachines are names that uname(1) has for processors. Of arm there are many.
var unameMachines = map[string]string{
	"x86_64": "amd64", "amd64": "amd64",
	"aarch64": "arm64", "arm64": "arm64",
	"i386": "386", "i486": "386", "i586": "386", "i686": "386", "x86": "386",
	"riscv64": "riscv64", "ppc64le": "ppc64le", "ppc64": "ppc64",
	"s390x": "s390x", "loongarch64": "loong64",
	"mips64": "mips64", "mips": "mips",
}

// parseUname reads what "uname -s -m" printed.
func parseUname(out string) (platform, error) {
	system, machine, ok := strings.Cut(strings.TrimSpace(out), " ")
	if !ok || strings.Contains(machine, " ") {
		return platform{}, fmt.Errorf("uname: its answer %q is not understood", truncate(printable(out), 100))
	}
	arch := unameMachines[machine]
	if arch == "" && strings.HasPrefix(machine, "arm") {
		arch = "arm"
	}
	if arch == "" {
		return platform{}, fmt.Errorf("uname: the processor %q is not known", truncate(printable(machine), 100))
	}
	return platform{strings.ToLower(system), arch}, nil
}
