package machinetest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/internal/agentapi"
	"lighter/machines"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
	"lighter/store"
)

// TestAdvice has what cannot be provoked with servers of a test.
func TestAdvice(t *testing.T) {
	key := sshtest.NewKey(t).PublicKey()
	line := sshtransport.FormatHostKey(key)
	known := []sshtransport.KnownKey{{Key: key, Source: "known_hosts:3"}}
	m := &machines.Machine{Name: "m", Host: "h", Port: 2222, User: "u", DaemonSocket: machines.DefaultDaemonSocket}
	pinned := *m
	pinned.HostKey = line
	keyed, jumped, public := *m, *m, *m
	keyed.PrivateKey, jumped.ProxyJump, public.PrivateKey = "/k", "j", "/k.pub"
	t.Setenv("SSH_AUTH_SOCK", "")
	for _, tt := range []struct {
		name   string
		format machines.Format
		m      *machines.Machine
		err    error
		login  bool
		want   string
	}{
		{"wrong key, Guix", machines.Guix, &pinned, &sshtransport.HostKeyError{Found: key, Wanted: known}, true, `(host-key "` + line + `")`},
		{"wrong key, TOML", machines.TOML, &pinned, &sshtransport.HostKeyError{Found: key, Wanted: known}, true, `host-key = "` + line + `"`},
		{"wrong key, known_hosts", machines.TOML, m, &sshtransport.HostKeyError{Found: key, Wanted: known}, true, "ssh-keygen -R '[h]:2222'"},
		{"other type of key", machines.TOML, &pinned, &sshtransport.HostKeyError{Wanted: known, Types: []string{"ssh-rsa"}}, true, "ssh-keyscan -p 2222 -t rsa h"},
		{"no key to offer", machines.TOML, m, &sshtransport.AuthError{User: "u"}, true, "make a key: ssh-keygen -t ed25519"},
		{"key of another user", machines.TOML, m, &sshtransport.KeyError{What: "private key", Cause: fs.ErrPermission}, true, "take private-key out of the entry of m in f: then /home/u/.ssh/id_ed25519 and the other usual keys"},
		{"unknown name", machines.TOML, m, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "h"}}, true, "put a name or address that can be found from here into the entry of m in f"},
		{"no route", machines.TOML, m, &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, true, "a firewall drops port 2222"},
		{"no answer", machines.TOML, m, &sshtransport.ConnectError{Addr: "h:2222", Cause: context.DeadlineExceeded}, true, "ping h"},
		{"no SSH", machines.TOML, m, &sshtransport.ConnectError{Addr: "h:2222", Answered: true, Cause: io.EOF}, true, "ssh -v -p 2222 u@h"},
		{"disk full", machines.TOML, m, fmt.Errorf("upload the agent: %w", syscall.ENOSPC), false, "ssh -p 2222 u@h df -h"},
		{"can't be written", machines.TOML, m, &sshtransport.WriteError{Free: 123, Cause: fs.ErrInvalid}, false, `agent-directory = "/scratch/u"`},
		{"read-only", machines.TOML, m, &sshtransport.DirectoryError{Errno: syscall.EROFS, Cause: fs.ErrInvalid}, false, `agent-directory = "/scratch/u"`},
		{"noexec", machines.Nix, m, &sshtransport.DirectoryError{Errno: syscall.EACCES, NoExec: true, Cause: fs.ErrInvalid}, false, "lighter machines import f"},
		{"no agent", machines.TOML, m, &sshtransport.BinaryError{Platform: "linux/arm", Cause: fs.ErrPermission}, false, ""},
		{"algorithms", machines.TOML, m, &sshtransport.AlgorithmsError{Addr: "h:2222", What: "key exchange"}, true, "put into the entry of m in f:\ntransport = \"openssh\""},
		{"algorithms, Guix", machines.Guix, m, &sshtransport.AlgorithmsError{Addr: "h:2222", What: "key exchange"}, true, "lighter machines import f > machines.toml"},
		{"second factor", machines.TOML, m, &sshtransport.ProgramError{Said: "u@h: Permission denied (keyboard-interactive)."}, true, "ControlPersist yes"},
		{"ssh fails", machines.TOML, m, &sshtransport.ProgramError{Said: "Connection refused"}, true, "ssh -p 2222 u@h -v true"},
		{"locked key", machines.TOML, &keyed, &sshtransport.KeyError{What: "private key", Locked: true}, true, "eval $(ssh-agent) && ssh-add /k, and start from the same shell"},
		{"public key", machines.TOML, &public, &sshtransport.KeyError{What: "private key", Locked: true}, true, "name the private key in the entry of m in f: /k\nor "},
		{"too many keys", machines.TOML, m, &sshtransport.AuthError{User: "u", Keys: []string{"a"}, NotOffered: []string{"b"}}, true, "name the key that the machine knows as private-key in "},
		{"locked usual key", machines.TOML, m, &sshtransport.AuthError{User: "u", Locked: []string{"/k"}}, true, "ssh-keygen -p -N '' -f /k"},
		{"certificate", machines.TOML, m, &sshtransport.HostKeyError{Found: key, Wanted: known, Reason: "its certificate does not count"}, true, "sign a certificate for [h]:2222"},
		{"revoked", machines.TOML, m, &sshtransport.HostKeyError{Found: key, Wanted: known, Reason: "it is revoked (f:1)"}, true, "revoked on purpose"},
		{
			"unknown jump host", machines.TOML, m,
			&sshtransport.HopError{Addr: "j:22", User: "v", Cause: &sshtransport.UnknownHostError{Addr: "j:22", Name: "j", Found: key, Files: []string{"/kh"}}},
			true, "the one on j; if it is right, put into /kh:\nj " + line,
		},
		{"jump host down", machines.TOML, m, &sshtransport.HopError{Addr: "j:2200", User: "v", Cause: syscall.ECONNREFUSED}, true, "ssh -p 2200 v@j true"},
		{"jump host refuses", machines.TOML, m, &sshtransport.HopError{Addr: "j:22", User: "v", Cause: &sshtransport.AuthError{Keys: []string{"k"}}}, true, "ssh-copy-id v@j"},
		{"through a proxy", machines.TOML, &jumped, &sshtransport.ConnectError{Addr: "h:22", Answered: true, Cause: io.EOF}, true, "ssh -v -p 2222 -o ProxyJump=j u@h"},
		{"down", machines.TOML, m, syscall.ECONNREFUSED, true, "start sshd on h"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &Advice{File: "f", Format: tt.format, Home: "/home/u"}
			got := a.Explain(tt.m, tt.err)
			if got.Login != tt.login || !strings.Contains(got.Fix, tt.want) || (got.Fix == "") != (tt.want == "") {
				t.Errorf("got %v: %s\nwant %v: %s", got.Login, got.Fix, tt.login, tt.want)
			}
		})
	}
}

