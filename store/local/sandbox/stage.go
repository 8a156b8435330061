package sandbox

import (
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

func init() {
	switch v, _ := syscall.Getenv(Variable); v {
	case WatchValue:
		watch()
	case "1":
		// Privileges, personality and limits belong to threads, and the builder gets
		// those of the thread that starts it.
		runtime.LockOSThread()
		run()
	}
}

// stage is the one run of this package's work in a process.
type stage struct {
	Config
	root string // where the sandbox's root is mounted, as seen from outside
	oom  oomScore
}

// run sets the sandbox up and stays until the builder ends. It never returns.
func run() {
	unix.CloseOnExec(ControlFD)
	_ = unix.CloseRange(ControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) // Linux 5.11
	s := new(stage)
	receive(s.Config.each)
	go func() {
		awaitEnd()
		exit(1)
	}()

	s.isolate()
	s.mount()
	s.enter()
	s.awaitNetwork()
	s.restrict()
	if s.Probe {
		exit(0)
	}
	s.refuseOwnProgram()
	if !s.SetUser { // else the builder is a user who can't send signals to this process
		s.harden()
	}
	builder := s.start()
	if s.SetUser {
		s.harden()
	}
	s.oom.restore()
	s.wait(builder)
}

// receive reads what was encoded with its length in front.
func receive(each func(codec)) {
	head := make([]byte, 8)
	readFull(head)
	d := &Decoder{rest: head}
	d = &Decoder{rest: make([]byte, d.number())}
	readFull(d.rest)
	each(d)
	if d.bad || len(d.rest) > 0 {
		fail(Failed, "read the sandbox's configuration", unix.EBADMSG)
	}
}

// awaitEnd returns when the other end of the socket is closed.
func awaitEnd() {
	var b [1]byte
	for {
		if _, err := unix.Read(ControlFD, b[:]); err != unix.EINTR {
			return
		}
	}
}

func readFull(b []byte) {
	for len(b) > 0 {
		n, err := unix.Read(ControlFD, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			exit(1)
		}
		b = b[n:]
	}
}

// tell sends a message. If the starter is gone, so is this process, soon.
func tell(m *Message) {
	for b := m.encode(); len(b) > 0; {
		n, err := unix.Write(ControlFD, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		b = b[n:]
	}
}

// must ends the process if err is an error.
func must(step string, err error) {
	if err != nil {
		fail(Failed, step, err)
	}
}

func fail(kind Kind, step string, err error) {
	errno, ok := err.(unix.Errno) //nolint:errorlint // these are results of system calls, and package errors is not needed
	if !ok {
		errno = unix.EINVAL
	}
	tell(&Message{Kind: kind, Step: step, Errno: errno})
	exit(1)
}

func exit(code int) {
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(code), 0, 0)
	}
}

// isolate sets up what is not the file system.
func (s *stage) isolate() {
	must("set the host name", unix.Sethostname([]byte("localhost")))
	must("set the domain name", unix.Setdomainname([]byte("(none)"))) // the kernel's default
	if !s.HostNetwork {
		loopback()
	}
	s.oom.offer()
	// Nothing in the sandbox may look into this process: it is the starter's program,
	// and it keeps privileges longer than the builder.
	must("become undumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// loopback sets the one network interface up. A kernel without IPv4 has none.
func loopback() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	ifr, err := unix.NewIfreq("lo")
	must("name the loopback interface", err)
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	must("set the loopback interface up", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
	_ = unix.Close(fd)
}

// restrict gives up what the builder must not have. Where the builder will be
// another user, the change of users takes the capabilities away.
func (s *stage) restrict() {
	unix.Umask(0o022)
	must("limit core dumps", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
	s.limitProcesses()
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(s.Personality), 0, 0); errno != 0 {
		fail(Failed, "set the personality", errno)
	}
	// The builder must not ignore what the starter ignores, such as SIGHUP under nohup.
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT} {
		defaultAction(sig)
	}
	for c := uintptr(0); ; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if err != unix.EINVAL || c == 0 {
				fail(Failed, "drop capabilities from the bounding set", err)
			}
			break
		}
	}
	must("clear ambient capabilities", unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
	must("set no_new_privs", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	if s.HostNetwork {
		leaveAbstractSockets()
	}
	confine()
	if !s.SetUser {
		must("drop capabilities", dropCapabilities())
	}
}

func (s *stage) limitProcesses() {
	var limit unix.Rlimit
	must("get the limit of processes", unix.Getrlimit(unix.RLIMIT_NPROC, &limit))
	limit.Max = min(limit.Max, s.MaxProcesses)
	limit.Cur = limit.Max
	must("limit processes", unix.Setrlimit(unix.RLIMIT_NPROC, &limit))
}

func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// start starts the builder and returns its process id.
func (s *stage) start() int {
	attr := &syscall.ProcAttr{
		Dir:   s.Folder,
		Env:   s.Env,
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if s.SetUser {
		attr.Sys.Credential = &syscall.Credential{Uid: s.UID, Gid: s.GID, Groups: s.Groups}
	}
	pid, err := syscall.ForkExec(s.Builder, s.Args, attr)
	if err != nil {
		fail(notStarted(err), "start the builder", err)
	}
	tell(&Message{Kind: Started})
	return pid
}

// notStarted distinguishes what this machine lacks at the moment from what is wrong with the
// builder.
func notStarted(err error) Kind {
	errno, ok := err.(unix.Errno) //nolint:errorlint // see fail
	if ok && (errno == unix.ENOMEM || errno == unix.EAGAIN || errno == unix.EMFILE || errno == unix.ENFILE) {
		return Failed
	}
	return NoExec
}

// wait reaps until the builder itself has ended.
func (s *stage) wait(builder int) {
	for fd := range ControlFD { // fewer open ends of the log
		_ = unix.Close(fd)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			fail(Failed, "wait for the builder", err)
		case pid == builder && (status.Exited() || status.Signaled()):
			var used unix.Rusage
			_ = unix.Getrusage(unix.RUSAGE_CHILDREN, &used)                                  // else it is 0
			tell(&Message{Kind: Exited, Status: status, Largest: uint64(used.Maxrss) << 10}) //nolint:gosec // it is in KiB, and not negative
			exit(0)
		}
	}
}
