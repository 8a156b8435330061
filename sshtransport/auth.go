package sshtransport

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
)

// defaultKeys are the names in ~/.ssh of keys to try.
var defaultKeys = []string{"id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"}

// credentials are the keys to log in with.
type credentials struct {
	signers  []*offer
	unusable []string
	locked   []string  // files of keys that only an ssh-agent could use
	agent    io.Closer // nil if there is no ssh-agent
	held     []heldKey // what it has
}

// offer is a key that can be offered, and whether it was.
type offer struct {
	ssh.MultiAlgorithmSigner
	text    string // what it is, for errors
	offered bool
}

// PublicKey is what the SSH library calls when it is the key's turn.
func (o *offer) PublicKey() ssh.PublicKey {
	o.offered = true
	return o.MultiAlgorithmSigner.PublicKey()
}

func (o *offer) key() ssh.PublicKey { return o.MultiAlgorithmSigner.PublicKey() }

// heldKey is a key, or a certificate for one, that ssh-agent has.
type heldKey struct {
	ssh.AlgorithmSigner
	parsed ssh.PublicKey
}

// plain returns the key itself of a certificate.
func plain(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// close gives the connection to the ssh-agent back; the signers are of no use then.
func (c *credentials) close() {
	if c.agent != nil {
		c.agent.Close()
	}
}

// method is how to log in with them.
func (c *credentials) method() ssh.AuthMethod {
	signers := make([]ssh.Signer, len(c.signers))
	for i, o := range c.signers {
		signers[i] = o
	}
	return ssh.PublicKeys(signers...)
}

// add adds a key, or a certificate, unless it is there.
func (c *credentials) add(signer ssh.Signer, key ssh.PublicKey, source string) {
	if slices.ContainsFunc(c.signers, func(o *offer) bool { return keysEqual(o.key(), key) }) {
		return
	}
	able, err := modern(signer, key)
	if err != nil {
		c.unusable = append(c.unusable, source+": "+err.Error())
		return
	}
	c.signers = append(c.signers, &offer{MultiAlgorithmSigner: able, text: describeLogin(key) + " (" + source + ")"})
}

// describeLogin says what a key is, and of a certificate what may keep a server from accepting it.
func describeLogin(key ssh.PublicKey) string {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return describeKey(key)
	}
	text := "certificate of " + describeKey(cert.Key) + ", signed by " + ssh.FingerprintSHA256(cert.SignatureKey)
	now := uint64(time.Now().Unix()) // #nosec G115 -- after 1970
	switch {
	case cert.CertType != ssh.UserCert:
		text += ", which is a host's"
	case now < cert.ValidAfter:
		text += ", not valid yet"
	case now >= cert.ValidBefore:
		text += ", which has expired"
	}
	if len(cert.ValidPrincipals) > 0 {
		text += ", for " + truncate(printable(strings.Join(cert.ValidPrincipals, ", ")), 100)
	}
	return text
}

