package machines

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// SSH says how [Resolve] asks OpenSSH's configuration.
type SSH struct {
	// Program is ssh(1), which says by "ssh -G" what its configuration means. Empty: there is none.
	Program string
	// Home is this user's home folder.
	Home string
	// Timeout bounds all that is asked; 0 means 30 seconds. Match can run programs.
	Timeout time.Duration
}

const (
	resolveTimeout = 30 * time.Second
	maxAnswer      = 256 << 10 // bytes that "ssh -G" may write
	askAtOnce      = 8
)

// Resolve finds out how each machine is reached. What its entry says counts; for what it does not
// say, OpenSSH's configuration is asked, unless the entry forbids that. It fills in Way, and
// where the entry does not have them, User and Port. A machine for which that fails has a Way
// that says why.
func Resolve(ctx context.Context, all []Machine, with SSH) {
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(with.Timeout, resolveTimeout), errors.New("it took too long"))
	defer cancel()
	r := &resolver{SSH: with, asked: make(map[question]*answer)}
	r.user = r.whoami()
	slots := make(chan struct{}, askAtOnce)
	var wg sync.WaitGroup
	for i := range all {
		m := &all[i]
		if m.Local {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			m.Way = r.wayTo(ctx, m)
			m.User, m.Port = m.Way.User, m.Way.Port
		})
	}
	wg.Wait()
}

type resolver struct {
	SSH
	user, passwdHome string

	mu    sync.Mutex
	asked map[question]*answer
}

// whoami returns the name of this user.
func (r *resolver) whoami() string {
	u, err := user.Current()
	if err != nil {
		return os.Getenv("USER")
	}
	r.passwdHome = u.HomeDir
	return u.Username
}

// question is what "ssh -G" is asked.
type question struct {
	file, host, user string
	port             int
}

type answer struct {
	once sync.Once
	text string
	err  error
}

// wayTo makes the way to a machine.
func (r *resolver) wayTo(ctx context.Context, m *Machine) *Way {
	port := 0
	if m.PortGiven || m.Port != DefaultPort {
		port = m.Port
	}
	w, proxies, err := r.settle(ctx, question{m.SSHConfig, m.Host, m.User, port})
	if m.ProxyJump != "" || m.ProxyCommand != "" {
		w.From = slices.DeleteFunc(w.From, func(text string) bool { return strings.HasPrefix(text, "Proxy") })
		proxies = proxySettings{jump: m.ProxyJump, command: m.ProxyCommand}
	}
	if err == nil {
		err = r.proxy(ctx, w, m.SSHConfig, m.Host, proxies, 0)
	}
	if err != nil {
		w.Problem = err.Error()
	}
	if m.PrivateKey != "" {
		for via := w.Via; via != nil && m.SSHConfig == SSHConfigNone; via = via.Via {
			via.Identities = []string{m.PrivateKeyFile(r.Home)}
		}
	}
	return w
}

// proxySettings are ProxyJump and ProxyCommand as they are written.
type proxySettings struct{ jump, command string }

// proxy fills in what leads to a host whose name in its file is given.
func (r *resolver) proxy(ctx context.Context, w *Way, file, name string, p proxySettings, depth int) (err error) {
	switch {
	case p.jump != "" && p.jump != ProxyNone:
		jumps, err := parseJumps(p.jump)
		if err != nil {
			return fmt.Errorf("ProxyJump: %w", err)
		}
		w.Via, err = r.jumps(ctx, file, jumps, depth+1)
		return err
	case p.command != "" && p.command != ProxyNone:
		if strings.ContainsAny(w.User, "'`\"$\\;&<>|(){}*?#!\n") {
			return fmt.Errorf("the user %q cannot stand in a ProxyCommand", w.User)
		}
		if w.ProxyCommand, err = expandTokens(p.command, w.tokens(name)); err != nil {
			return fmt.Errorf("ProxyCommand: %w", err)
		}
	}
	return nil
}

