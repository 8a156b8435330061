package sshtransport

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/pkg/sftp"
)

// The magic lines of an upload by sh.
const (
	magicWrite   = magicPrefix + "write"    // what it reads is now written to the file
	magicWritten = magicPrefix + "written " // with the folder, absolute
	magicContent = magicPrefix + "content"  // the file follows
	magicPlaced  = magicPrefix + "placed"
)

// The scripts are for sh, with what is in POSIX alone. Each magic line is printed on a line of its own,
// whatever login scripts have printed before. $0 is a folder or file; LC_ALL=C has messages be those
// that tellDirectory knows.
const (
	// writeScript writes its input to the file .upload-$1 in the folder $0.
	writeScript = `LC_ALL=C; export LC_ALL; umask 077; case $0 in /*) d=$0;; *) d=$(pwd)/$0;; esac; ` +
		`mkdir -p "$d" && chmod go-w "$d" && set -C && : >"$d/.upload-$1" && set +C || exit 1; ` +
		`printf '\nlighter-agent/1 write\n'; ` +
		`cat >"$d/.upload-$1" || { rm -f "$d/.upload-$1"; exit 1; }; printf '\nlighter-agent/1 written %s\n' "$d"`
	// readScript prints the file $0, if it has $1 bytes.
	readScript = `[ -f "$0" ] && [ "$(($(wc -c <"$0")))" = "$1" ] || exit 1; printf '\nlighter-agent/1 content\n'; exec cat "$0"`
	// placeScript puts the file $1 of the folder $0 into its place $2/lighter-agent there, and removes
	// what removeOld does.
	placeScript = `LC_ALL=C; export LC_ALL; umask 077; cd "$0" && mkdir -p "$2" && chmod go-w "$2" && chmod 700 "$1" && ` +
		`mv -f "$1" "$2/lighter-agent" || { rm -f "$1"; exit 1; }; printf '\nlighter-agent/1 placed\n'; ` +
		`{ find . -type f -name '.upload-*' -mtime +0 -exec rm -f {} +; ` +
		`ls -1t | grep -x '[0-9a-f]\{64\}' | sed 1,5d | while read -r v; do find "$v" -prune -mtime +60 -exec rm -r {} \;; done; } >/dev/null 2>&1; exit 0`
)

// sftpUnusable says that no session for SFTP could be opened.
type sftpUnusable struct{ cause error }

func (e *sftpUnusable) Error() string { return "SFTP: " + e.cause.Error() }
func (e *sftpUnusable) Unwrap() error { return e.cause }

// needsShell reports whether an upload failed for a reason that lies with SFTP, or for which it has no
// words: sh may do better, or say why not.
func needsShell(err error) bool {
	var unusable *sftpUnusable
	var unknown *WriteError
	var status *sftp.StatusError
	if errors.Is(err, syscall.ENOSPC) {
		return false
	}
	return errors.As(err, &unusable) || errors.As(err, &unknown) || errors.As(err, &status) || errors.Is(err, fs.ErrPermission)
}

// uploadByShell does what upload does, with sh in place of SFTP.
func uploadByShell(ctx context.Context, l *link, dir string, binary *AgentBinary) (string, error) {
	if path.IsAbs(dir) && l.hasProgram(programIn(dir, binary), binary) {
		return dir, nil
	}
	name := uploadPrefix + strings.ToLower(rand.Text())
	absolute, err := l.putByShell(ctx, dir, name, binary)
	if err == nil {
		return absolute, nil
	}
	if remove, quoteErr := quote("rm", "-f", path.Join(dir, name)); quoteErr == nil && l.lostError() == nil {
		_, _ = l.output(remove) // the error says more than this one would
	}
	return "", tellDirectory(err, dir)
}

// putByShell writes a program under a name that nobody else has, checks it, and renames it.
func (l *link) putByShell(ctx context.Context, dir, name string, binary *AgentBinary) (string, error) {
	dir, err := l.writeByShell(ctx, dir, name, binary)
	if err != nil {
		return "", err
	}
	sum, err := l.sum(path.Join(dir, name), binary.Size)
	if err != nil {
		return "", err
	}
	if sum != binary.SHA256 {
		return "", &HashError{What: path.Join(dir, name) + " on the machine", Want: binary.SHA256, Got: sum}
	}
	return dir, l.runScript(magicPlaced, placeScript, dir, name, hex.EncodeToString(binary.SHA256[:]))
}

