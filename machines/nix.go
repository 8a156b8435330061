package machines

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"lighter/internal/tomlfile"
)

// ParseNix reads and checks the contents of a file such as Nix's /etc/nix/machines, as
// nix.conf(5) describes it under "builders": a machine a line, or several with a
// semicolon in between, in the columns
//
//	ssh://USER@HOST[:PORT] SYSTEMS KEY BUILDS SPEED FEATURES MANDATORY-FEATURES HOST-KEY
//
// where a "-" or nothing stands for the default. Lists have commas; the host key is the
// base64 of a whole line "TYPE BASE64". "@FILE", which includes another file, is an
// error. The machines have the store StoreAuto, and names made of their hosts.
//
// Compared with: src/libstore/machines.cc of Nix.
func ParseNix(file string, data []byte) (all []Machine, warnings []*Error, err error) {
	return parseNix(file, data, thisSystem())
}

func parseNix(file string, data []byte, system string) (all []Machine, warnings []*Error, err error) {
	d := newDecoder(file, data, Nix)
	if i := invalidUTF8(d.Doc); i >= 0 {
		d.Errorf(i, "save the file as UTF-8", "the file is not in UTF-8")
		return nil, nil, d.Err()
	}
	var keyless []word
	offset := 0
	for line := range strings.Lines(d.Doc) {
		entries, _, _ := strings.Cut(line, "#")
		start := offset
		for entry := range strings.SplitSeq(entries, ";") {
			words := splitWords(entry, start)
			start += len(entry) + 1
			if len(words) == 0 {
				continue
			}
			if first := words[0].text; strings.HasPrefix(first, "[[") || strings.HasPrefix(first, "(") {
				d.Errorf(words[0].at, "the name of a TOML file ends in .toml, that of a Scheme file in .scm",
					"this is not Nix's format of machines, which is expected here")
				return nil, nil, d.Err()
			}
			if m, ok := d.nixMachine(words, system); ok {
				all = append(all, m)
				if m.HostKey == "" && !m.Local {
					keyless = append(keyless, words[0])
				}
			}
		}
		offset += len(line)
	}
	if err := d.Err(); err != nil {
		return nil, nil, err
	}
	if len(keyless) > 0 {
		d.Warnf(keyless[0].at, "its base64 goes into the eighth column: base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub",
			"%s", keylessText(keyless))
	}
	nameMachines(all)
	return all, d.Warnings, nil
}

// keylessText says once which machines have no host key.
func keylessText(words []word) string {
	const most = 5
	verb := " have"
	if len(words) == 1 {
		verb = " has"
	}
	var names []string
	for _, w := range words[:min(len(words), most)] {
		names = append(names, w.text)
	}
	text := strings.Join(names, ", ")
	if more := len(words) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + verb + " no host key; known_hosts has to have it"
}

// invalidUTF8 returns the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(text string) int {
	for i, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD") {
			return i
		}
	}
	return -1
}

// word is a piece of a line, and where it stands.
type word struct {
	text string
	at   int
}

func (w word) place() *tomlfile.Place { return &tomlfile.Place{Key: w.at, Value: w.at} }

// splitWords splits at blanks.
func splitWords(text string, at int) []word {
	return splitAt(text, at, func(r rune) bool { return strings.ContainsRune(" \t\r\n\v\f", r) })
}

func splitAt(text string, at int, isSeparator func(rune) bool) []word {
	var words []word
	start := -1
	for i, r := range text + " " {
		switch separates := i == len(text) || isSeparator(r); {
		case separates && start >= 0:
			words = append(words, word{text[start:i], at + start})
			start = -1
		case !separates && start < 0:
			start = i
		}
	}
	return words
}

// The columns of a line.
const (
	nixURI = iota
	nixSystems
	nixKey
	nixBuilds
	nixSpeed
	nixFeatures
	nixMandatory
	nixHostKey
	nixColumns
)

