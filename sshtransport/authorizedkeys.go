package sshtransport

import (
	"bytes"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// AuthorizedKeysFile returns a function for Server.AuthorizedKeys that reads a file
// with one public key a line, as in ~/.ssh/authorized_keys, whenever it is called.
// Options before a key are refused: they limit what a key may do, and Server does
// not know them.
func AuthorizedKeysFile(file string) func() ([]ssh.PublicKey, error) {
	return func() ([]ssh.PublicKey, error) {
		text, _, err := readSmallFile(file)
		if err != nil {
			return nil, fmt.Errorf("authorized keys: %w", err)
		}
		keys, err := parseAuthorizedKeys(text)
		if err != nil {
			return nil, fmt.Errorf("authorized keys: %s:%w", file, err)
		}
		return keys, nil
	}
}

// parseAuthorizedKeys returns errors that begin with the number of the line.
func parseAuthorizedKeys(text []byte) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey(line)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%d: %w", number, err)
		case len(options) > 0:
			return nil, fmt.Errorf("%d: the option %q is not known", number, options[0])
		}
		keys = append(keys, key)
	}
	return keys, nil
}
