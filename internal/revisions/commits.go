package revisions

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"lighter/internal/dataservice"
	"lighter/internal/disk"
	"lighter/internal/human"
)

// Commits is the file of the commits that are done, one a line. It is the same
// as that of the Guix Build Coordinator. Lines that are empty or start with # are kept.
type Commits struct {
	file  string
	lines []string
	known map[string]bool
	lock  *os.File
}

// maxCommitsFile bounds the file, in bytes: that many are more than a million commits.
const maxCommitsFile = 64 << 20

// OpenCommits reads the file, which need not exist, and keeps others from writing it
// until Close. What is wrong in it is a human.InputError.
func OpenCommits(file string) (*Commits, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	lock, err := disk.Lock(file + ".lock")
	if errors.Is(err, disk.ErrLocked) {
		return nil, fmt.Errorf("another lighter queue works with %s; give each its own --processed-commits", file)
	}
	if err != nil {
		return nil, err
	}
	p := &Commits{file: file, known: make(map[string]bool), lock: lock}
	if err := p.read(); err != nil {
		lock.Close()
		return nil, err
	}
	return p, nil
}

func (p *Commits) read() error {
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
			return &human.InputError{Err: fmt.Errorf("%s:%d: %.80q is not a commit; want one a line, as 40 hexadecimal digits", p.file, len(p.lines), line)}
		}
		p.known[line] = true
	}
	if err := lines.Err(); err != nil {
		return &human.InputError{Err: fmt.Errorf("%s: %w", p.file, err)}
	}
	if size > maxCommitsFile {
		return &human.InputError{Err: fmt.Errorf("%s: more than %d bytes; remove commits from its start", p.file, maxCommitsFile)}
	}
	return nil
}

func (p *Commits) has(commit string) bool { return p.known[commit] }

// add notes a commit, durably: the file has it, or is as it was.
func (p *Commits) add(commit string) error {
	if p.known[commit] {
		return nil
	}
	lines := append(p.lines, commit)
	text := strings.Join(lines, "\n") + "\n"
	err := disk.Replace(p.file, 0o644, func(f *os.File) error {
		_, err := f.WriteString(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("note commit %s: %w", commit, err)
	}
	p.lines, p.known[commit] = lines, true
	return nil
}

// Close lets others have the file.
func (p *Commits) Close() error { return p.lock.Close() }
