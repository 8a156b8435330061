package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"lighter/internal/dataservice"
)

// processedCommits is the file of the commits that are done, one a line. It is the same
// as that of the Guix Build Coordinator. Lines that are empty or start with # are kept.
type processedCommits struct {
	file  string
	lines []string
	known map[string]bool
	lock  *os.File
}

// maxCommitsFile bounds the file, in bytes: that many are more than a million commits.
const maxCommitsFile = 64 << 20

// openCommits reads the file, which need not exist, and keeps others from writing it
// until close.
func openCommits(file string) (*processedCommits, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another lighter queue works with %s; give each its own --processed-commits", file)
		}
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	p := &processedCommits{file: file, known: make(map[string]bool), lock: lock}
	if err := p.read(); err != nil {
		lock.Close()
		return nil, err
	}
	return p, nil
}

func (p *processedCommits) read() error {
	f, err := os.Open(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxCommitsFile+1))
	size := 0
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		size += len(lines.Bytes()) + 1
		p.lines = append(p.lines, line)
		if line == "" || line[0] == '#' {
			continue
		}
		if !dataservice.IsCommit(line) {
			return badInput(fmt.Errorf("%s:%d: %.80q is no commit; want one a line, as 40 hexadecimal digits", p.file, len(p.lines), line))
		}
		p.known[line] = true
	}
	if err := lines.Err(); err != nil {
		return badInput(fmt.Errorf("%s: %w", p.file, err))
	}
	if size > maxCommitsFile {
		return badInput(fmt.Errorf("%s: more than %d bytes; remove commits from its start", p.file, maxCommitsFile))
	}
	return nil
}

func (p *processedCommits) has(commit string) bool { return p.known[commit] }

// add notes a commit, durably: the file has it, or is as it was.
func (p *processedCommits) add(commit string) error {
	if p.known[commit] {
		return nil
	}
	lines := append(p.lines, commit)
	text := strings.Join(lines, "\n") + "\n"
	if err := replaceFile(p.file, bytes.NewReader([]byte(text))); err != nil {
		return fmt.Errorf("note commit %s: %w", commit, err)
	}
	p.lines, p.known[commit] = lines, true
	return nil
}

func (p *processedCommits) close() error { return p.lock.Close() }

// replaceFile writes a file anew, in one step that also a crash leaves done or undone.
func replaceFile(name string, content io.Reader) error {
	out, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, content)
	if err == nil {
		err = out.Chmod(0o644)
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

func syncFolder(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
