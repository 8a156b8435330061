package sandbox

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Watched is a program that is to end with its starter: one that joins other
// namespaces gets no signal when its parent ends (PR_SET_PDEATHSIG), and not every
// program watches a descriptor. A process of this program, started with [Variable] set
// to [WatchValue], reads a Watched from ControlFD, starts it with its own first three
// files, and kills it when the other end of the socket is closed.
type Watched struct {
	Program string
	Args    []string // including the 0th
}

// WatchValue is what [Variable] is in the process that watches a program.
const WatchValue = "watch"

// Encode returns the encoding, with its length in front.
func (w *Watched) Encode() []byte { return encode(w.each) }

func (w *Watched) each(x codec) {
	x.String(&w.Program)
	list(x, &w.Args, x.String)
}

// watch never returns.
func watch() {
	unix.CloseOnExec(ControlFD)
	var w Watched
	receive(w.each)
	pid, err := syscall.ForkExec(w.Program, w.Args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		_, _ = unix.Write(2, []byte("start "+w.Program+": "+err.Error()+"\n"))
		exit(1)
	}
	go func() {
		awaitEnd()
		_ = unix.Kill(pid, unix.SIGKILL)
	}()
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			exit(1)
		}
	}
}