// jumps makes the way to the last one of a chain of hosts. The first one is reached as its own
// configuration says, each other one through the one before it, as by ssh(1).
func (r *resolver) jumps(ctx context.Context, file string, chain []jump, depth int) (*Way, error) {
	if depth > maxJumps {
		return nil, fmt.Errorf("ProxyJump: more than %d hosts one after another; do they lead in a circle?", maxJumps)
	}
	last := chain[len(chain)-1]
	w, proxies, err := r.settle(ctx, question{file, last.host, last.user, last.port})
	if err != nil {
		return nil, fmt.Errorf("jump host %s: %w", last.host, err)
	}
	if rest := chain[:len(chain)-1]; len(rest) > 0 {
		w.Via, err = r.jumps(ctx, file, rest, depth+1)
		return w, err
	}
	return w, r.proxy(ctx, w, file, last.host, proxies, depth)
}

// settle asks OpenSSH's configuration about a host.
func (r *resolver) settle(ctx context.Context, q question) (*Way, proxySettings, error) {
	w := &Way{Host: q.host, Port: cmp.Or(q.port, DefaultPort), User: cmp.Or(q.user, r.user)}
	if q.user == "" {
		w.From = []string{"User " + r.user + " (this user's own name)"}
	}
	var proxies proxySettings
	if q.file == SSHConfigNone {
		return w, proxies, nil
	}
	text, err := r.ask(ctx, q)
	if err != nil || text == "" {
		return w, proxies, err
	}
	proxies = r.read(w, q, text)
	return w, proxies, nil
}

// files are those of OpenSSH's configuration that a question is about.
func (r *resolver) files(q question) []string {
	if q.file != "" {
		return []string{inHome(q.file, r.Home)}
	}
	return []string{filepath.Join(r.Home, ".ssh", "config"), "/etc/ssh/ssh_config"}
}

// ask returns what "ssh -G" says, or nothing where there is nothing to ask.
func (r *resolver) ask(ctx context.Context, q question) (string, error) {
	files := r.files(q)
	if !slices.ContainsFunc(files, exists) {
		if q.file != "" {
			return "", &fs.PathError{Op: "ssh-config", Path: files[0], Err: fs.ErrNotExist}
		}
		return "", nil
	}
	if r.Program == "" {
		if q.file == "" && !exists(files[0]) {
			return "", nil // what comes with OpenSSH, without OpenSSH
		}
		return "", fmt.Errorf(`%s cannot be read: there is no program ssh here to ask; install OpenSSH's client, or write ssh-config = "none"`, files[0])
	}
	r.mu.Lock()
	a := r.asked[q]
	if a == nil {
		a = new(answer)
		r.asked[q] = a
	}
	r.mu.Unlock()
	a.once.Do(func() { a.text, a.err = r.run(ctx, q, files) })
	return a.text, a.err
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, fs.ErrNotExist)
}

// run runs "ssh -G".
func (r *resolver) run(ctx context.Context, q question, files []string) (string, error) {
	args := []string{"-G", "-T"}
	cmd := exec.CommandContext(ctx, r.Program)
	switch {
	case q.file != "":
		args = append(args, "-F", files[0])
	case r.Home != r.passwdHome:
		// ssh(1) does not look at HOME. It reads standard input more than once, so that must be a file.
		config, err := includingFile(files)
		if err != nil {
			return "", err
		}
		defer config.Close()
		cmd.Stdin = config
		args = append(args, "-F", "/proc/self/fd/0")
	}
	if q.port != 0 {
		args = append(args, "-p", strconv.Itoa(q.port))
	}
	if q.user != "" {
		args = append(args, "-l", q.user)
	}
	cmd.Args = append(append([]string{r.Program}, args...), "--", q.host)
	out, messages := &bounded{most: maxAnswer}, &bounded{most: maxGuixMessages}
	cmd.Stdout, cmd.Stderr = out, messages
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return "", fmt.Errorf("ssh -G %s: %s", q.host, cmp.Or(oneLine(messages.String()), err.Error()))
	}
	return out.String(), nil
}

// oneLine makes one line of what a program says.
func oneLine(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(strings.ReplaceAll(text, "\r", "")), "\n", "; ")
}

// includingFile returns a file without a name that includes others.
func includingFile(files []string) (*os.File, error) {
	f, err := os.CreateTemp("", "lighter-ssh-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	for _, file := range files {
		fmt.Fprintf(f, "Include %q\nMatch all\n", file)
	}
	return f, nil
}

