package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"lighter/internal/quantity"
	"lighter/store"
	"lighter/store/local/sandbox"
)

// unable returns the error of what this machine can't build.
func unable(format string, args ...any) error {
	return &store.UnableError{Reason: fmt.Sprintf(format, args...)}
}

// notStarted returns the error of a builder that the kernel does not execute. What is in the
// store, or can't be executed anywhere, is the derivation's own fault. A program of the machine's
// that is missing may be there on another one.
func (b *build) notStarted(c *sandbox.Config, errno unix.Errno) error {
	builder := shorten(b.drv.Builder)
	_, _, notAnItem := b.store.layout.dir.ParsePathWithin(b.drv.Builder)
	switch {
	case errno == unix.E2BIG:
		return b.plainFailure("start the builder %s: %v", builder, tooLong(c.Args, c.Env))
	case errno == unix.ENOEXEC && !slices.Contains(machineSystems(), b.drv.System):
		return unable("start the builder: %v; this machine is said to build for %s, but doesn't run such programs", errno, b.drv.System)
	}
	if errno == unix.ENOENT {
		if interpreter := b.interpreterOf(c, b.drv.Builder); interpreter != "" {
			text := fmt.Sprintf("start the builder %s: it needs %s, which is not in the sandbox", builder, shorten(interpreter))
			if b.inStore(interpreter) {
				return b.plainFailure("%s: it is not among the derivation's inputs", text)
			}
			return unable("%s: the machine's sandbox paths must include that too, or the builder must need no such program", text)
		}
	}
	if notAnItem != nil && errno == unix.ENOENT {
		return unable("start the builder %s: %v; it is not in the store, so the machine's sandbox paths must include it", builder, errno)
	}
	return b.plainFailure("start the builder %s: %v", builder, errno)
}

func (b *build) inStore(name string) bool {
	return strings.HasPrefix(path.Clean(name), string(b.store.layout.dir)+"/")
}

// maxArgument is how long one argument or variable may be on Linux, with its NUL: MAX_ARG_STRLEN,
// 32 pages of 4 KiB.
const maxArgument = 128 << 10

// tooLong says which argument or variable is too long, or that all of them together are.
func tooLong(args, env []string) error {
	sum := 0
	for _, v := range args {
		sum += len(v) + 1
		if len(v) >= maxArgument {
			return fmt.Errorf("%w: an argument has %s, and Linux takes no more than %s", unix.E2BIG, quantity.Bytes(int64(len(v))), quantity.Bytes(maxArgument))
		}
	}
	for _, v := range env {
		sum += len(v) + 1
		if len(v) >= maxArgument {
			name, _, _ := strings.Cut(v, "=")
			return fmt.Errorf("%w: the variable %s has %s, and Linux takes no more than %s", unix.E2BIG, shorten(name), quantity.Bytes(int64(len(v))), quantity.Bytes(maxArgument))
		}
	}
	return fmt.Errorf("%w: the arguments and variables have %s together", unix.E2BIG, quantity.Bytes(int64(sum)))
}

// interpreterOf returns the program that the kernel must find to run a file of the sandbox, and
// does not: a script's first line, or the program header of an ELF file, names it. It is empty if
// the file is not there, or that is not the reason.
func (b *build) interpreterOf(c *sandbox.Config, inside string) string {
	outside := b.outsideOf(c, inside)
	if outside == "" {
		return ""
	}
	// A pipe must not be waited for, and a device not be opened.
	f, err := os.OpenFile(outside, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	name := interpreter(f)
	if !path.IsAbs(name) || b.outsideOf(c, name) != "" {
		return ""
	}
	return name
}

// maxLinks bounds how many symlinks outsideOf follows, as the kernel does.
const maxLinks = 40

// outsideOf returns where a file of the sandbox is outside, with symlinks at the end of names
// followed as inside; empty if it is not there. It is for messages: what it finds may be gone.
func (b *build) outsideOf(c *sandbox.Config, inside string) string {
	for range maxLinks {
		outside := ""
		for _, bind := range slices.Backward(c.Paths) { // what is deeper comes later
			if rest, ok := strings.CutPrefix(inside+"/", bind.Inside+"/"); ok {
				outside = path.Join(bind.Outside, rest)
				break
			}
		}
		if rest, ok := strings.CutPrefix(inside, c.StoreDir+"/"); ok {
			item, within, _ := strings.Cut(rest, "/")
			if i := slices.IndexFunc(c.Items, func(bind sandbox.Bind) bool { return bind.Inside == item }); i >= 0 {
				outside = path.Join(c.Items[i].Outside, within)
			}
		}
		info, err := os.Lstat(outside)
		if err != nil {
			return ""
		}
		if info.Mode().Type() != os.ModeSymlink {
			return outside
		}
		target, err := os.Readlink(outside)
		if err != nil {
			return ""
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(inside), target)
		}
		inside = path.Clean(target)
	}
	return ""
}

// maxInterpreter bounds the name of an interpreter, in bytes: PATH_MAX.
const maxInterpreter = 4096

// interpreter returns the interpreter that a program names; empty if it names none.
func interpreter(f io.ReaderAt) string {
	head := make([]byte, maxInterpreter)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	head = head[:n]
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if words := strings.Fields(string(line)); len(words) > 0 {
			return words[0]
		}
		return ""
	}
	return elfInterpreter(f, head)
}

// elfInterpreter reads the segment PT_INTERP of an ELF file; head is its beginning.
func elfInterpreter(f io.ReaderAt, head []byte) string {
	const (
		class64  = 2
		big      = 2
		ptInterp = 3
	)
	if len(head) < 64 || string(head[:4]) != "\x7fELF" {
		return ""
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == big {
		order = binary.BigEndian
	}
	wide := head[4] == class64
	var offset, size, count uint64 // of the program headers
	if wide {
		offset, size, count = order.Uint64(head[32:]), uint64(order.Uint16(head[54:])), uint64(order.Uint16(head[56:]))
	} else {
		offset, size, count = uint64(order.Uint32(head[28:])), uint64(order.Uint16(head[42:])), uint64(order.Uint16(head[44:]))
	}
	if size < 32 || wide && size < 56 || offset > 1<<40 {
		return ""
	}
	entry := make([]byte, 56)
	for i := range count {
		at := int64(offset + i*size) //nolint:gosec // both were bounded
		n, _ := f.ReadAt(entry, at)
		if n < 32 || wide && n < 56 {
			return ""
		}
		if order.Uint32(entry) != ptInterp {
			continue
		}
		start, length := uint64(order.Uint32(entry[4:])), uint64(order.Uint32(entry[16:]))
		if wide {
			start, length = order.Uint64(entry[8:]), order.Uint64(entry[32:])
		}
		if start > 1<<40 || length > maxInterpreter {
			return ""
		}
		name := make([]byte, length)
		if _, err := f.ReadAt(name, int64(start)); err != nil {
			return ""
		}
		name, _, _ = bytes.Cut(name, []byte{0})
		return string(name)
	}
	return ""
}
