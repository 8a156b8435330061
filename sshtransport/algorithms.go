package sshtransport

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// The algorithms that are used, by clients and by Server; what the library does by itself
// has SHA-1, DSA and truncated MACs among it. Every OpenSSH since 7.0 (2015) has one of each
// kind. The ciphers are in defaultCiphers.
var (
	// keyExchanges are elliptic curves, the first one with a key encapsulation that quantum
	// computers don't break. groups of integers are for servers that have no curve, such as
	// those of embedded devices; Server does not offer them, for they take it a hundred times
	// the work of a client that sends nonsense.
	keyExchanges = []string{
		ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519,
		ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521,
	}
	groups = []string{ssh.KeyExchangeDH16SHA512, ssh.KeyExchangeDH14SHA256}
	// macs are for ciphers that don't authenticate by themselves.
	macs = []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512}
	// signatures are those of host keys and of logins. RSA keys sign with SHA-2 (RFC 8332).
	signatures = []string{
		ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
	}
	// loginSignatures are those of keys in hardware, besides signatures.
	loginSignatures = []string{ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256}
	// certificates are host keys that an authority in known_hosts has signed.
	certificates = []string{
		ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
		ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
	}
)

// rsaSignatures are those that an RSA key makes.
var rsaSignatures = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}

// modern returns a signer that makes none but the signatures above. The key is the signer's, or
// a certificate for it, as it was parsed.
func modern(signer ssh.Signer, key ssh.PublicKey) (ssh.MultiAlgorithmSigner, error) {
	kind := plain(key).Type()
	able, ok := signer.(ssh.AlgorithmSigner)
	switch {
	case kind == ssh.InsecureKeyAlgoDSA: //nolint:staticcheck // it is named to be refused
		return nil, fmt.Errorf("keys of type %s are no longer used", kind)
	case !ok:
		return nil, fmt.Errorf("a key of type %s that signs with one algorithm only is no longer used", kind)
	case kind == ssh.KeyAlgoRSA:
		return ssh.NewSignerWithAlgorithms(able, rsaSignatures)
	}
	return ssh.NewSignerWithAlgorithms(able, []string{kind})
}

// maxNames bounds how much of what a server offers is shown, in bytes.
const maxNames = 300

// AlgorithmsError says that a server offers nothing that lighter uses. Other programs may.
type AlgorithmsError struct {
	Addr    string
	What    string // e.g. "key exchange"
	Offered string // names with commas, printable
	Used    []string
}

func (e *AlgorithmsError) Error() string {
	return fmt.Sprintf("connect to %s: of what the server offers for %s (%s) lighter uses nothing; it uses %s: have this computer's ssh connect, with transport = \"openssh\" in the machine's entry, or update that server",
		e.Addr, e.What, e.Offered, strings.Join(e.Used, ", "))
}

// describeNegotiation says what a server offers of which nothing is used.
func describeNegotiation(addr string, e *ssh.AlgorithmNegotiationError) error {
	names := truncate(printable(strings.Join(realNames(e.RequestedAlgorithms), ", ")), maxNames)
	return &AlgorithmsError{addr, e.What, names, slices.Compact(realNames(e.SupportedAlgorithms))}
}

// realNames leaves out what stands among key exchanges and is none (RFC 8308, and OpenSSH's PROTOCOL
// section 1.10).
func realNames(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return strings.HasPrefix(name, "ext-info-") || strings.HasPrefix(name, "kex-strict-")
	})
}
