package machinetest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lighter/internal/human"
	"lighter/machines"
	"lighter/sshtransport"
)

// hopFix is about a jump host, which is no machine of the file.
func (a *Advice) hopFix(e *sshtransport.HopError) string {
	var (
		unknown *sshtransport.UnknownHostError
		wrong   *sshtransport.HostKeyError
		auth    *sshtransport.AuthError
	)
	host, port, err := net.SplitHostPort(e.Addr)
	if err != nil {
		host, port = e.Addr, "22"
	}
	flag := ""
	if port != "22" {
		flag = " -p " + port
	}
	login := human.ShellWord(e.User + "@" + host)
	switch {
	case errors.As(e.Cause, &unknown):
		return fmt.Sprintf("compare the key with the one on %s; if it is right, put into %s:\n%s", host, unknown.Files[0], unknown.Line())
	case errors.As(e.Cause, &wrong):
		return "if that host was not reinstalled, someone may be in the middle: then do nothing; else correct " + wrong.Wanted[0].Source
	case errors.As(e.Cause, &auth) && len(auth.Keys) > 0:
		return "let the key in: ssh-copy-id" + flag + " " + login
	}
	text := "see how far it gets by hand: ssh" + flag + " " + login + " true"
	var connect *sshtransport.ConnectError
	if errors.As(e.Cause, &connect) && connect.Answered {
		text += "; an sshd hangs up on too many connections (MaxStartups), and for a minute or so on whom it refused before (PerSourcePenalties)"
	}
	return text
}

// privateKeyFix is about a key of this user's.
func (a *Advice) privateKeyFix(m *machines.Machine, e *sshtransport.KeyError) string {
	file := m.PrivateKeyFile(a.Home)
	switch {
	case m.Way != nil && m.Way.Problem != "" && e.Reason == m.Way.Problem:
		return "repair it, and have it read again: lighter machines reload"
	case errors.Is(e, fs.ErrNotExist) && m.PrivateKey != "":
		return fmt.Sprintf("name the right file in %s, or make one:\nssh-keygen -t ed25519 -N '' -f %s && %s", a.entry(m), human.ShellWord(file), sshCopyID(m, file))
	case errors.Is(e, fs.ErrPermission):
		return fmt.Sprintf("take private-key out of %s: then %s and the other usual keys of this user are used (ssh-keygen -t ed25519 makes one)",
			a.entry(m), filepath.Join(a.Home, ".ssh", "id_ed25519"))
	case e.Locked && strings.HasSuffix(file, ".pub"):
		file = strings.TrimSuffix(file, ".pub")
		return fmt.Sprintf("name the private key in %s: %s\nor %s", a.entry(m), file, lockedFix(file))
	case e.Locked:
		return lockedFix(file)
	}
	return fmt.Sprintf("repair the file, or name another one in %s", a.entry(m))
}

// lockedFix is about a key that only ssh-agent can use. Which one that is depends on the environment
// of the process that connects, not of who reads this.
func lockedFix(file string) string {
	file = human.ShellWord(file)
	text := "ssh-add " + file
	if os.Getenv("SSH_AUTH_SOCK") == "" {
		text = "eval $(ssh-agent) && ssh-add " + file + ", and start from the same shell what connects: the coordinator, or this command where none runs"
	}
	return text + "\nor take its passphrase away, if it has one: ssh-keygen -p -N '' -f " + file
}

// wayFlags are the flags with which ssh by hand takes the way to a machine.
func wayFlags(m *machines.Machine) string {
	flags := ""
	if m.Port != machines.DefaultPort {
		flags += " -p " + strconv.Itoa(m.Port)
	}
	if m.SSHConfig != "" && m.SSHConfig != machines.SSHConfigNone {
		flags += " -F " + human.ShellWord(m.SSHConfig)
	}
	if m.ProxyJump != "" {
		flags += " -o " + human.ShellWord("ProxyJump="+m.ProxyJump)
	}
	if m.ProxyCommand != "" {
		flags += " -o " + human.ShellWord("ProxyCommand="+m.ProxyCommand)
	}
	return flags
}

// knownHostsName is a machine's name in known_hosts.
func knownHostsName(m *machines.Machine) string {
	host := m.Host
	if m.Way != nil {
		if m.Way.HostKeyAlias != "" {
			return m.Way.HostKeyAlias
		}
		host = m.Way.Host
	}
	if m.Port == machines.DefaultPort {
		return host
	}
	return "[" + host + "]:" + strconv.Itoa(m.Port)
}

// forget is a command that removes what known_hosts has of a machine.
func (a *Advice) forget(m *machines.Machine, e *sshtransport.HostKeyError) string {
	command := "ssh-keygen -R " + human.ShellWord(knownHostsName(m))
	// The source is FILE:LINE.
	source := e.Wanted[0].Source
	if i := strings.LastIndex(source, ":"); i > 0 && filepath.IsAbs(source) && source[:i] != filepath.Join(a.Home, ".ssh", "known_hosts") {
		command += " -f " + human.ShellWord(source[:i])
	}
	return command
}

// nameFix is about a host that is not found.
func (a *Advice) nameFix(m *machines.Machine) string {
	fix := "put a name or address that can be found from here into " + a.entry(m)
	file := filepath.Join(a.Home, ".ssh", "config")
	if m.SSHConfig != machines.SSHConfigNone || !hasHost(file, m.Host) {
		return fix
	}
	if a.Format == machines.Guix {
		return fix + fmt.Sprintf("\n%s has a Host %s, but Guix's files are used without it, as by Guix; in TOML (lighter machines import), without the line ssh-config = \"none\", it counts", file, m.Host)
	}
	return fix + fmt.Sprintf("\n%s has a Host %s: to use it, take ssh-config = \"none\" out of %s", file, m.Host, a.File)
}

// hasHost reports whether a file of OpenSSH's configuration names a host.
func hasHost(file, host string) bool {
	const most = 1 << 20
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > most {
		return false
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) > 1 && strings.EqualFold(words[0], "Host") && slices.Contains(words[1:], host) {
			return true
		}
	}
	return false
}

// proxyCommand is the command that connects to a machine.
func proxyCommand(m *machines.Machine) string {
	if m.Way != nil {
		return m.Way.ProxyCommand
	}
	return m.ProxyCommand
}
