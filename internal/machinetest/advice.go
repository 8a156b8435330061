package machinetest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"lighter/internal/agentapi"
	"lighter/internal/human"
	"lighter/machines"
	"lighter/sshtransport"
)

// Advice says what to do about machines that can't be used. What its fields don't say is
// left out.
type Advice struct {
	Head
	File   string          // that lists the machines
	Format machines.Format // of File
	Home   string          // that has .ssh
	// ByName says that "lighter machines authorize" knows the machines of File by name.
	ByName bool
}

// TooLong is why the work on a machine was given up. It matches context.DeadlineExceeded.
type TooLong struct{ Limit time.Duration }

func (e *TooLong) Error() string { return fmt.Sprintf("not done after %s", e.Limit) }

// Is reports whether target is context.DeadlineExceeded.
func (e *TooLong) Is(target error) bool { return target == context.DeadlineExceeded }

// Problem is why a machine cannot be reached, and what to do.
type Problem struct {
	Login bool // it is about the way there and the login, not about the agent
	Err   error
	Fix   string
}

// Explain says what is in the way to a machine.
func (a *Advice) Explain(m *machines.Machine, err error) Problem {
	if m.Local {
		return Problem{Err: err, Fix: a.HeadFix(err)}
	}
	if fix := a.keyFix(m, err); fix != "" {
		var unknown *sshtransport.UnknownHostError
		if errors.As(err, &unknown) { // its own text has the line that the fix has
			err = fmt.Errorf("host key of %s is not known; it shows %s %s", unknown.Addr, unknown.Found.Type(), ssh.FingerprintSHA256(unknown.Found))
		}
		return Problem{true, err, fix}
	}
	if fix := a.networkFix(m, err); fix != "" {
		return Problem{true, err, fix}
	}
	return Problem{false, err, a.agentFix(m, err)}
}

// keyFix is about keys of SSH.
func (a *Advice) keyFix(m *machines.Machine, err error) string {
	var (
		wrong   *sshtransport.HostKeyError
		unknown *sshtransport.UnknownHostError
		auth    *sshtransport.AuthError
		key     *sshtransport.KeyError
		program *sshtransport.ProgramError
		hop     *sshtransport.HopError
	)
	switch {
	case errors.As(err, &hop):
		return a.hopFix(hop)
	case errors.As(err, &program):
		return programFix(m, program)
	case errors.As(err, &wrong):
		return a.hostKeyFix(m, wrong)
	case errors.As(err, &unknown):
		return fmt.Sprintf("compare the key with the one on %s (%s there); if it is right, put into %s:\n%s\nor into %s:\n%s",
			m.Host, showHostKey(unknown.Found), a.entry(m), a.hostKeyLine(unknown.Found), unknown.Files[0], unknown.Line())
	case errors.As(err, &auth):
		return a.loginFix(m, auth)
	case errors.As(err, &key):
		return a.privateKeyFix(m, key)
	}
	return ""
}

// showHostKey is a command that shows the fingerprint of a server's own key. It names one file, since ssh-keygen
// takes no more.
func showHostKey(key ssh.PublicKey) string {
	kind := "ed25519"
	switch t := key.Type(); {
	case strings.HasPrefix(t, "ecdsa-"):
		kind = "ecdsa"
	case t == ssh.KeyAlgoRSA:
		kind = "rsa"
	}
	return "ssh-keygen -lf /etc/ssh/ssh_host_" + kind + "_key.pub"
}

// programFix is about the program ssh, which has said what is wrong.
func programFix(m *machines.Machine, e *sshtransport.ProgramError) string {
	byHand := "as the coordinator's user: " + sshTo(m, m.User)
	if strings.Contains(e.Said, "Permission denied") {
		return "log in by hand, " + byHand + "; where that asks for a password or a second factor, have it stay as a master (ControlMaster auto, ControlPath and ControlPersist yes in ~/.ssh/config): lighter uses one that is there"
	}
	return "see how far it gets by hand, " + byHand + " -v true"
}

