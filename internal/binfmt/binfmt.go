// Package binfmt tells for which systems the kernel runs programs through an emulator, such as
// QEMU's user mode: those that are registered with binfmt_misc so that they also work in a
// sandbox, where the emulator's own file is not visible (the flag F, "fix binary").
package binfmt

import (
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// folder is where binfmt_misc is mounted.
const folder = "/proc/sys/fs/binfmt_misc"

// Systems returns Guix's names of the emulated systems, sorted. What is registered later is found
// by the next process.
var Systems = sync.OnceValue(func() []string { return systemsIn(folder) })

// maxEntries bounds how many registrations are read.
const maxEntries = 256

func systemsIn(folder string) []string {
	if status, err := os.ReadFile(filepath.Join(folder, "status")); err != nil || strings.TrimSpace(string(status)) != "enabled" {
		return nil
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	var systems []string
	for _, f := range files[:min(len(files), maxEntries)] {
		text, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			continue // register can only be written to
		}
		if s := system(string(text)); s != "" {
			systems = append(systems, s)
		}
	}
	slices.Sort(systems)
	return slices.Compact(systems)
}

// kind is what an ELF file's header says of the machine that it is for: class, byte order and
// number, as in elf.h.
type kind struct {
	class, order byte
	machine      uint16
}

const (
	bits32, bits64 = 1, 2
	little, big    = 1, 2
)

var systemOf = map[kind]string{
	{bits64, little, 62}:  "x86_64-linux",
	{bits32, little, 3}:   "i686-linux",
	{bits64, little, 183}: "aarch64-linux",
	{bits32, little, 40}:  "armhf-linux",
	{bits64, little, 243}: "riscv64-linux",
	{bits64, little, 21}:  "powerpc64le-linux",
	{bits32, big, 20}:     "powerpc-linux",
	{bits64, little, 8}:   "mips64el-linux",
	{bits64, little, 258}: "loongarch64-linux",
}

// system returns the system whose programs a registration is for, or nothing. The kernel's
// Documentation/admin-guide/binfmt-misc.rst has the format.
func system(registration string) string {
	enabled, fixed := false, false
	var magic []byte
	for line := range strings.Lines(registration) {
		switch word, value, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "enabled":
			enabled = true
		case "flags:":
			fixed = strings.Contains(value, "F")
		case "offset":
			if value != "0" {
				return ""
			}
		case "magic":
			magic, _ = hex.DecodeString(value) // what is not hexadecimal is too short
		}
	}
	if !enabled || !fixed || len(magic) < 20 || string(magic[:4]) != "\x7fELF" {
		return ""
	}
	k := kind{class: magic[4], order: magic[5]}
	if k.order == big {
		k.machine = binary.BigEndian.Uint16(magic[18:])
	} else {
		k.machine = binary.LittleEndian.Uint16(magic[18:])
	}
	return systemOf[k]
}
