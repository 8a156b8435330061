package sshtransport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
)

// defaultKeys are the names in ~/.ssh of keys to try.
var defaultKeys = []string{"id_ed25519", "id_ecdsa", "id_rsa"}

// credentials are the keys to log in with.
type credentials struct {
	signers  []ssh.Signer
	offered  []string // what they are, for errors
	unusable []string
	agent    io.Closer // nil if there is no ssh-agent
}

// close gives the connection to the ssh-agent back; the signers are of no use then.
func (c *credentials) close() {
	if c.agent != nil {
		c.agent.Close()
	}
}

func (c *credentials) add(signer ssh.Signer, source string) {
	for _, s := range c.signers {
		if keysEqual(s.PublicKey(), signer.PublicKey()) {
			return
		}
	}
	signer, err := modern(signer)
	if err != nil {
		c.unusable = append(c.unusable, source+": "+err.Error())
		return
	}
	c.signers = append(c.signers, signer)
	c.offered = append(c.offered, describeKey(signer.PublicKey())+" ("+source+")")
}

// loadCredentials finds the keys. With Config.PrivateKey set, only that one is used.
// The context bounds the wait for the ssh-agent.
func loadCredentials(ctx context.Context, cfg *Config) (*credentials, error) {
	c := new(credentials)
	held := c.askAgent(ctx)
	if cfg.PrivateKey != "" {
		if err := c.useKey(cfg.PrivateKey, held); err != nil {
			c.close()
			return nil, err
		}
		return c, nil
	}
	for _, signer := range held {
		c.add(signer, "ssh-agent")
	}
	for _, file := range defaultKeyFiles() {
		err := c.useKey(file, held)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.unusable = append(c.unusable, err.Error())
		}
	}
	return c, nil
}

// defaultKeyFiles are those that ssh(1) tries; none for a user without a home.
func defaultKeyFiles() []string {
	home := os.Getenv("HOME")
	if home == "" {
		return nil
	}
	files := make([]string, len(defaultKeys))
	for i, name := range defaultKeys {
		files[i] = filepath.Join(home, ".ssh", name)
	}
	return files
}

// useKey adds the key in a file. A key with a passphrase is looked for among those
// that the ssh-agent holds.
func (c *credentials) useKey(file string, held []ssh.Signer) error {
	signer, err := LoadPrivateKey(file)
	if err == nil {
		c.add(signer, file)
		return nil
	}
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) && locked.PublicKey != nil {
		for _, s := range held {
			if keysEqual(s.PublicKey(), locked.PublicKey) {
				c.add(s, file+", by ssh-agent")
				return nil
			}
		}
	}
	return err
}

// askAgent returns the keys of the ssh-agent; if there are none, why not is noted.
func (c *credentials) askAgent(ctx context.Context) []ssh.Signer {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		c.unusable = append(c.unusable, fmt.Sprintf("ssh-agent: %v", err))
		return nil
	}
	c.agent = conn
	// The agent asks its owner for some keys; that ends with ctx too.
	context.AfterFunc(ctx, func() { conn.Close() })
	signers, err := sshagent.NewClient(conn).Signers()
	if err != nil {
		c.unusable = append(c.unusable, fmt.Sprintf("ssh-agent: %v", err))
	}
	return signers
}

// LoadPrivateKey reads a private key to log in with. Its errors are *KeyError.
func LoadPrivateKey(file string) (ssh.Signer, error) {
	what := "private key " + file
	text, info, err := readSmallFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &KeyError{What: what, Reason: "there is no such file", Cause: err}
	case err != nil:
		return nil, &KeyError{What: what, Cause: err}
	}
	if err := checkPrivate(info); err != nil {
		return nil, &KeyError{What: what, Reason: err.Error() + ": chmod 600 " + file}
	}
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, &KeyError{What: what, Reason: "it has a passphrase: give it to ssh-agent with ssh-add", Cause: err}
	case err != nil && strings.HasPrefix(strings.TrimSpace(string(text)), "ssh-"):
		return nil, &KeyError{What: what, Reason: "it is a public key", Cause: err}
	case err != nil:
		return nil, &KeyError{What: what, Cause: err}
	}
	return signer, nil
}

// maxKeyFile is more bytes than a key has.
const maxKeyFile = 1 << 20

func readSmallFile(file string) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, nil, fmt.Errorf("%s is not a key: it is not a regular file, or too long", file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	return text, info, err
}

// checkPrivate refuses what ssh(1) refuses: a file of ours that others can use.
func checkPrivate(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int64(stat.Uid) != int64(os.Getuid()) {
		return nil
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("its permissions %04o let others use it", mode)
	}
	return nil
}