func (a *Advice) hostKeyFix(m *machines.Machine, e *sshtransport.HostKeyError) string {
	const careful = "if the machine was not reinstalled, someone may be in the middle: then do nothing; else "
	if e.Found == nil && len(e.Types) > 0 {
		return fmt.Sprintf("%sask it for a key: ssh-keyscan -p %d -t %s %s, and put that into %s",
			careful, m.Port, strings.TrimPrefix(e.Types[0], "ssh-"), human.ShellWord(m.Host), a.entry(m))
	}
	if strings.Contains(e.Reason, "revoked") {
		return "the key was revoked on purpose: give the machine another one, or correct that line"
	}
	if e.Reason != "" {
		return careful + fmt.Sprintf("have the authority sign a certificate for %s, or put the machine's key into %s:\n%s", knownHostsName(m), a.entry(m), a.hostKeyLine(plainKey(e.Found)))
	}
	if e.Found == nil {
		return careful + "put the key that it shows into " + a.entry(m)
	}
	if m.HostKey == "" {
		return fmt.Sprintf("%sremove the old key: %s, and put into %s:\n%s",
			careful, a.forget(m, e), a.entry(m), a.hostKeyLine(plainKey(e.Found)))
	}
	return fmt.Sprintf("%sput into %s, in place of the key there:\n%s", careful, a.entry(m), a.hostKeyLine(plainKey(e.Found)))
}

