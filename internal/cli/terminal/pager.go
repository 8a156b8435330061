package terminal

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// Pager is a stream to a terminal that goes through the person's pager, which is started with
// the first text. Its methods may be called by several goroutines.
type Pager struct {
	terminal *os.File
	getenv   func(string) string

	mu     sync.Mutex
	to     io.Writer // nil before the first text
	pipe   io.Closer
	pager  *exec.Cmd
	closed bool
}

// NewPager returns a pager for a terminal. The pager is $LIGHTER_PAGER, else $PAGER, else less if it is
// installed, which ends by itself where all fits on the screen. It must be closed.
func NewPager(terminal *os.File, getenv func(string) string) *Pager {
	return &Pager{terminal: terminal, getenv: getenv}
}

// Terminal returns the terminal.
func (p *Pager) Terminal() *os.File { return p.terminal }

// Write fails with syscall.EPIPE once the person has left the pager.
func (p *Pager) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to == nil {
		p.start()
	}
	return p.to.Write(text)
}

// start starts the pager, or decides that there is none.
func (p *Pager) start() {
	p.to = p.terminal
	line := strings.TrimSpace(cmp.Or(p.getenv("LIGHTER_PAGER"), p.getenv("PAGER")))
	given := line != ""
	if !given {
		line = "less"
	}
	program, _, _ := strings.Cut(line, " ")
	if line == "cat" {
		return
	}
	if _, err := exec.LookPath(program); err != nil && !strings.ContainsAny(line, `'"\=$();&|<>`+"`") {
		if given {
			fmt.Fprintf(p.terminal, "the pager %s is not there\n", program)
		}
		return
	}
	pager := exec.Command("sh", "-c", line) //nolint:noctx // the person's own words, and who ends it
	pager.Stdout, pager.Stderr = p.terminal, p.terminal
	pager.Env = os.Environ()
	for _, option := range []string{"LESS=FRX", "LV=-c"} {
		if name, _, _ := strings.Cut(option, "="); p.getenv(name) == "" {
			pager.Env = append(pager.Env, option)
		}
	}
	pipe, err := pager.StdinPipe()
	if err == nil {
		err = pager.Start()
	}
	if err != nil {
		fmt.Fprintf(p.terminal, "start the pager: %v\n", err)
		return
	}
	p.to, p.pipe, p.pager = pipe, pipe, pager
}

// Stop asks the pager to end.
func (p *Pager) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pager != nil && !p.closed {
		_ = p.pager.Process.Signal(syscall.SIGTERM)
	}
}

// Close says that there is no more text, and returns when the person has left the pager. Its
// error is that the shell could not run it.
func (p *Pager) Close() error {
	p.mu.Lock()
	pager := p.pager
	if pager != nil {
		p.pipe.Close()
	}
	p.mu.Unlock()
	if pager == nil {
		return nil
	}
	err := pager.Wait()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	const notFound, notExecutable = 127, 126 // of sh
	if code := pager.ProcessState.ExitCode(); err != nil && (code == notFound || code == notExecutable) {
		return fmt.Errorf("the pager of LIGHTER_PAGER or PAGER can't be run; --no-pager does without")
	}
	return nil
}
