package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"lighter/internal/disk"
)

const (
	// masterPrefix is how the names of masters' folders start.
	masterPrefix = "lighter-ssh-"
	// masterPoll is how often it is looked whether a master is logged in.
	masterPoll = 20 * time.Millisecond
	// masterGrace is how long a master whose connection is over may take to say why, and one
	// that is told to end until it is killed.
	masterGrace = 2 * time.Second
	// staleMaster is when a folder that nobody has locked has been left behind.
	staleMaster = time.Minute
)

// master is a process of the program ssh that has the connection to a machine, and lets others have
// channels on it through a socket (ControlMaster in ssh_config(5)). It ends with this process,
// whatever ends that: the kernel sees to it.
type master struct {
	cmd    *exec.Cmd
	folder string   // its own
	lock   *os.File // in the folder, held as long as the master is ours
	stderr tail
	ended  chan struct{} // closed when the process is over and its folder gone
	stop   sync.Once
}

// connectOpenSSH connects by the program ssh: through a master that the user has running for the
// machine, or one of our own.
func connectOpenSSH(ctx context.Context, cfg *Config) (*link, error) {
	ctx, cancel := withTimeout(ctx, cfg.ConnectTimeout+cfg.HandshakeTimeout, "ssh's connection and login")
	defer cancel()
	program, err := exec.LookPath("ssh")
	if err != nil {
		return nil, &ProgramError{Addr: cfg.Addr, Said: `it is not installed here, and transport = "openssh" needs it`}
	}
	if socket := usersMaster(ctx, cfg, program); socket != "" {
		if l, err := joinMaster(ctx, cfg, socket, nil); err == nil {
			cfg.Logger.Debug("a master of the user's has the connection", "socket", socket)
			return l, nil
		}
	}
	m, err := startMaster(cfg, program)
	if err != nil {
		return nil, err
	}
	l, err := m.join(ctx, cfg)
	if err != nil {
		m.end()
		if cause := context.Cause(ctx); cause != nil {
			err = &ConnectError{Addr: cfg.Addr, Cause: fmt.Errorf("%w%s", cause, m.stderr.quoted())}
		}
		return nil, err
	}
	return l, nil
}

// usersMaster returns the socket of the master that the user's ssh_config(5) names for the
// machine, if there may be one.
func usersMaster(ctx context.Context, cfg *Config, program string) string {
	out, err := exec.CommandContext(ctx, program, append([]string{"-G"}, sshArgs(cfg)...)...).Output()
	if err != nil {
		return "" // who connects says why
	}
	for line := range strings.Lines(string(out)) {
		socket, ok := strings.CutPrefix(strings.TrimSpace(line), "controlpath ")
		if !ok {
			continue
		}
		info, err := os.Lstat(socket)
		if err == nil && info.Mode().Type() == fs.ModeSocket && isOwn(info) {
			return socket
		}
	}
	return ""
}

// sshArgs are the arguments for ssh that follow from the machine's entry; all else is as the user's
// ssh_config(5) has it.
func sshArgs(cfg *Config) []string {
	o := cfg.OpenSSH
	args := []string{"-T"}
	add := func(given bool, more ...string) {
		if given {
			args = append(args, more...)
		}
	}
	add(o.ConfigFile != "", "-F", o.ConfigFile)
	add(o.Port != 0, "-p", strconv.Itoa(o.Port))
	add(o.User != "", "-l", o.User)
	add(o.ProxyJump != "", "-o", "ProxyJump="+o.ProxyJump)
	add(o.ProxyCommand != "", "-o", "ProxyCommand="+o.ProxyCommand)
	add(cfg.PrivateKey != "", "-i", cfg.PrivateKey, "-o", "IdentitiesOnly=yes")
	return append(args, "--", o.Host)
}

func startMaster(cfg *Config, program string) (*master, error) {
	base := masterBase()
	sweepMasters.Do(func() { removeStaleMasters(base, time.Now()) })
	m := &master{ended: make(chan struct{})}
	if err := m.makeFolder(base, cfg); err != nil {
		m.removeFolder()
		return nil, err
	}
	options := []string{
		"-M", "-N", "-S", m.socket(), "-o", "BatchMode=yes", "-o", "ControlPersist=no",
		// A coordinator needs none of what people have set up for themselves with the host.
		"-o", "ClearAllForwardings=yes", "-o", "ForwardAgent=no", "-o", "ForwardX11=no", "-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none",
		"-o", "ConnectTimeout=" + seconds(cfg.ConnectTimeout),
		"-o", "ServerAliveInterval=" + seconds(cfg.KeepaliveInterval), "-o", "ServerAliveCountMax=1",
	}
	if cfg.HostKey != "" {
		options = append(options, "-o", "UserKnownHostsFile="+m.knownHosts(), "-o", "GlobalKnownHostsFile=/dev/null",
			"-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no", "-o", "VerifyHostKeyDNS=no", "-o", "KnownHostsCommand=none")
	}
	m.cmd = exec.Command(program, append(options, sshArgs(cfg)...)...) //nolint:noctx // end ends it
	m.cmd.Stderr = &m.stderr
	m.cmd.WaitDelay = masterGrace                                                      // a proxy of its may hold the pipe
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM} // no terminal to ask on
	started := make(chan error)
	go m.run(started)
	if err := <-started; err != nil {
		return nil, &ProgramError{Addr: cfg.Addr, Said: err.Error()}
	}
	return m, nil
}

