package machines

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// hostKeyFields has, for each type of host key, the lengths of the strings that
// follow the type in its blob (RFC 4253 section 6.6, RFC 5656, RFC 8709, OpenSSH's
// PROTOCOL.u2f); 0 is any length.
var hostKeyFields = map[string][]int{
	"ssh-ed25519":                        {32},
	"ssh-rsa":                            {0, 0},
	"ecdsa-sha2-nistp256":                {8, 65},
	"ecdsa-sha2-nistp384":                {8, 97},
	"ecdsa-sha2-nistp521":                {8, 133},
	"sk-ssh-ed25519@openssh.com":         {32, 0},
	"sk-ecdsa-sha2-nistp256@openssh.com": {8, 65, 0},
}

var hostKeyTypes = []string{
	"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
	"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
}

// hostKeyError is what is wrong with a host key, and where in its text.
type hostKeyError struct {
	offset        int
	message, hint string
}

// parseHostKey reads "TYPE BASE64 [COMMENT]", as in an SSH server's .pub files, and
// returns it without the comment. That the key itself is good shows when it is used.
func parseHostKey(text string) (string, *hostKeyError) {
	fields := strings.Fields(text)
	const form = `write it as in /etc/ssh/ssh_host_ed25519_key.pub on the machine: "ssh-ed25519 AAAA…"`
	if len(fields) < 2 {
		return "", &hostKeyError{0, "the host key is not of the form TYPE BASE64", form}
	}
	kind := fields[0]
	if hostKeyFields[kind] == nil {
		if hostKeyFields[fields[1]] != nil {
			return "", &hostKeyError{
				strings.Index(text, kind), fmt.Sprintf("the host key starts with %q", kind),
				"leave out what comes before the type " + fields[1],
			}
		}
		hint := "the types are " + strings.Join(hostKeyTypes, ", ")
		return "", &hostKeyError{strings.Index(text, kind), fmt.Sprintf("unknown type of host key %q", kind), hint}
	}
	at := strings.Index(text, kind) + len(kind)
	at += strings.Index(text[at:], fields[1])
	blob, err := base64.StdEncoding.Strict().DecodeString(fields[1])
	if err != nil {
		return "", &hostKeyError{at, "the host key is not base64: it was perhaps cut or wrapped", form}
	}
	if err := checkKeyBlob(kind, blob); err != nil {
		return "", &hostKeyError{at, "the host key is damaged: " + err.Error(), form}
	}
	return kind + " " + fields[1], nil
}

func checkKeyBlob(kind string, blob []byte) error {
	inside, rest, ok := cutString(blob)
	if !ok {
		return fmt.Errorf("it ends too early")
	}
	if string(inside) != kind {
		return fmt.Errorf("its base64 holds a key of type %q, not %q", inside, kind)
	}
	for _, want := range hostKeyFields[kind] {
		var field []byte
		if field, rest, ok = cutString(rest); !ok {
			return fmt.Errorf("it ends too early")
		}
		if want != 0 && len(field) != want || len(field) == 0 && want == 0 {
			return fmt.Errorf("a field has %d bytes", len(field))
		}
	}
	if len(rest) != 0 {
		return fmt.Errorf("it has %d bytes too many", len(rest))
	}
	return nil
}

// cutString splits off a string with its length before it (RFC 4251 section 5).
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