// TestStoreAdvice has what a machine with guix-daemon says, from a real one.
func TestStoreAdvice(t *testing.T) {
	const connect = "connect to guix-daemon on /var/guix/daemon-socket/socket: dial unix /var/guix/daemon-socket/socket: connect: "
	m := &machines.Machine{Name: "m", Host: "h", Port: machines.DefaultPort, User: "u", DaemonSocket: machines.DefaultDaemonSocket}
	a := &Advice{Head: Head{StoreKind: machines.StoreDaemon, KeyFile: "/etc/guix/signing-key.pub"}, File: "f"}
	info := &agentapi.Machine{StoreKind: machines.StoreDaemon, StoreDir: store.DefaultDir}
	for _, tt := range []struct{ problem, text, fix string }{
		{
			connect + "no such file or directory; start guix-daemon (herd start guix-daemon), or say --daemon-socket",
			connect + "no such file or directory", "start guix-daemon there (systemctl start guix-daemon; herd start guix-daemon), or put the socket on which it listens as daemon-socket into the entry of m in f",
		},
		{connect + "connection refused", connect + "connection refused", "start guix-daemon there"},
		{connect + "permission denied; let this user use the socket", connect + "permission denied", "let u use guix-daemon's socket there: ssh u@h ls -ld /var/guix/daemon-socket "},
		{"guix-daemon has no key to sign what was built: no such file; as root, run: guix archive --generate-key", "guix-daemon has no key to sign what was built: no such file", "as root on h: guix archive --generate-key"},
		{"export: getting status of `/etc/guix/signing-key.sec': No such file or directory", "export: getting status of `/etc/guix/signing-key.sec': No such file or directory", "as root on h: guix archive --generate-key"},
		{"the moon is full", "the moon is full", ""},
	} {
		info.BuildProblem = tt.problem
		text, fix := a.StoreProblem(m, info)
		if text != tt.text || !strings.HasPrefix(fix, tt.fix) || (fix == "") != (tt.fix == "") {
			t.Errorf("%s: got %q, %q", tt.problem, text, fix)
		}
	}
	if got, want := a.farACLFix(m, info), "ssh root@h guix archive --authorize < /etc/guix/signing-key.pub"; !strings.HasSuffix(got, want) {
		t.Errorf("far ACL: got %q, want %q", got, want)
	}
}

func TestClock(t *testing.T) {
	for _, tt := range []struct {
		skew time.Duration
		want string
		far  bool
	}{
		{0, "as the head's", false},
		{-900 * time.Microsecond, "as the head's", false},
		{20 * time.Second, "20s ahead of the head's", false},
		{-20 * time.Second, "20s behind the head's", false},
		{61 * time.Second, "1m1s ahead of the head's", true},
		{-time.Hour, "1h0m0s behind the head's", true},
	} {
		r := &Reached{Skew: tt.skew, RoundTrip: time.Millisecond}
		if got, far := r.Clock(); got != tt.want || far != tt.far {
			t.Errorf("%s: got %q, %v", tt.skew, got, far)
		}
	}
}

func TestSSHCopyID(t *testing.T) {
	m := &machines.Machine{Host: "h", Port: 22, User: "u"}
	if got, want := sshCopyID(m, "/a b/key"), "ssh-copy-id -i '/a b/key.pub' u@h"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestShowHostKey runs what people are told to run on the machine, with the file that an sshd has there.
func TestShowHostKey(t *testing.T) {
	command := showHostKey(sshtest.NewKey(t).PublicKey())
	if want := "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"; command != want {
		t.Fatalf("got %s, want %s", command, want)
	}
	if _, err := os.Stat("/etc/ssh/ssh_host_ed25519_key.pub"); err != nil {
		t.Skip("no sshd has its keys here")
	}
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil || !strings.Contains(string(out), "SHA256:") {
		t.Errorf("%s: %s%v", command, out, err)
	}
}

// TestLoginFix has the coordinator's own key, which is not that of who reads the advice.
func TestLoginFix(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, ".ssh", "id_ed25519")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{file: "secret", file + ".pub": "ssh-ed25519 AAAA lighter@head\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &Advice{Home: home}
	got := a.loginFix(&machines.Machine{Name: "m", Host: "h", Port: 2222, User: "offload"}, &sshtransport.AuthError{Keys: []string{"ssh-ed25519"}})
	for _, want := range []string{"ssh-copy-id -i " + file + ".pub -p 2222 offload@h\n", "append to ~offload/.ssh/authorized_keys there:\nssh-ed25519 AAAA lighter@head\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}