// nixMachine reads a line; ok is false for one that makes no machine.
func (d *decoder) nixMachine(words []word, system string) (m Machine, ok bool) {
	if strings.HasPrefix(words[0].text, "@") {
		d.Errorf(words[0].at, "read that file by itself, or put its lines here", "a file that includes another one is not read")
		return m, false
	}
	if len(words) > nixColumns {
		d.Errorf(words[nixColumns].at, "the columns are URI, systems, key, builds, speed, features, mandatory features, host key",
			"%q comes after the last column", words[nixColumns].text)
		return m, false
	}
	m = defaults()
	column := func(i int) (word, bool) {
		if i < len(words) && words[i].text != "-" {
			return words[i], true
		}
		return word{}, false
	}
	if w, ok := column(nixBuilds); ok && !d.nixBuilds(&m, w, words[0]) {
		return m, false
	}
	d.nixURI(&m, words[nixURI])
	if w, ok := column(nixSystems); ok {
		v, at := w.list()
		d.systems(&m, v, at)
	} else {
		m.Systems = []string{system}
		d.Warnf(words[0].at, "", "%s has no systems; taken for %s, as this computer is", words[0].text, m.Systems[0])
	}
	if w, ok := column(nixKey); ok {
		d.privateKey(&m, w.text, w.place())
	}
	if w, ok := column(nixSpeed); ok {
		if speed, err := strconv.ParseFloat(w.text, 64); err == nil {
			d.speed(&m, speed, w.place())
		} else {
			d.Errorf(w.at, "the fifth column is the speed: 2.0", "the speed %q is not a number", w.text)
		}
	}
	if w, ok := column(nixFeatures); ok {
		v, at := w.list()
		m.Features = d.features("features", v, at)
	}
	if w, ok := column(nixMandatory); ok {
		v, at := w.list()
		m.MandatoryFeatures = d.features("mandatory-features", v, at)
	}
	if w, ok := column(nixHostKey); ok {
		d.nixHostKey(&m, w)
	}
	if m.Local {
		m.PrivateKey, m.HostKey = "", ""
	}
	return m, true
}

// nixBuilds reads how many builds may run; ok is false for none, with which Nix does not
// use a machine.
func (d *decoder) nixBuilds(m *Machine, w, uri word) (ok bool) {
	n, err := strconv.ParseInt(w.text, 10, 64)
	if err != nil {
		d.Errorf(w.at, "the fourth column is the number of builds at the same time: 4", "%q is not a whole number", w.text)
		return true
	}
	if n == 0 {
		d.Warnf(w.at, "", "%s is left out: it has 0 builds", uri.text)
		return false
	}
	d.parallelBuilds(m, n, w.place())
	return true
}

// list splits a word at commas, without what comes again: for Nix such columns are sets, and NixOS
// writes features that are mandatory twice among those that are supported.
func (w word) list() ([]any, *tomlfile.Place) {
	values, n := []any{}, w.place()
	for _, part := range splitAt(w.text, w.at, func(r rune) bool { return r == ',' }) {
		if slices.Contains(values, any(part.text)) {
			continue
		}
		values, n.Elems = append(values, part.text), append(n.Elems, part.place())
	}
	return values, n
}

// thisSystem is the system of this computer, which is Nix's default.
func thisSystem() string {
	machine := map[string]string{
		"amd64": "x86_64", "386": "i686", "arm64": "aarch64", "arm": "armv7l", "ppc64le": "powerpc64le",
		"loong64": "loongarch64",
	}[runtime.GOARCH]
	if machine == "" {
		machine = runtime.GOARCH
	}
	return machine + "-" + runtime.GOOS
}

