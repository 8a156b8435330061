package sshtransport

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys decides which host key a machine may show.
type hostKeys struct {
	addr       string
	wanted     []KnownKey // empty if nothing is known
	algorithms []string   // to negotiate; nil for any
	check      ssh.HostKeyCallback
}

// newHostKeys reads the pinned key, or the known_hosts files, again: a person may have
// changed them since the last connection.
func newHostKeys(cfg *Config) (*hostKeys, error) {
	if cfg.HostKey != "" {
		return pinnedHostKey(cfg)
	}
	return knownHostKeys(cfg)
}

// usable returns the algorithms to negotiate.
func (h *hostKeys) usable() []string {
	if h.algorithms == nil {
		return slices.Concat(certificates, signatures)
	}
	return h.algorithms
}

func pinnedHostKey(cfg *Config) (*hostKeys, error) {
	key, err := ParseHostKey(cfg.HostKey)
	if err != nil {
		return nil, &KeyError{What: "host key of machine " + cfg.Machine, Cause: err}
	}
	source := cfg.HostKeySource
	if source == "" {
		source = "host-key of machine " + cfg.Machine
	}
	h := &hostKeys{addr: cfg.Addr, wanted: []KnownKey{{key, source}}, algorithms: keyAlgorithms(key.Type())}
	h.check = func(_ string, _ net.Addr, found ssh.PublicKey) error {
		if keysEqual(key, found) {
			return nil
		}
		return &HostKeyError{Addr: cfg.Addr, Found: found, Wanted: h.wanted}
	}
	return h, nil
}

func knownHostKeys(cfg *Config) (*hostKeys, error) {
	files, present := knownHostsFiles(cfg.KnownHosts)
	if len(files) == 0 {
		return nil, &KeyError{What: "host key of machine " + cfg.Machine, Reason: "there is no host-key, and no known_hosts file to look into"}
	}
	db, err := knownhosts.NewDB(present...)
	if err != nil {
		return nil, &KeyError{What: "known hosts", Cause: err}
	}
	callback := db.HostKeyCallback()
	h := &hostKeys{addr: cfg.Addr}
	// The library's own list of keys does not say where they stand. But a key that nobody
	// has makes it say which ones it would take.
	var known *xknownhosts.KeyError
	if errors.As(callback(cfg.Addr, anyAddr, noKey), &known) {
		listed := db.HostKeys(cfg.Addr)
		for _, k := range known.Want {
			source := fmt.Sprintf("%s:%d", k.Filename, k.Line)
			if slices.ContainsFunc(listed, func(p knownhosts.PublicKey) bool { return p.Cert && keysEqual(p, k.Key) }) {
				source += ", an authority"
			}
			h.wanted = append(h.wanted, KnownKey{k.Key, source})
		}
	}
	h.check = func(_ string, _ net.Addr, found ssh.PublicKey) error {
		err := callback(cfg.Addr, anyAddr, found)
		if err == nil && !h.names(found) {
			// Where a file has a wildcard, the library also takes at any port what is known of
			// port 22.
			err = &xknownhosts.KeyError{}
		}
		return h.explain(err, found, files)
	}
	// A key that is known comes before a certificate, which may be of another authority.
	var certified []string
	for _, algorithm := range db.HostKeyAlgorithms(cfg.Addr) {
		switch {
		case algorithm == ssh.KeyAlgoRSA, algorithm == ssh.CertAlgoRSAv01: // they use SHA-1
		case slices.Contains(certificates, algorithm):
			certified = append(certified, algorithm)
		default:
			h.algorithms = append(h.algorithms, algorithm)
		}
	}
	h.algorithms = append(h.algorithms, certified...)
	return h, nil
}

// names reports whether a line names a key, or the authority that signed it.
func (h *hostKeys) names(found ssh.PublicKey) bool {
	if cert, ok := found.(*ssh.Certificate); ok {
		found = cert.SignatureKey
	}
	return slices.ContainsFunc(h.wanted, func(k KnownKey) bool { return keysEqual(k.Key, found) })
}

// explain turns what package knownhosts says into the errors of this package.
func (h *hostKeys) explain(err error, found ssh.PublicKey, files []string) error {
	var mismatch *xknownhosts.KeyError
	var revoked *xknownhosts.RevokedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &revoked):
		reason := fmt.Sprintf("it is revoked (%s:%d)", revoked.Revoked.Filename, revoked.Revoked.Line)
		return &HostKeyError{Addr: h.addr, Found: found, Wanted: h.wanted, Reason: reason}
	case errors.As(err, &mismatch) && len(h.wanted) == 0:
		return &UnknownHostError{Addr: h.addr, Found: found, Files: files}
	case errors.As(err, &mismatch):
		return &HostKeyError{Addr: h.addr, Found: found, Wanted: h.wanted}
	}
	return &HostKeyError{Addr: h.addr, Found: found, Wanted: h.wanted, Reason: err.Error()}
}

// anyAddr stands in for the address that package knownhosts wants but does not use
// where it is given a name.
var anyAddr = &net.TCPAddr{}

// noKey is nobody's.
var noKey = func() ssh.PublicKey {
	key, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		panic(err) // its size is right
	}
	return key
}()

// knownHostsFiles returns the files to search, and those of them that exist.
func knownHostsFiles(files []string) (all, present []string) {
	if files == nil {
		if home, err := os.UserHomeDir(); err == nil {
			files = append(files, filepath.Join(home, ".ssh", "known_hosts"))
		}
		files = append(files, "/etc/ssh/ssh_known_hosts")
	}
	for _, file := range files {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			present = append(present, file) // one that cannot be read is an error later
		}
	}
	return files, present
}

// keyAlgorithms returns the signature algorithms to negotiate for a type of key. An
// RSA key signs with SHA-2 (RFC 8332).
func keyAlgorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return rsaSignatures
	}
	return []string{keyType}
}

// algorithmKeyTypes is the way back, for errors.
func algorithmKeyTypes(algorithms []string) []string {
	var types []string
	for _, a := range algorithms {
		if a == ssh.KeyAlgoRSASHA256 || a == ssh.KeyAlgoRSASHA512 {
			a = ssh.KeyAlgoRSA
		}
		if a = printable(a); !slices.Contains(types, a) {
			types = append(types, a)
		}
	}
	return types
}

func keysEqual(a, b ssh.PublicKey) bool { return string(a.Marshal()) == string(b.Marshal()) }

// ParseHostKey reads a public key as "TYPE BASE64 [COMMENT]".
func ParseHostKey(text string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is not a public key of the form TYPE BASE64: %w", truncate(text, 100), err)
	case len(options) > 0 || len(strings.TrimSpace(string(rest))) > 0:
		return nil, fmt.Errorf("%q is more than one public key", truncate(text, 100))
	}
	return key, nil
}

// FormatHostKey returns a key in the form that the machines file has it in.
func FormatHostKey(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

func knownHostsLine(addr string, key ssh.PublicKey) string {
	return knownhosts.Line([]string{addr}, key)
}
