package head

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"lighter/sshtransport"
)

// Agents finds lighter-agent for the platforms of machines.
type Agents struct {
	folders []string // in this order
	beside  string   // the program for this computer's own platform, if it is there

	mu     sync.Mutex
	hashed map[string]hashedAgent // by file
}

// hashedAgent is an agent whose hash was computed, and what its file was then.
type hashedAgent struct {
	sum  [sha256.Size]byte
	info fs.FileInfo
}

// NewAgents looks in the folder of the flag alone if it is given, else in
// that of the environment, and beside the running program.
func NewAgents(flag, env string) *Agents {
	f := &Agents{hashed: make(map[string]hashedAgent)}
	for _, folder := range []string{flag, env} {
		if folder != "" {
			f.folders = append(f.folders, folder)
		}
	}
	if executable, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(executable); err == nil {
			executable = real
		}
		here := filepath.Dir(executable)
		f.folders = append(f.folders, filepath.Join(here, "agents"), filepath.Join(here, "..", "lib", "lighter", "agents"))
		f.beside = filepath.Join(here, "lighter-agent")
	}
	return f
}

// Folder is where agents are to be installed; empty if there is no such folder.
func (f *Agents) Folder() string {
	if len(f.folders) == 0 {
		return ""
	}
	return f.folders[len(f.folders)-1]
}

// Find returns the agent for a platform in Go's words.
func (f *Agents) Find(ctx context.Context, goos, goarch string) (*sshtransport.AgentBinary, error) {
	var files []string
	for _, folder := range f.folders {
		files = append(files, filepath.Join(folder, "lighter-agent-"+goos+"-"+goarch))
	}
	if goos == runtime.GOOS && goarch == runtime.GOARCH && f.beside != "" {
		files = append(files, f.beside)
	}
	for _, file := range files {
		agent, err := f.open(ctx, file)
		if !errors.Is(err, fs.ErrNotExist) {
			return agent, err
		}
	}
	return nil, fmt.Errorf("no lighter-agent for %s/%s; looked for %s; make agents makes them, --agents says where they are",
		goos, goarch, strings.Join(files, ", "))
}

func (f *Agents) open(ctx context.Context, file string) (*sshtransport.AgentBinary, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	known, ok := f.hashed[file]
	f.mu.Unlock()
	if !ok || !os.SameFile(known.info, info) || !known.info.ModTime().Equal(info.ModTime()) || known.info.Size() != info.Size() {
		if known.sum, err = hashFile(ctx, file); err != nil {
			return nil, err
		}
		known.info = info
		f.mu.Lock()
		f.hashed[file] = known
		f.mu.Unlock()
	}
	return &sshtransport.AgentBinary{
		Open:   func() (io.ReadCloser, error) { return os.Open(file) },
		Size:   info.Size(),
		SHA256: known.sum,
	}, nil
}

func hashFile(ctx context.Context, file string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, fmt.Errorf("read %s: %w", file, err)
	}
	copy(sum[:], h.Sum(nil))
	return sum, ctx.Err()
}
