package sshtransport

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// hostKeys decides which host key a machine may show.
type hostKeys struct {
	addr       string
	wanted     []KnownKey // empty if nothing is known
	unreadable []string   // lines of known_hosts that might be about the machine
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

// knownHostKeys looks into known_hosts, as ssh(1) does: what is known of the host at its port
// counts; where that is nothing, a key that is right for the host at another one does, too.
func knownHostKeys(cfg *Config) (*hostKeys, error) {
	files := knownHostsFiles(cfg.KnownHosts)
	if len(files) == 0 {
		return nil, &KeyError{What: "host key of machine " + cfg.Machine, Reason: "there is no host-key, and no known_hosts file to look into"}
	}
	names, principal := knownHostsNames(cfg)
	known := readKnownHosts(files, names[0])
	h := &hostKeys{addr: cfg.Addr, wanted: slices.Concat(known.keys, known.authorities), unreadable: known.unreadable}
	if len(h.wanted) == 0 && len(names) > 1 {
		elsewhere := readKnownHosts(files, names[1])
		h.unreadable = append(h.unreadable, elsewhere.unreadable...)
		elsewhere.revoked = append(elsewhere.revoked, known.revoked...)
		known = elsewhere
	}
	for _, text := range h.unreadable {
		cfg.logger().Warn("known_hosts: " + text)
	}
	h.check = func(_ string, _ net.Addr, found ssh.PublicKey) error {
		return h.checkKnown(known, names[0], principal, files, found)
	}
	// A key that is known comes before a certificate, which may be of another authority.
	for _, key := range known.keys {
		h.negotiate(keyAlgorithms(key.Key.Type()))
	}
	if len(known.authorities) > 0 {
		h.negotiate(certificates)
	}
	if len(h.wanted) == 0 && len(h.algorithms) > 0 {
		h.negotiate(slices.Concat(certificates, signatures)) // what is known is of another port
	}
	return h, nil
}

func (h *hostKeys) negotiate(algorithms []string) {
	for _, algorithm := range algorithms {
		if !slices.Contains(h.algorithms, algorithm) {
			h.algorithms = append(h.algorithms, algorithm)
		}
	}
}

// checkKnown checks a host key, or a certificate for one.
func (h *hostKeys) checkKnown(known *knownHosts, name, principal string, files []string, found ssh.PublicKey) error {
	cert, certified := found.(*ssh.Certificate)
	for _, k := range known.revoked {
		if keysEqual(k.Key, plain(found)) || certified && keysEqual(k.Key, cert.SignatureKey) {
			return &HostKeyError{Addr: h.addr, Found: found, Wanted: h.wanted, Reason: "it is revoked (" + k.Source + ")"}
		}
	}
	reason := ""
	if certified {
		err := checkCertificate(cert, principal, known.authorities)
		if err == nil {
			return nil
		}
		reason = err.Error()
	}
	// As for ssh(1), a certificate that is of no use is but a key.
	if slices.ContainsFunc(known.keys, func(k KnownKey) bool { return keysEqual(k.Key, plain(found)) }) {
		return nil
	}
	if len(h.wanted) == 0 {
		return &UnknownHostError{Addr: h.addr, Name: name, Found: plain(found), Files: files, Unreadable: h.unreadable}
	}
	return &HostKeyError{Addr: h.addr, Found: found, Wanted: h.wanted, Reason: reason, Unreadable: h.unreadable}
}

// checkCertificate checks a host's certificate.
func checkCertificate(cert *ssh.Certificate, principal string, authorities []KnownKey) error {
	if !slices.ContainsFunc(authorities, func(k KnownKey) bool { return keysEqual(k.Key, cert.SignatureKey) }) {
		return fmt.Errorf("its certificate is signed by %s, which is no authority for this host", describeKey(cert.SignatureKey))
	}
	if cert.CertType != ssh.HostCert {
		return errors.New("its certificate is not that of a host")
	}
	if err := new(ssh.CertChecker).CheckCert(principal, cert); err != nil {
		return errors.New("its certificate does not count: " + printable(strings.TrimPrefix(err.Error(), "ssh: ")))
	}
	return nil
}

// keyAlgorithms returns the signature algorithms to negotiate for a type of key; none for a
// type that is not used.
func keyAlgorithms(keyType string) []string {
	switch {
	case keyType == ssh.KeyAlgoRSA:
		return rsaSignatures
	case slices.Contains(signatures, keyType):
		return []string{keyType}
	}
	return nil
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
