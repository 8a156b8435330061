package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"lighter/internal/agentapi"
	"lighter/nar/signature"
	"lighter/sshtransport"
	"lighter/store"
	"lighter/store/local"
)

// sshCipher is used by both sides of the comparison.
const sshCipher = "aes128-gcm@openssh.com"

// benchSSH carries one item of 512 MiB over a real sshd on loopback, from store to
// store, beside cat: NAR, hash, signature and the check of both are included.
func benchSSH(ctx context.Context, b *bench) error {
	server, err := startSSHD(ctx, b.folder)
	if err != nil {
		return err
	}
	defer server.stop()
	big := filepath.Join(b.folder, "item")
	if err := writeRandom(big, 512<<20); err != nil {
		return err
	}
	ends, err := newEnds(ctx, b.folder, server)
	if err != nil {
		return err
	}
	defer ends.close()
	path, err := ends.add(ctx, big)
	if err != nil {
		return err
	}
	out := filepath.Join(b.folder, "out")
	err = b.compare("send an item of 512 MiB over SSH, `ssh host 'cat >'`", func() (func() error, error) {
		_, err := ends.agent.CollectGarbage(ctx, &agentapi.GCRequest{})
		return func() error { return ends.send(ctx, path) }, err
	}, func() (func() error, error) {
		f, err := os.Open(big)
		cmd := server.ssh(ctx, "cat > "+out)
		cmd.Stdin = f
		return func() error { return errors.Join(cmd.Run(), f.Close()) }, err
	})
	if err != nil {
		return err
	}
	if err := ends.send(ctx, path); err != nil {
		return err
	}
	return b.compare("fetch an item of 512 MiB over SSH, `ssh host cat`", func() (func() error, error) {
		_, err := ends.other.CollectGarbage(ctx, store.GCOptions{})
		return func() error { return ends.fetch(ctx, path) }, err
	}, func() (func() error, error) {
		f, err := os.Create(out)
		cmd := server.ssh(ctx, "cat "+big)
		cmd.Stdout = f
		return func() error { return errors.Join(cmd.Run(), f.Close()) }, err
	})
}

// ends are a store on each side of a connection, and one more to fetch into.
type ends struct {
	head, other *local.Store
	link        *sshtransport.Client
	agent       *agentapi.Client
	state       string
}

func newEnds(ctx context.Context, folder string, server *sshd) (*ends, error) {
	key, err := signature.GenerateKey()
	if err != nil {
		return nil, err
	}
	acl := new(signature.ACL)
	acl.Add(key.Public())
	e := &ends{state: filepath.Join(folder, "agent")}
	open := func(name string) (*local.Store, error) {
		return local.Open(local.Options{Root: filepath.Join(folder, name), Key: key, ACL: func() (*signature.ACL, error) { return acl, nil }})
	}
	if e.head, err = open("head"); err != nil {
		return nil, err
	}
	if e.other, err = open("other"); err != nil {
		return nil, err
	}
	authorize, err := json.Marshal(map[string][]string{"authorize": {key.Public().String()}})
	if err != nil {
		return nil, err
	}
	e.link = sshtransport.New(sshtransport.Config{
		Machine: "bench", Addr: server.addr, User: server.user, PrivateKey: server.userKey, HostKey: server.hostKey,
		Ciphers: []string{sshCipher},
		Bootstrap: sshtransport.Bootstrap{
			Agents: agentBinary, Args: []string{"--state-directory", e.state}, RemoteDir: filepath.Join(folder, "agents"), StartInput: authorize,
		},
	})
	e.agent = agentapi.NewClient(e.link.DialAgent)
	m, err := e.agent.Machine(ctx)
	if err != nil {
		return nil, err
	}
	agentKey, err := signature.ParsePublicKey([]byte(m.PublicKey))
	if err != nil {
		return nil, err
	}
	acl.Add(agentKey)
	return e, nil
}

// agentBinary finds what `make build` made.
func agentBinary(_ context.Context, _, _ string) (*sshtransport.AgentBinary, error) {
	const file = "build/lighter-agent"
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w; run make build", err)
	}
	return &sshtransport.AgentBinary{
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil },
		Size: int64(len(text)), SHA256: sha256.Sum256(text),
	}, nil
}

func (e *ends) close() {
	e.agent.Close()
	_ = e.link.Close()
	stop := exec.Command("build/lighter-agent", "stop", "--state-directory", e.state) //nolint:noctx // it must run even when the context has ended
	_ = stop.Run()
	_ = e.head.Close()
	_ = e.other.Close()
}

func (e *ends) add(ctx context.Context, file string) (store.Path, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(packInto(w, file)) }()
	return e.head.AddNAR(ctx, "bench-item", r)
}

func (e *ends) send(ctx context.Context, path store.Path) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(e.head.Export(ctx, w, []store.Path{path})) }()
	_, err := e.agent.Import(ctx, r)
	return err
}

func (e *ends) fetch(ctx context.Context, path store.Path) error {
	r, err := e.agent.Export(ctx, []store.Path{path})
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = e.other.Import(ctx, r, store.ImportOptions{})
	return err
}

// sshd is a real OpenSSH server on loopback.
type sshd struct {
	cmd                         *exec.Cmd
	addr, port                  string
	user, userKey, hostKey, dir string
}

func startSSHD(ctx context.Context, folder string) (*sshd, error) {
	s := &sshd{dir: filepath.Join(folder, "sshd")}
	s.userKey = filepath.Join(s.dir, "user")
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"host", "user"} {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, name)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	hostKey, err := os.ReadFile(filepath.Join(s.dir, "host.pub"))
	if err != nil {
		return nil, err
	}
	s.hostKey = strings.TrimSpace(string(hostKey))
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	s.user = me.Username
	if me.Uid == "0" {
		// Where sshd of the system never ran, its folder for privilege separation is missing.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	if s.addr, err = freeAddr(); err != nil {
		return nil, err
	}
	_, s.port, _ = net.SplitHostPort(s.addr)
	config := fmt.Sprintf("ListenAddress 127.0.0.1\nPort %s\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nSubsystem sftp internal-sftp\nLogLevel ERROR\n", s.port, s.dir, s.dir)
	file := filepath.Join(s.dir, "config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(ctx, "/usr/sbin/sshd", "-D", "-e", "-f", file)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if err = s.ssh(ctx, "true").Run(); err == nil {
			return s, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.stop()
	return nil, fmt.Errorf("sshd does not answer: %w", err)
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *sshd) ssh(ctx context.Context, command string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", "-F", "none", "-q", "-c", sshCipher, "-i", s.userKey, "-p", s.port,
		"-o", "UserKnownHostsFile="+filepath.Join(s.dir, "known"), "-o", "StrictHostKeyChecking=no", s.user+"@127.0.0.1", command)
}

func (s *sshd) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}