// plainKey is the key itself of a certificate.
func plainKey(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// entry says where a machine is in its file.
func (a *Advice) entry(m *machines.Machine) string {
	return "the entry of " + m.Name + " in " + a.File
}

// hostKeyLine is a host key as the machines file has it.
func (a *Advice) hostKeyLine(key ssh.PublicKey) string {
	text := sshtransport.FormatHostKey(key)
	switch a.Format {
	case machines.Guix:
		return fmt.Sprintf("(host-key %q)", text)
	case machines.Nix:
		return base64.StdEncoding.EncodeToString([]byte(text)) + "   (the last column)"
	}
	return fmt.Sprintf("host-key = %q", text)
}

// onlyTOML says how a file gets keys that only lighter's own format has.
func (a *Advice) onlyTOML() string {
	if a.Format == machines.TOML {
		return ""
	}
	return " (of a file in TOML: lighter machines import " + human.ShellWord(a.File) + " > machines.toml)"
}

func (a *Advice) loginFix(m *machines.Machine, e *sshtransport.AuthError) string {
	if len(e.Keys) == 0 && len(e.Locked) > 0 {
		return lockedFix(e.Locked[0])
	}
	if len(e.Keys) == 0 {
		return "make a key: ssh-keygen -t ed25519, or name one as private-key in " + a.entry(m) + "; then " + sshCopyID(m, "")
	}
	if len(e.NotOffered) > 0 {
		return fmt.Sprintf("name the key that the machine knows as private-key in %s: it hangs up after a few that it does not know (MaxAuthTries)", a.entry(m))
	}
	file := a.offeredKey(m)
	return fmt.Sprintf("let the key in: %s\n%sif it is there already, check there: sshd's log, that ~/.ssh and its home belong to %s and nobody else can write there, and that %s is the right user",
		sshCopyID(m, file), authorizedLine(m, file), m.User, m.User)
}

// offeredKey is the file of the private key that is offered to a machine; empty if that can't be told.
func (a *Advice) offeredKey(m *machines.Machine) string {
	if m.PrivateKey != "" || a.Home == "" {
		return m.PrivateKeyFile(a.Home)
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		file := filepath.Join(a.Home, ".ssh", name)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// maxPublicKey bounds what is shown of a public key, in bytes.
const maxPublicKey = 4 << 10

// authorizedLine says what ssh-copy-id does, for accounts without a password; empty if the key can't be read.
func authorizedLine(m *machines.Machine, file string) string {
	if file == "" {
		return ""
	}
	text, err := os.ReadFile(file + ".pub")
	line := strings.TrimSpace(string(text))
	if err != nil || len(line) > maxPublicKey || strings.Contains(line, "\n") {
		return ""
	}
	return fmt.Sprintf("or, where there is no password, append to ~%s/.ssh/authorized_keys there:\n%s\n", m.User, line)
}

// sshCopyID is a command that lets a key in; file is that of a private key, or empty.
func sshCopyID(m *machines.Machine, file string) string {
	command := "ssh-copy-id"
	if file != "" {
		command += " -i " + human.ShellWord(file+".pub")
	}
	return command + wayFlags(m) + " " + human.ShellWord(m.User+"@"+m.Host)
}

// sshTo is a command that runs another one on a machine.
func sshTo(m *machines.Machine, user string) string {
	return "ssh" + wayFlags(m) + " " + human.ShellWord(user+"@"+m.Host)
}

// networkFix is about the way to the SSH server.
func (a *Advice) networkFix(m *machines.Machine, err error) string {
	var name *net.DNSError
	var connect *sshtransport.ConnectError
	isConnect := errors.As(err, &connect)
	switch {
	case errors.As(err, &name):
		return a.nameFix(m)
	case errors.As(err, new(*sshtransport.CommandProxyError)):
		return "see what it says by hand: " + proxyCommand(m)
	case errors.As(err, new(*sshtransport.AlgorithmsError)):
		return "put into " + a.entry(m) + a.onlyTOML() + ":\ntransport = \"openssh\""
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("start sshd on %s (systemctl start ssh; herd start ssh-daemon), or put the port on which it listens into %s", m.Host, a.entry(m))
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ETIMEDOUT),
		isConnect && !connect.Answered:
		return fmt.Sprintf("see whether %s is up and its address right (ping %s), and whether a firewall drops port %d", m.Host, human.ShellWord(m.Host), m.Port)
	case isConnect:
		return fmt.Sprintf("see what answers there: ssh -v%s %s; an sshd hangs up on too many connections (MaxStartups), and for a minute or so on whom it refused before (PerSourcePenalties)", wayFlags(m), human.ShellWord(m.User+"@"+m.Host))
	case errors.As(err, new(*TooLong)):
		return "see how far it gets by hand: " + sshTo(m, m.User) + " true; --timeout gives it more time"
	}
	return ""
}

// agentFix is about getting the agent onto the machine and going.
func (a *Advice) agentFix(m *machines.Machine, err error) string {
	var failed *sshtransport.CommandError
	isCommand := errors.As(err, &failed)
	// What a program on the machine says, a shell or the agent as it starts, is text.
	text := strings.ToLower(err.Error())
	says := func(words string) bool { return strings.Contains(text, words) }
	there := sshTo(m, m.User)
	switch {
	case errors.As(err, new(*sshtransport.BinaryError)):
		return "" // the text says what to do
	case errors.Is(err, syscall.ENOSPC), says("no space left"):
		return fmt.Sprintf("make room there: %s df -h %s; or ", there, human.ShellWord(agentFolder(m))) + a.otherFolder(m)
	case errors.As(err, new(*sshtransport.DirectoryError)), errors.As(err, new(*sshtransport.WriteError)), says("read-only file system"), says("disk quota exceeded"):
		return a.otherFolder(m)
	case errors.Is(err, sshtransport.ErrNoCommands), says("currently not available"): // nologin(8)
		return fmt.Sprintf("give %s a login shell there (chsh), or a forced command: lighter-agent help says how", m.User)
	case isCommand && failed.Status == 126:
		return fmt.Sprintf("see what keeps programs from running there (SELinux, fapolicyd): %s ls -lZ %s; or ", there, human.ShellWord(agentFolder(m)+"/agents")) + a.otherFolder(m)
	case isCommand && failed.Status == 127:
		return fmt.Sprintf("see what the login shell does there: %s 'echo $PATH; ls -l %s/agents'", there, agentFolder(m))
	case errors.Is(err, os.ErrPermission), says("permission denied"):
		return fmt.Sprintf("let %s write to %s and %s there, or ", m.User, agentFolder(m), stateFolder(m)) + a.otherFolder(m)
	}
	return "the agent's log is there: " + there + " 'tail " + stateFolder(m) + "/agents/*/agent.log'"
}

// otherFolder is what to do where the agent can't be in a folder of a machine.
func (a *Advice) otherFolder(m *machines.Machine) string {
	fix := "choose a folder there that " + m.User + " can write to and run programs from, and put it into " + a.entry(m) + a.onlyTOML() + ", for example:\nagent-directory = \"/scratch/" + m.User + "\""
	if m.StateDirectory != "" {
		fix += "\n(state-directory is set there already, and may have to be changed too)"
	}
	return fix
}

// agentFolder is where the agent is uploaded to on a machine, relative to the home if it is not
// absolute.
func agentFolder(m *machines.Machine) string {
	if m.AgentDirectory != "" {
		return strings.TrimPrefix(m.AgentDirectory, "~/")
	}
	return ".cache/lighter"
}

// stateFolder is where the agent on a machine has its things, relative to the home if it
// is not absolute.
func stateFolder(m *machines.Machine) string {
	switch {
	case m.StateDirectory != "":
		return m.StateDirectory
	case m.AgentDirectory != "":
		return strings.TrimPrefix(m.AgentDirectory, "~/")
	case m.User == "root":
		return "/var/lib/lighter"
	}
	return ".local/share/lighter"
}

// StoreProblem says why nothing can be built in a machine's store, or not what its entry
// asks for, and what to do.
func (a *Advice) StoreProblem(m *machines.Machine, info *agentapi.Machine) (text, fix string) {
	if text, fix = a.buildProblem(m, info); text == "" {
		text, fix = offerProblem(m, info)
	}
	return text, fix
}

func (a *Advice) buildProblem(m *machines.Machine, info *agentapi.Machine) (text, fix string) {
	text = info.BuildProblem
	if fix = a.storeFix(m, info, text); fix != "" {
		text, _, _ = strings.Cut(text, "; ") // what comes after it is a fix too
	}
	return text, fix
}

func offerProblem(m *machines.Machine, info *agentapi.Machine) (text, fix string) {
	text, fix, _ = strings.Cut(info.Offer.Refuses(m.SandboxPaths, m.SubstituteURLs, m.ParallelBuilds), ": ")
	return text, fix
}

// refusalFix is about what the agent on a machine answered in place of a result.
func (a *Advice) refusalFix(m *machines.Machine, info *agentapi.Machine, err error) string {
	var refused *agentapi.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound && refused.Code == "" { // it has no such request
		return "an agent of another version builds there; try again when its builds are done"
	}
	return a.storeFix(m, info, err.Error())
}

// storeFix is about a machine's store. The text is the machine's, which passes on what its kernel
// or its guix-daemon said: no part of it says what that means.
func (a *Advice) storeFix(m *machines.Machine, info *agentapi.Machine, text string) string {
	low := strings.ToLower(text)
	isDaemon := info.StoreKind == machines.StoreDaemon
	switch {
	case strings.Contains(low, "no space left"), strings.Contains(low, "quota"):
		return fmt.Sprintf("make room where %s is there: lighter machines gc %s, or guix gc there", info.StoreDir, m.Name)
	case strings.Contains(low, "generate-key"), strings.Contains(low, "signing-key"):
		return "as root on " + m.Host + ": guix archive --generate-key"
	case isDaemon && strings.Contains(low, "permission denied"):
		return fmt.Sprintf("let %s use guix-daemon's socket there: %s ls -ld %s %s shows whose it is; add %s to that group (usermod -aG GROUP %s), and end the agent that does not know it yet: %s pkill lighter-agent",
			m.User, sshTo(m, m.User), human.ShellWord(filepath.Dir(m.DaemonSocket)), human.ShellWord(m.DaemonSocket), m.User, m.User, sshTo(m, m.User))
	case isDaemon && (strings.Contains(low, "no such file") || strings.Contains(low, "connection refused")):
		return fmt.Sprintf("start guix-daemon there (systemctl start guix-daemon; herd start guix-daemon), or put the socket on which it listens as daemon-socket into %s", a.entry(m))
	}
	return ""
}

// AuthorizeHead says what to do on a host that does not accept what the head signs.
func AuthorizeHead(host, storeKind string) string {
	if storeKind == machines.StoreDaemon {
		return "as root on " + host + ", with the head's signing-key.pub as standard input: guix archive --authorize"
	}
	return "on " + host + ", with the head's signing-key.pub: lighter-agent authorize FILE, or lighter agent --authorize FILE where that is the server; an uploaded agent is told of it when it starts"
}

// farACLFix is what to do about a machine that does not accept what the head signs.
func (a *Advice) farACLFix(m *machines.Machine, info *agentapi.Machine) string {
	fix := AuthorizeHead(m.Host, info.StoreKind)
	if info.StoreKind == machines.StoreDaemon && a.KeyFile != "" {
		fix += fmt.Sprintf("\nfor example: %s guix archive --authorize < %s", sshTo(m, "root"), human.ShellWord(a.KeyFile))
	}
	return fix
}

// AuthorizeMachine is the command with which a head accepts what a machine signs; hint is a Head's.
func AuthorizeMachine(name, hint string) string {
	return "lighter machines authorize " + hint + human.ShellWord(name)
}

// nearACLFix is what to do about a head that does not accept what a machine signs.
func (a *Advice) nearACLFix(m *machines.Machine) string {
	hint := a.Hint
	if !a.ByName {
		hint += "--machines " + human.ShellWord(a.File) + " "
	}
	return AuthorizeMachine(m.Name, hint)
}

// HeadFix is what to do about the head's own store.
func (a *Advice) HeadFix(err error) string {
	if a.StoreKind != machines.StoreDaemon {
		return ""
	}
	switch {
	case !errors.As(err, new(*net.OpError)), errors.Is(err, context.DeadlineExceeded): // it is not about the socket
		return ""
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return "start guix-daemon (systemctl start guix-daemon; herd start guix-daemon), or say where it listens with --daemon-socket; without Guix, --store=local"
	case errors.Is(err, fs.ErrPermission):
		return "let this user use guix-daemon's socket: add it to the socket's group"
	}
	return ""
}
