package sshtransport

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// ErrLinkLost is matched by the errors of streams whose SSH connection ended under
// them, and of waits for it.
var ErrLinkLost = errors.New("link lost")

// ErrClosed is what a Client returns after Close.
var ErrClosed = errors.New("transport closed")

// LinkError says that, and why, an SSH connection was lost. It matches ErrLinkLost.
type LinkError struct {
	Machine string
	Cause   error
}

func (e *LinkError) Error() string {
	return fmt.Sprintf("link to machine %s lost: %v", e.Machine, e.Cause)
}

// Is reports whether target is ErrLinkLost.
func (e *LinkError) Is(target error) bool { return target == ErrLinkLost }

// Unwrap returns the cause.
func (e *LinkError) Unwrap() error { return e.Cause }

// Because says why the link was lost, for texts that name the machine themselves.
func (e *LinkError) Because() error { return e.Cause }

// DownError says that a Folder's machine could not be reached, and until when nothing tries
// again.
type DownError struct {
	Machine string
	Cause   error
	Next    time.Time
}

func (e *DownError) Error() string {
	return fmt.Sprintf("machine %s: %v (next try at %s)", e.Machine, e.Cause, e.Next.Format(time.TimeOnly))
}

// Unwrap returns the cause.
func (e *DownError) Unwrap() error { return e.Cause }

// ErrNoCommands says that a machine's server runs no commands for the account, errNoSFTP that
// it offers no SFTP.
var (
	ErrNoCommands = errors.New("the server runs no commands for this account")
	errNoSFTP     = errors.New("the server does not offer it (Subsystem in sshd_config)")
)

// ConnectError says why no SSH connection came about, where the machine's name, its network
// (net.OpError), keys and logins are not why.
type ConnectError struct {
	Addr     string
	Answered bool // something did, and it did not go on as SSH should
	Cause    error

	dropped bool // it closed the connection before it said that it speaks SSH
}

func (e *ConnectError) Error() string { return fmt.Sprintf("connect to %s: %v", e.Addr, e.Cause) }

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Cause }

// BinaryError says that this computer has no agent that can be uploaded for a platform.
type BinaryError struct {
	Platform string // in Go's words: "linux/arm64"
	Cause    error
}

func (e *BinaryError) Error() string { return fmt.Sprintf("agent for %s: %v", e.Platform, e.Cause) }

// Unwrap returns the cause.
func (e *BinaryError) Unwrap() error { return e.Cause }

// WriteError is a failure to write for which a machine's SFTP server has no word, although
// the disk has room.
type WriteError struct {
	Free  uint64 // bytes
	Cause error
}

func (e *WriteError) Error() string {
	return fmt.Sprintf("%v (%d bytes are free; is a quota used up?)", e.Cause, e.Free)
}

// Unwrap returns the cause.
func (e *WriteError) Unwrap() error { return e.Cause }

// HostKeyError says that a machine showed another key than the one it should have.
type HostKeyError struct {
	Addr   string
	Found  ssh.PublicKey // nil if it has none of the wanted types
	Wanted []KnownKey    // at least one
	Reason string        // of a revoked key or the like; else empty
	Types  []string      // if Found is nil: the types of key that it has

	Unreadable []string // lines of known_hosts that might have the right one
}

// KnownKey is a host key, and where it is written.
type KnownKey struct {
	Key    ssh.PublicKey
	Source string // e.g. "/home/me/.ssh/known_hosts:12"
}

func (e *HostKeyError) Error() string {
	var wanted []string
	for _, k := range e.Wanted {
		wanted = append(wanted, fmt.Sprintf("%s (%s)", describeKey(k.Key), k.Source))
	}
	text := fmt.Sprintf("host key of %s: ", e.Addr)
	switch {
	case e.Reason != "":
		text += fmt.Sprintf("found %s: %s", describeKey(e.Found), e.Reason)
	case e.Found == nil:
		text += fmt.Sprintf("wanted %s; the machine has only keys of type %s", strings.Join(wanted, " or "), strings.Join(e.Types, ", "))
	default:
		text += fmt.Sprintf("wanted %s; found %s: the machine was reinstalled, or this is another one", strings.Join(wanted, " or "), describeKey(e.Found))
	}
	return text + also(e.Unreadable)
}

