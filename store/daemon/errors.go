package daemon

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"unicode"

	"lighter/store"
)

// Error is what the daemon answers instead of a result.
//
// It matches store.ErrUnauthorized, store.ErrCorrupt, store.ErrNotValid or
// syscall.ENOSPC if the daemon's words mean that: it has no other way to say so.
type Error struct {
	Message string // as it came, perhaps of several lines
	Status  uint32 // 1 for most, 100 for a build that failed for good, 101 for a timeout
}

// maxShown is how much of the daemon's words an error repeats, in bytes.
const maxShown = 1 << 10

// Error returns the message as one printable line.
func (e *Error) Error() string { return printable(e.Message) }

// The words of guix-daemon 1.5.0, from its answers to damaged archives.
var (
	unauthorizedWords = []string{"unauthorized public key"}
	corruptWords      = []string{
		"signed hash doesn't match actual contents",
		"invalid signature",
		"corrupt signature data",
		"lacks a signature",
		"bad archive",
		"NAR contains invalid file name",
		"normalized archive cannot be imported; wrong format",
		"input doesn't look like something created by",
	}
	diskFullWords = []string{"No space left on device", "Disk quota exceeded", "database or disk is full"}
)

// Is reports whether the daemon's words mean one of the errors named above.
func (e *Error) Is(target error) bool {
	switch target {
	case store.ErrUnauthorized:
		return says(e.Message, unauthorizedWords)
	case store.ErrCorrupt:
		return says(e.Message, corruptWords)
	case store.ErrNotValid:
		return strings.HasPrefix(e.Message, "path `") && strings.HasSuffix(e.Message, "' is not valid")
	case error(syscall.ENOSPC):
		return says(e.Message, diskFullWords)
	}
	return false
}

func says(message string, words []string) bool {
	for _, w := range words {
		if strings.Contains(message, w) {
			return true
		}
	}
	return false
}

// printable makes one line of what another process said, without control characters.
func printable(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	return text
}

// errLost is matched by errors of the connection itself: it ended, or what came through
// it is not the protocol.
var errLost = errors.New("the connection to guix-daemon is lost")

// lost makes an error of the connection.
func lost(err error) error {
	if errors.Is(err, errLost) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", errLost, err)
}

// garbled makes the error about an answer that makes no sense.
func garbled(format string, args ...any) error {
	return lost(fmt.Errorf(format, args...))
}

var errClosed = errors.New("the store is closed")
