package machines

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// What stands for nothing at all in SSHConfig, and in ProxyJump and ProxyCommand.
const (
	SSHConfigNone = "none"
	ProxyNone     = "none"
)

// Way is how an SSH server is reached: what a machine's entry and OpenSSH's configuration say
// together. See ssh_config(5) for what its fields mean.
type Way struct {
	Host string // name or address to connect to (HostName)
	Port int
	User string

	// Identities are files of keys to log in with, in their order; nil: the usual ones. Of the
	// keys in ssh-agent, only these are used if IdentitiesOnly is set.
	Identities     []string
	Certificates   []string // CertificateFile
	IdentitiesOnly bool
	IdentityAgent  string // socket of ssh-agent; empty: SSH_AUTH_SOCK; "none"

	HostKeyAlias string   // the name that it has in known_hosts
	KnownHosts   []string // files; nil: the usual ones

	// Via is the jump host through which it is reached, ProxyCommand the command that connects
	// to it, with nothing left to be replaced. At most one of them is there.
	Via          *Way
	ProxyCommand string

	// Problem is why OpenSSH's configuration could not be asked; empty if it could.
	Problem string
	// From lists what was added to the entry, such as "HostName 192.0.2.1".
	From []string
}

// Target is the account of a host that a machine's entry leads to. Entries with equal targets
// lead to the same account; it can be a key of a map.
type Target struct {
	Local bool
	Host  string // lower case, without a dot at its end; an IP address in its canonical form
	Port  int
	User  string
	Proxy string // jump hosts or proxy command that lead there; empty for a direct connection
}

// Target returns what the entry leads to. Before [Resolve], that is what the entry says by itself.
func (m *Machine) Target() Target {
	if m.Local {
		return Target{Local: true}
	}
	w := m.Way
	if w == nil {
		w = &Way{Host: m.Host, Port: m.Port, User: m.User, ProxyCommand: m.ProxyCommand}
		if m.ProxyJump != "" && m.ProxyJump != ProxyNone {
			w.ProxyCommand = "jump " + m.ProxyJump
		}
	}
	return Target{Host: canonicalHost(w.Host), Port: w.Port, User: w.User, Proxy: w.proxy()}
}

func (w *Way) proxy() string {
	if w.Via != nil {
		return strings.TrimPrefix(w.Via.proxy()+" "+w.Via.User+"@"+net.JoinHostPort(canonicalHost(w.Via.Host), strconv.Itoa(w.Via.Port)), " ")
	}
	return w.ProxyCommand
}

func canonicalHost(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// jump is one host of a ProxyJump. Its port is 0 and its user empty where nothing is said of them.
type jump struct {
	user, host string
	port       int
}

// maxJumps bounds how many hosts lead to a machine.
const maxJumps = 16

// parseJumps reads "[USER@]HOST[:PORT],…"; each may begin with "ssh://".
func parseJumps(text string) ([]jump, error) {
	if text == ProxyNone {
		return nil, nil
	}
	var jumps []jump
	for part := range strings.SplitSeq(text, ",") {
		j, err := parseJump(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		jumps = append(jumps, j)
	}
	if len(jumps) > maxJumps {
		return nil, fmt.Errorf("more than %d jump hosts", maxJumps)
	}
	return jumps, nil
}

func parseJump(text string) (jump, error) {
	rest := strings.TrimSuffix(strings.TrimPrefix(text, "ssh://"), "/")
	user, host, hasUser := cutLast(rest, "@")
	if !hasUser {
		host = rest
	}
	host, port, hasPort := cutPort(host)
	j := jump{user: user, host: strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")}
	if !hasUser {
		j.user = ""
	} else if !validUser(user) {
		return j, fmt.Errorf("%q cannot be the name of a user", user)
	}
	if hasPort {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return j, fmt.Errorf("the port %q of jump host %q is not a number from 1 to 65535", port, j.host)
		}
		j.port = n
	}
	if j.host == "" || strings.HasPrefix(j.host, "-") || strings.Trim(j.host, nameCharacters+":%") != "" {
		return j, fmt.Errorf("%q cannot be a jump host", text)
	}
	return j, nil
}

// tokens are what ssh_config(5) calls TOKENS, for the file's name of a host.
func (w *Way) tokens(name string) map[byte]string {
	return map[byte]string{
		'%': "%", 'h': w.Host, 'n': name, 'p': strconv.Itoa(w.Port), 'r': w.User,
		'k': cmp.Or(w.HostKeyAlias, name),
	}
}

// expandTokens replaces each "%" and the letter after it.
func expandTokens(text string, tokens map[byte]string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i++; i == len(text) {
			return "", errors.New("a % at its end; write %% for one")
		}
		value, ok := tokens[text[i]]
		if !ok {
			return "", fmt.Errorf("%q, which is not replaced by anything: %%h is the host, %%p the port, %%r the user, %%%% a %%", "%"+text[i:i+1])
		}
		b.WriteString(value)
	}
	return b.String(), nil
}