// UnknownHostError says that nothing is known of a machine's key.
type UnknownHostError struct {
	Addr  string
	Name  string // of the machine in known_hosts
	Found ssh.PublicKey
	Files []string // that were searched

	Unreadable []string // lines in them that might be about the machine
}

func (e *UnknownHostError) Error() string {
	return fmt.Sprintf("host key of %s is not known: if %s is right, add to %s the line: %s%s",
		e.Addr, describeKey(e.Found), e.Files[0], e.Line(), also(e.Unreadable))
}

// Line returns the line that makes the machine known.
func (e *UnknownHostError) Line() string { return knownHostsLine(e.Name, e.Found) }

// also is what can't be read, as the end of a sentence.
func also(unreadable []string) string {
	if len(unreadable) == 0 {
		return ""
	}
	return "; " + strings.Join(unreadable, "; ")
}

func describeKey(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

// AuthError says that a machine refused the login.
type AuthError struct {
	User, Addr string
	Keys       []string // that were offered: type, fingerprint and where from
	NotOffered []string // those for which there was no time any more
	Unusable   []string // keys that could not be offered, and why
	Locked     []string // files of those that only an ssh-agent could use
	Cause      error    // what the server says besides; nil if nothing
}

func (e *AuthError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "login as %s at %s refused", e.User, e.Addr)
	switch {
	case len(e.Keys) > 0:
		fmt.Fprintf(&b, "; keys offered: %s", strings.Join(e.Keys, ", "))
	default:
		b.WriteString("; no key to offer")
	}
	if len(e.NotOffered) > 0 {
		fmt.Fprintf(&b, "; no longer offered: %s", strings.Join(e.NotOffered, ", "))
	}
	if len(e.Unusable) > 0 {
		fmt.Fprintf(&b, "; not usable: %s", strings.Join(e.Unusable, ", "))
	}
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *AuthError) Unwrap() error { return e.Cause }

// KeyError says what is wrong with a private key, or with a pinned host key.
type KeyError struct {
	What   string // e.g. "private key /home/me/.ssh/id_rsa"
	Reason string
	Locked bool  // only an ssh-agent could use it
	Cause  error // may be nil
}

func (e *KeyError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("%s: %v", e.What, e.Cause)
	}
	return e.What + ": " + e.Reason
}

// Unwrap returns the cause.
func (e *KeyError) Unwrap() error { return e.Cause }

// ProgramError says why the program ssh, which Config.OpenSSH asks for, did not connect.
type ProgramError struct {
	Addr string
	Said string // by ssh, its last lines, printable
}

func (e *ProgramError) Error() string { return fmt.Sprintf("ssh to %s: %s", e.Addr, e.Said) }

// permanent reports whether a person must do something about it, as far as ssh says.
func (e *ProgramError) permanent() bool {
	for _, words := range []string{"Permission denied", "Host key verification failed", "Bad configuration option", "not installed"} {
		if strings.Contains(e.Said, words) {
			return true
		}
	}
	return false
}

// CommandError says how a command on a machine ended that should have done otherwise.
type CommandError struct {
	Command string
	Status  int    // exit status; -1 if it ended otherwise
	Signal  string // that killed it, without SIG; else empty
	Stderr  string // its last lines, printable
	Reason  string // what is missing, if the status is 0
}

func (e *CommandError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "remote command %s: ", truncate(printable(e.Command), 300))
	switch {
	case e.Signal != "":
		b.WriteString("killed by signal " + e.Signal)
	case e.Status > 0:
		fmt.Fprintf(&b, "exit status %d", e.Status)
	case e.Status < 0:
		b.WriteString("ended without an exit status")
	default:
		b.WriteString(e.Reason)
	}
	if e.Stderr != "" {
		b.WriteString(": " + e.Stderr)
	}
	if e.Status != 0 && e.Reason != "" && e.Stderr == "" {
		b.WriteString(": " + e.Reason)
	}
	return b.String()
}

// Permanent reports whether an error looks as if a person must change something
// before it goes away: keys, names and logins, not networks.
func Permanent(err error) bool {
	var (
		hostKey *HostKeyError
		unknown *UnknownHostError
		auth    *AuthError
		key     *KeyError
		program *ProgramError
	)
	if errors.As(err, &program) && program.permanent() {
		return true
	}
	return errors.As(err, &hostKey) || errors.As(err, &unknown) || errors.As(err, &auth) || errors.As(err, &key)
}