// loadCredentials finds the keys. With Config.PrivateKey set, only that one is used.
// The context bounds the wait for the ssh-agent.
func loadCredentials(ctx context.Context, cfg *Config) (*credentials, error) {
	c := new(credentials)
	c.askAgent(ctx, cfg)
	if cfg.PrivateKey != "" {
		if err := c.useKey(cfg, cfg.PrivateKey); err != nil {
			c.close()
			return nil, err
		}
		return c, nil
	}
	files := cfg.Identities
	if files == nil {
		files = defaultKeyFiles()
	}
	// As ssh(1) does: first what the ssh-agent has of the files, then its other keys.
	for _, file := range files {
		if key, err := publicOf(file); err == nil {
			c.useHeld(key, file)
		}
	}
	if !cfg.IdentitiesOnly {
		for _, h := range c.held {
			c.add(h, h.parsed, "ssh-agent")
		}
	}
	for _, file := range files {
		err := c.useKey(cfg, file)
		if err != nil && (cfg.Identities != nil || !errors.Is(err, fs.ErrNotExist)) {
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

// useKey adds the key in a file, its certificates first. What the file alone is not enough for
// (a passphrase, a key in hardware, a public key) is left to ssh-agent, if that has the key.
func (c *credentials) useKey(cfg *Config, file string) error {
	signer, err := LoadPrivateKey(file)
	if err == nil {
		c.useCertificates(cfg, file, signer)
		c.useHeldCertificates(signer.PublicKey(), file)
		c.add(signer, signer.PublicKey(), file)
		return nil
	}
	key, publicErr := publicOf(file)
	if publicErr != nil {
		return err
	}
	if c.useHeld(key, file) {
		return nil
	}
	var unusable *KeyError
	if errors.As(err, &unusable) && unusable.Locked {
		c.locked = append(c.locked, file)
		unusable.Reason += "; " + agentLacks(cfg, file)
	}
	return err
}

// agentLacks says why ssh-agent is no help with a key.
func agentLacks(cfg *Config, file string) string {
	switch socket := agentSocket(cfg); {
	case socket != "":
		return fmt.Sprintf("the ssh-agent at %s does not have it: ssh-add %s", socket, file)
	case cfg.IdentityAgent != "":
		return "its configuration forbids ssh-agent (IdentityAgent)"
	}
	return "there is no ssh-agent to ask: SSH_AUTH_SOCK was not set where this process was started"
}

// useHeld adds what the ssh-agent has of a key, and reports whether that is anything.
func (c *credentials) useHeld(key ssh.PublicKey, file string) bool {
	c.useHeldCertificates(key, file)
	found := false
	for _, h := range c.held {
		if keysEqual(plain(h.parsed), key) {
			c.add(h, h.parsed, file+", by ssh-agent")
			found = true
		}
	}
	return found
}

func (c *credentials) useHeldCertificates(key ssh.PublicKey, file string) {
	for _, h := range c.held {
		if cert, ok := h.parsed.(*ssh.Certificate); ok && keysEqual(cert.Key, key) {
			c.add(h, cert, "for "+file+", in ssh-agent")
		}
	}
}

// useCertificates adds the certificates for a key that are in files.
func (c *credentials) useCertificates(cfg *Config, file string, signer ssh.Signer) {
	for i, name := range append([]string{strings.TrimSuffix(file, ".pub") + "-cert.pub"}, cfg.Certificates...) {
		key, err := loadPublicKey(name)
		cert, ok := key.(*ssh.Certificate)
		switch {
		case errors.Is(err, fs.ErrNotExist) && i == 0:
		case err != nil:
			c.unusable = append(c.unusable, fmt.Sprintf("certificate %s: %v", name, err))
		case !ok:
			c.unusable = append(c.unusable, fmt.Sprintf("certificate %s: it is a key", name))
		case keysEqual(cert.Key, signer.PublicKey()):
			c.addCertified(cert, signer, name)
		case i == 0:
			c.unusable = append(c.unusable, fmt.Sprintf("certificate %s: it is for another key, %s", name, describeKey(cert.Key)))
		}
	}
}

func (c *credentials) addCertified(cert *ssh.Certificate, signer ssh.Signer, name string) {
	able, err := modern(signer, cert.Key)
	if err == nil {
		signer, err = ssh.NewCertSigner(cert, able)
	}
	if err != nil {
		c.unusable = append(c.unusable, fmt.Sprintf("certificate %s: %v", name, err))
		return
	}
	c.add(signer, cert, name)
}

// agentSocket returns the socket of the ssh-agent; empty if there is none.
func agentSocket(cfg *Config) string {
	switch cfg.IdentityAgent {
	case "":
		return os.Getenv("SSH_AUTH_SOCK")
	case "none":
		return ""
	}
	return cfg.IdentityAgent
}

// askAgent notes the keys of the ssh-agent; if there are none, why not.
func (c *credentials) askAgent(ctx context.Context, cfg *Config) {
	socket := agentSocket(cfg)
	if socket == "" {
		return
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		c.unusable = append(c.unusable, fmt.Sprintf("ssh-agent: %v", err))
		return
	}
	c.agent = conn
	// The agent asks its owner for some keys; that ends with ctx too.
	context.AfterFunc(ctx, func() { conn.Close() })
	signers, err := sshagent.NewClient(conn).Signers()
	if err != nil {
		c.unusable = append(c.unusable, fmt.Sprintf("ssh-agent: %v", err))
	}
	for _, s := range signers {
		able, ok := s.(ssh.AlgorithmSigner)
		parsed, err := ssh.ParsePublicKey(s.PublicKey().Marshal())
		if ok && err == nil { // a type that the library does not know can't be used either
			c.held = append(c.held, heldKey{able, parsed})
		}
	}
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
	key := publicPart(text)
	switch {
	case err == nil:
		return signer, nil
	case errors.As(err, &locked):
		return nil, &KeyError{What: what, Reason: "it has a passphrase, so that only ssh-agent can use it", Locked: true, Cause: err}
	case key != nil && strings.HasPrefix(key.Type(), "sk-"):
		return nil, &KeyError{What: what, Reason: "it is of type " + key.Type() + ", in a hardware token, so that only ssh-agent can use it", Locked: true, Cause: err}
	case isPublic(text):
		return nil, &KeyError{What: what, Reason: "it is a public key, so that only ssh-agent can use it", Locked: true, Cause: err}
	}
	return nil, &KeyError{What: what, Reason: foreignKey(text), Cause: err}
}

// foreignKey says what is in a file that has no private key in a format that is read, where
// that is known.
func foreignKey(text []byte) string {
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return "it is empty"
	case bytes.HasPrefix(text, []byte("PuTTY-User-Key-File-")):
		return "it is in the format of PuTTY: puttygen can write it anew, with -O private-openssh"
	case bytes.HasPrefix(text, []byte("-----BEGIN ")) && bytes.Contains(text, []byte(`-----\n`)):
		return `its lines end in \n written out, and want line breaks`
	case !bytes.Contains(text, []byte("-----BEGIN ")):
		return "it is no private key as ssh-keygen writes them: none of its lines begins with -----BEGIN"
	}
	return ""
}

func isPublic(text []byte) bool {
	_, _, _, _, err := ssh.ParseAuthorizedKey(text)
	return err == nil
}

// publicOf returns the public key of a file with a private one, which need not be usable: its own,
// else that in FILE.pub.
func publicOf(file string) (ssh.PublicKey, error) {
	text, _, err := readSmallFile(file)
	if err == nil {
		if key := publicPart(text); key != nil {
			return key, nil
		}
		if key, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
			return plain(key), nil
		}
		if signer, err := ssh.ParsePrivateKey(text); err == nil {
			return signer.PublicKey(), nil
		}
	}
	return loadPublicKey(file + ".pub")
}

// loadPublicKey reads a file with one public key, or a certificate.
func loadPublicKey(file string) (ssh.PublicKey, error) {
	text, _, err := readSmallFile(file)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	return key, err
}

// publicPart returns the public key in a private one of OpenSSH's format, where it stands in the
// clear (OpenSSH's PROTOCOL.key); else nil.
func publicPart(text []byte) ssh.PublicKey {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "OPENSSH PRIVATE KEY" {
		return nil
	}
	rest, ok := bytes.CutPrefix(block.Bytes, []byte("openssh-key-v1\x00"))
	if !ok {
		return nil
	}
	var head struct {
		Cipher, KDF, Options string
		Keys                 uint32
		Public               []byte
		Rest                 []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(rest, &head) != nil || head.Keys != 1 {
		return nil
	}
	key, err := ssh.ParsePublicKey(head.Public)
	if err != nil {
		return nil
	}
	return key
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