// read takes over what "ssh -G" says.
func (r *resolver) read(w *Way, q question, text string) proxySettings {
	var p proxySettings
	var identities, certificates, knownHosts []string
	added := func(keyword, value string) { w.From = append(w.From, keyword+" "+value) }
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		switch key {
		case "hostname":
			if !strings.EqualFold(value, q.host) {
				w.Host = value
				added("HostName", value)
			}
		case "port":
			if n, err := strconv.Atoi(value); err == nil && n > 0 && n <= 65535 {
				w.Port = n
				if q.port == 0 && n != DefaultPort {
					added("Port", value)
				}
			}
		case "user":
			w.User = value
			if q.user == "" && value != r.user {
				w.From[0] = "User " + value
			}
		case "identityfile":
			identities = append(identities, value)
		case "certificatefile":
			certificates = append(certificates, value)
		case "identitiesonly":
			if w.IdentitiesOnly = value == "yes"; w.IdentitiesOnly {
				added("IdentitiesOnly", value)
			}
		case "identityagent":
			w.IdentityAgent = value
		case "hostkeyalias":
			w.HostKeyAlias = value
			added("HostKeyAlias", value)
		case "userknownhostsfile", "globalknownhostsfile":
			knownHosts = append(knownHosts, strings.Fields(value)...)
		case "proxyjump":
			p.jump = value
			added("ProxyJump", value)
		case "proxycommand":
			p.command = value
			added("ProxyCommand", value)
		}
	}
	r.takeFiles(w, q, identities, certificates, knownHosts)
	return p
}

// takeFiles takes over names of files, but for those that ssh(1) uses anyway.
func (r *resolver) takeFiles(w *Way, q question, identities, certificates, knownHosts []string) {
	tokens := w.tokens(q.host)
	tokens['d'], tokens['u'], tokens['i'] = r.passwdHome, r.user, strconv.Itoa(os.Getuid())
	host, _ := os.Hostname()
	tokens['l'] = host
	tokens['L'], _, _ = strings.Cut(host, ".")
	file := func(name string) string {
		name = inHome(os.Expand(name, os.Getenv), r.passwdHome) // as ssh(1) does where it expands by itself
		if plain, err := expandTokens(name, tokens); err == nil {
			name = plain
		}
		return name
	}
	if slices.ContainsFunc(identities, func(name string) bool { return !usualIdentity(name) }) {
		for _, name := range identities {
			if name != "none" {
				w.Identities = append(w.Identities, file(name))
				w.From = append(w.From, "IdentityFile "+name)
			}
		}
		if w.Identities == nil {
			w.Identities = []string{}
		}
	}
	for _, name := range certificates {
		if name != "none" {
			w.Certificates = append(w.Certificates, file(name))
			w.From = append(w.From, "CertificateFile "+name)
		}
	}
	switch agent := w.IdentityAgent; {
	case agent == "SSH_AUTH_SOCK":
		w.IdentityAgent = ""
	case strings.HasPrefix(agent, "$"):
		w.IdentityAgent = cmp.Or(os.Expand(agent, os.Getenv), "none")
	case agent != "":
		w.IdentityAgent = file(agent)
	}
	if w.IdentityAgent != "" {
		w.From = append(w.From, "IdentityAgent "+w.IdentityAgent)
	}
	usual := func(name string) bool { return r.usualKnownHosts(name) }
	if slices.ContainsFunc(knownHosts, func(name string) bool { return !usual(name) }) || len(knownHosts) != 4 {
		w.KnownHosts = []string{}
		for _, name := range knownHosts {
			if name == "none" || name == "/dev/null" {
				continue
			}
			w.KnownHosts = append(w.KnownHosts, file(name))
			if !usual(name) {
				w.From = append(w.From, "KnownHostsFile "+name)
			}
		}
	}
}

// usualIdentity reports whether a key is one of those that ssh(1), of any release, uses where nothing is configured.
func usualIdentity(name string) bool {
	base, ok := strings.CutPrefix(name, "~/.ssh/")
	return ok && slices.Contains([]string{"id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "id_mldsa44_ed25519", "id_xmss", "id_dsa"}, base)
}

func (r *resolver) usualKnownHosts(name string) bool {
	name = strings.TrimSuffix(name, "2")
	return name == "/etc/ssh/ssh_known_hosts" || name == filepath.Join(r.passwdHome, ".ssh", "known_hosts")
}