// run starts the process and waits for its end.
func (m *master) run(started chan<- error) {
	// The kernel sends Pdeathsig when the thread ends that has started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(m.ended)
	defer m.removeFolder()
	err := m.cmd.Start()
	started <- err
	if err == nil {
		_ = m.cmd.Wait() // what it said says more
	}
}

func seconds(d time.Duration) string { return strconv.Itoa(max(1, int(d.Seconds()))) }

func (m *master) socket() string     { return filepath.Join(m.folder, "s") }
func (m *master) knownHosts() string { return filepath.Join(m.folder, "known_hosts") }

// masterBase is the folder in which masters have theirs. The names of sockets are short.
func masterBase() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && len(dir) < 40 {
		return dir
	}
	if dir := os.TempDir(); len(dir) < 40 {
		return dir
	}
	return "/tmp"
}

func (m *master) makeFolder(base string, cfg *Config) (err error) {
	if m.folder, err = os.MkdirTemp(base, masterPrefix); err != nil {
		return err
	}
	if m.lock, err = disk.Lock(filepath.Join(m.folder, "lock")); err != nil {
		return err
	}
	if cfg.HostKey == "" {
		return nil
	}
	key, err := ParseHostKey(cfg.HostKey)
	if err != nil {
		return err
	}
	return os.WriteFile(m.knownHosts(), []byte("* "+FormatHostKey(key)+"\n"), 0o600)
}

func (m *master) removeFolder() {
	if m.folder != "" {
		_ = os.RemoveAll(m.folder) // the next start tries again
	}
	if m.lock != nil {
		m.lock.Close()
	}
}

// isOwn reports whether a file belongs to this user.
func isOwn(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(stat.Uid) == int64(os.Getuid())
}

var sweepMasters sync.Once

// removeStaleMasters removes the folders of masters whose coordinators were killed.
func removeStaleMasters(base string, now time.Time) {
	folders, err := filepath.Glob(filepath.Join(base, masterPrefix+"*"))
	if err != nil {
		return
	}
	for _, folder := range folders {
		info, err := os.Lstat(folder)
		if err != nil || !info.IsDir() || !isOwn(info) || now.Sub(info.ModTime()) < staleMaster {
			continue
		}
		lock, err := disk.Lock(filepath.Join(folder, "lock"))
		if err != nil {
			continue
		}
		_ = os.RemoveAll(folder) // the next start tries again
		lock.Close()
	}
}

// join waits until the master is logged in, and gets a connection of it.
func (m *master) join(ctx context.Context, cfg *Config) (*link, error) {
	ticker := time.NewTicker(masterPoll)
	defer ticker.Stop()
	for {
		select {
		case <-m.ended:
			return nil, m.failure(cfg)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
		// ssh gives the socket its name when it listens on it.
		if _, err := os.Lstat(m.socket()); err == nil {
			l, err := joinMaster(ctx, cfg, m.socket(), m)
			if err != nil && ctx.Err() == nil { // it may be about to end
				m.end()
				return nil, m.failure(cfg)
			}
			return l, err
		}
	}
}

// failure says why a master that has ended did not connect.
func (m *master) failure(cfg *Config) error {
	said := m.stderr.String()
	if said == "" {
		said = m.cmd.ProcessState.String()
	}
	return &ProgramError{Addr: cfg.Addr, Said: said}
}

// joinMaster makes a link of a master's socket. With m, the master ends with the link.
func joinMaster(ctx context.Context, cfg *Config, socket string, m *master) (*link, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l := newLink(cfg, conn)
	l.muxed, l.master = true, m
	sshConn, channels, requests, err := ssh.NewControlClientConn(l.conn)
	if err == nil && !stop() {
		sshConn.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	l.run(ssh.NewClient(sshConn, channels, requests))
	return l, nil
}

// lost waits for a master whose connection is over, and says why it is.
func (m *master) lost() error {
	select {
	case <-m.ended:
	case <-time.After(masterGrace):
		m.end()
	}
	if said := m.stderr.String(); said != "" {
		return fmt.Errorf("ssh: %s", said)
	}
	return errors.New("ssh ended: " + m.cmd.ProcessState.String())
}

// end ends the process, and what it has started, and waits for that.
func (m *master) end() {
	m.stop.Do(func() {
		m.signal(syscall.SIGTERM)
		timer := time.NewTimer(masterGrace)
		defer timer.Stop()
		select {
		case <-m.ended:
		case <-timer.C:
			m.signal(syscall.SIGKILL)
		}
	})
	<-m.ended
}

func (m *master) signal(sig syscall.Signal) {
	select {
	case <-m.ended:
	default:
		_ = syscall.Kill(-m.cmd.Process.Pid, sig) // it may be over already
	}
}
