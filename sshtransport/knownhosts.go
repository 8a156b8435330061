package sshtransport

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha1" // #nosec G505 -- of known_hosts
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// knownHosts are the lines of known_hosts files (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT) that are
// about one name of a host. Lines are compared with it as ssh(1) does, which takes "[NAME]:PORT"
// for one name.
type knownHosts struct {
	keys, authorities, revoked []KnownKey
	unreadable                 []string // what can't be read, and where
}

const (
	maxKnownHosts     = 64 << 20 // bytes of a file that are read
	maxKnownHostsLine = 64 << 10 // bytes of a line
	maxUnreadable     = 5        // that are told of
)

// readKnownHosts reads what files say of a name.
func readKnownHosts(files []string, name string) *knownHosts {
	k := new(knownHosts)
	for _, file := range files {
		if err := k.readFile(file, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.note("%v", err)
		}
	}
	return k
}

func (k *knownHosts) note(format string, args ...any) {
	if len(k.unreadable) < maxUnreadable {
		k.unreadable = append(k.unreadable, printable(fmt.Sprintf(format, args...)))
	}
}

func (k *knownHosts) readFile(file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(io.LimitReader(f, maxKnownHosts), maxKnownHostsLine)
	for number := 1; ; number++ {
		line, err := r.ReadSlice('\n')
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		k.readLine(line, name, fmt.Sprintf("%s:%d", file, number), tooLong)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
	}
}

// readLine reads one line. One that is about other hosts need not be readable.
func (k *knownHosts) readLine(line []byte, name, source string, tooLong bool) {
	line = bytes.TrimSpace(line)
	fields := bytes.Fields(line)
	if len(fields) == 0 || fields[0][0] == '#' {
		return
	}
	hosts := fields[0]
	marked := hosts[0] == '@'
	if marked && len(fields) > 1 {
		hosts = fields[1]
	}
	if !hostsMatch(string(hosts), name) {
		return
	}
	if tooLong {
		k.note("%s can't be read: it is longer than %d bytes", source, maxKnownHostsLine)
		return
	}
	marker, _, key, _, _, err := ssh.ParseKnownHosts(line)
	if errors.Is(err, io.EOF) || len(fields) < 3 {
		err = errors.New("it has no key")
	}
	if err == nil && marked && marker != "cert-authority" && marker != "revoked" {
		err = fmt.Errorf("the marker @%s is not known", marker)
	}
	if err != nil {
		k.note("%s can't be read: %s", source, strings.TrimPrefix(err.Error(), "ssh: "))
		return
	}
	switch marker {
	case "cert-authority":
		k.authorities = append(k.authorities, KnownKey{key, source + ", an authority"})
	case "revoked":
		k.revoked = append(k.revoked, KnownKey{key, source})
	default:
		k.keys = append(k.keys, KnownKey{key, source})
	}
}

// hostsMatch reports whether a name is among the hosts of a line: patterns with commas in
// between, or one name that is hashed.
func hostsMatch(hosts, name string) bool {
	if hash, ok := strings.CutPrefix(hosts, "|1|"); ok {
		return hashMatches(hash, name)
	}
	found := false
	for pattern := range strings.SplitSeq(hosts, ",") {
		positive, negated := strings.CutPrefix(pattern, "!")
		if wildcardMatch(strings.ToLower(positive), name) {
			if negated {
				return false
			}
			found = true
		}
	}
	return found
}

// hashMatches compares with "SALT|HMAC", both in base64.
func hashMatches(text, name string) bool {
	encodedSalt, encodedHash, _ := strings.Cut(text, "|")
	salt, err := base64.StdEncoding.DecodeString(encodedSalt)
	if err != nil {
		return false
	}
	want, err := base64.StdEncoding.DecodeString(encodedHash)
	if err != nil {
		return false
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return hmac.Equal(mac.Sum(nil), want)
}

// wildcardMatch compares with a pattern in which "*" stands for any characters and "?" for any one.
func wildcardMatch(pattern, text string) bool {
	star, mark := -1, 0 // where the last "*" stands, and what it has to match up to
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// knownHostsName returns the name of a host in known_hosts: without a port if that is 22.
func knownHostsName(host, port string) string {
	host = strings.ToLower(host)
	if port == "22" {
		return host
	}
	return "[" + host + "]:" + port
}

// knownHostsNames returns the names under which ssh(1) looks for a host, the best first, and
// the one that a certificate has to be for.
func knownHostsNames(cfg *Config) (names []string, principal string) {
	if alias := strings.ToLower(cfg.HostKeyAlias); alias != "" {
		return []string{alias}, alias
	}
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		host, port = cfg.Addr, "22"
	}
	names = []string{knownHostsName(host, port)}
	if plain := strings.ToLower(host); plain != names[0] {
		names = append(names, plain)
	}
	return names, strings.ToLower(host)
}

// knownHostsFiles returns the files to search.
func knownHostsFiles(files []string) []string {
	if files != nil {
		return files
	}
	if home, err := os.UserHomeDir(); err == nil {
		file := filepath.Join(home, ".ssh", "known_hosts")
		files = append(files, file, file+"2")
	}
	return append(files, "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
}

func knownHostsLine(name string, key ssh.PublicKey) string { return name + " " + FormatHostKey(key) }