// nixURI reads "ssh://[USER@]HOST[:PORT][?OPTIONS]", ssh-ng:// too, or only "[USER@]HOST".
func (d *decoder) nixURI(m *Machine, w word) {
	const form = "write ssh://USER@HOST"
	text := w.text
	scheme, rest, ok := strings.Cut(text, "://")
	switch {
	case !ok && (text == "auto" || text == "daemon" || text == "local" || strings.Contains(text, "/")):
		d.Errorf(w.at, form+"; the head itself is a machine with local = true in TOML", "%q is a store on this computer", text)
		return
	case !ok && (strings.HasPrefix(text, "ssh:") || strings.HasPrefix(text, "ssh-ng:")):
		_, rest, _ = strings.Cut(text, ":")
		d.Errorf(w.at, "write ssh://"+rest, "%q has no // after its colon", text)
		return
	case !ok && text == "localhost":
		// Hydra's word, in whose files it stands for builds without SSH.
		m.Local, m.Host, m.Port, m.Transport = true, "", 0, ""
		d.Warnf(w.at, "write ssh://localhost for an account of this computer that is reached over SSH; in TOML, the head itself has local = true",
			"localhost is taken for the head itself, which builds without SSH, as in Hydra's files")
		return
	case !ok:
		scheme, rest = "ssh", text
	}
	if scheme != "ssh" && scheme != "ssh-ng" {
		d.Errorf(w.at, form, "a machine is reached over SSH, not by %q", scheme+"://")
		return
	}
	at := w.at + len(text) - len(rest)
	rest, query, _ := strings.Cut(rest, "?")
	rest = strings.TrimSuffix(rest, "/")
	user, host, hasUser := cutLast(rest, "@")
	if name, _, hasPassword := strings.Cut(user, ":"); hasUser && hasPassword {
		d.Errorf(at, "write ssh://"+name+"@"+host+": keys log in, passwords don't", "%q has a password in it", text)
		return
	}
	if hasUser {
		if plain, ok := d.unescape(user, at); ok {
			d.user(m, plain, &tomlfile.Place{Key: at, Value: at})
		}
		at += len(user) + 1
	} else {
		host = rest
	}
	name, port, hasPort := cutPort(host)
	if hasPort {
		if n, err := strconv.ParseInt(port, 10, 64); err == nil {
			d.port(m, n, &tomlfile.Place{Value: at + len(host) - len(port)})
		} else {
			d.Errorf(at+len(host)-len(port), form+":2222", "the port %q is not a number", port)
		}
	}
	ok = true
	if addr, zone, escaped := strings.Cut(name, "%"); !escaped || strings.HasPrefix(zone, "25") || !strings.Contains(addr, ":") {
		name, ok = d.unescape(name, at) // but a zone may have a bare percent sign before it
	}
	if ok {
		d.hostNamed("host", m, name, &tomlfile.Place{Key: at, Value: at})
	}
	if query != "" {
		d.nixQuery(m, query, w.at+strings.IndexByte(text, '?')+1)
	}
}

// unescape replaces each "%HH" of a part of a URI.
func (d *decoder) unescape(text string, at int) (plain string, ok bool) {
	plain, err := url.PathUnescape(text)
	if err != nil {
		d.Errorf(at, "%HH stands for a character; %25 for %", "%v", err)
	}
	return plain, err == nil
}

func cutLast(text, separator string) (before, after string, ok bool) {
	if i := strings.LastIndex(text, separator); i >= 0 {
		return text[:i], text[i+len(separator):], true
	}
	return text, "", false
}

// cutPort splits "HOST:PORT" and "[IPV6]:PORT"; an IPv6 address without brackets has no
// port.
func cutPort(text string) (host, port string, ok bool) {
	if strings.HasPrefix(text, "[") {
		host, port, ok = strings.Cut(text, "]:")
		if !ok {
			return text, "", false
		}
		return host + "]", port, true
	}
	if strings.Count(text, ":") != 1 {
		return text, "", false
	}
	return strings.Cut(text, ":")
}

// nixQuery reads the options of a store's URI.
func (d *decoder) nixQuery(m *Machine, query string, at int) {
	for option := range strings.SplitSeq(query, "&") {
		key, escaped, _ := strings.Cut(option, "=")
		place := &tomlfile.Place{Key: at, Value: at + len(key) + 1}
		value, err := url.PathUnescape(escaped)
		switch {
		case option == "":
		case err != nil:
			d.Errorf(at, "%HH stands for a character; %25 for %", "%v", err)
		case key == "ssh-key":
			d.privateKey(m, value, place)
		case key == "base64-ssh-public-host-key":
			d.nixHostKey(m, word{value, place.Value})
		default:
			d.Warnf(at, "", "%s has no effect", key)
		}
		at += len(option) + 1
	}
}

// nixHostKey reads the base64 of "TYPE BASE64 [COMMENT]".
func (d *decoder) nixHostKey(m *Machine, w word) {
	const hint = "the base64 of the whole file: base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub"
	line, err := base64.StdEncoding.DecodeString(w.text)
	if err != nil {
		if line, err = base64.RawStdEncoding.DecodeString(w.text); err != nil {
			d.Errorf(w.at, hint, "the host key is not base64: %q", cutLong(w.text))
			return
		}
	}
	key, wrong := parseHostKey(strings.TrimSpace(string(line)))
	if wrong != nil {
		d.Errorf(w.at, hint, "%s", wrong.message)
		return
	}
	m.HostKey = key
}