// hasProgram reports whether a program is in its place.
func (l *link) hasProgram(name string, binary *AgentBinary) bool {
	sum, err := l.sum(name, binary.Size)
	return err == nil && sum == binary.SHA256
}

// writeByShell writes a program to a file in a folder, and returns the folder's absolute name.
func (l *link) writeByShell(ctx context.Context, dir, name string, binary *AgentBinary) (string, error) {
	source, err := binary.Open()
	if err != nil {
		return "", err
	}
	defer source.Close()
	c, err := l.script(writeScript, dir, strings.TrimPrefix(name, uploadPrefix))
	if err != nil {
		return "", err
	}
	defer c.close()
	if err := c.expect(magicWrite); err != nil {
		return "", err
	}
	l.cfg.Logger.Info("uploading the agent without SFTP", "to", path.Join(dir, name), "bytes", binary.Size)
	hash := sha256.New()
	reader := io.LimitReader(&hashedReader{ctx: ctx, r: source, hash: hash.Write}, binary.Size+1)
	n, err := io.CopyBuffer(onlyWriter{c.ch}, onlyReader{reader}, make([]byte, relayBuffer))
	switch {
	case errors.Is(err, io.EOF): // it has ended, and says why
		return "", c.failure("it did not read all of its input")
	case err != nil:
		return "", err
	}
	if err := checkSource(binary, n, [32]byte(hash.Sum(nil))); err != nil {
		return "", err
	}
	if err := c.ch.CloseWrite(); err != nil {
		return "", err
	}
	line, err := c.magic()
	if err != nil {
		return "", err
	}
	dir, ok := strings.CutPrefix(line, magicWritten)
	if !ok || !path.IsAbs(dir) {
		return "", fmt.Errorf("sh on the machine answers with %q", truncate(printable(line), 100))
	}
	return dir, nil
}

// checkSource refuses a program that is not the one that was announced.
func checkSource(binary *AgentBinary, n int64, sum [32]byte) error {
	switch {
	case n != binary.Size:
		return fmt.Errorf("the agent to upload has %d bytes, not the %d that it should have", n, binary.Size)
	case sum != binary.SHA256:
		return &HashError{What: "the agent to upload", Want: binary.SHA256, Got: sum}
	}
	return nil
}

// sum has the machine hash a file of so many bytes. Where it has no program for that, the file is read back.
func (l *link) sum(name string, size int64) (sum [32]byte, err error) {
	if sum, err = l.remoteSum(name); err == nil {
		return sum, nil
	}
	c, err := l.script(readScript, name, strconv.FormatInt(size, 10))
	if err != nil {
		return sum, err
	}
	defer c.close()
	if err := c.expect(magicContent); err != nil {
		return sum, err
	}
	hash := sha256.New()
	if _, err := io.CopyN(hash, c.stdout, size); err != nil {
		return sum, fmt.Errorf("%s: %w", name, err)
	}
	return [32]byte(hash.Sum(nil)), nil
}

// script starts a script with its arguments, the first of which is $0. Errors show it as sh alone.
func (l *link) script(script string, args ...string) (*command, error) {
	text, err := quote(append([]string{"sh", "-c", script}, args...)...)
	if err != nil {
		return nil, err
	}
	c, err := l.exec(text)
	if err != nil {
		return nil, err
	}
	c.text = "sh"
	return c, nil
}

// runScript runs a script that reads nothing and answers with a magic line.
func (l *link) runScript(want, script string, args ...string) error {
	c, err := l.script(script, args...)
	if err != nil {
		return err
	}
	defer c.close()
	_ = c.ch.CloseWrite() // its answer says whether that went well
	if err := c.expect(want); err != nil {
		return err
	}
	c.finish()
	return nil
}

// magic returns the magic line with which a command answers, or how it ended without one.
func (c *command) magic() (string, error) {
	line, err := readMagic(c.stdout)
	if errors.Is(err, errNoMagic) {
		return "", c.failure(err.Error())
	}
	return line, err
}

// expect reads a magic line that must be that.
func (c *command) expect(want string) error {
	line, err := c.magic()
	if err == nil && line != want {
		c.close()
		err = c.failure(fmt.Sprintf("it answers with %q", truncate(line, 100)))
	}
	return err
}
