package local

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lighter/store"
	"lighter/store/derivation"
)

// attackVariable names the attack that this test program, as a builder, is to try.
const attackVariable = "LIGHTER_TEST_ATTACK"

// survived is the exit code of an attacker that has come to its end.
const survived = 7

var attacks = map[string]func() error{
	"signals":  attackWithSignals,
	"orphans":  attackWithOrphans,
	"limits":   attackLimits,
	"peeking":  attackByPeeking,
	"schedule": attackSchedule,
	"calls":    attackByCalls,
}

// networkAttacks need more than a sandbox.
var networkAttacks = map[string]func() error{"network": attackNetwork, "sockets": attackSockets}

func runAttack(name string) int {
	run := attacks[name]
	if run == nil {
		run = networkAttacks[name]
	}
	if err := run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return survived
}

// attackerProgram returns a copy of this program: the program itself is refused.
func attackerProgram(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(scratch(t), "attacker")
	if err := os.WriteFile(name, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// attack runs an attack as a builder, and returns its log and what became of it.
func attack(t testing.TB, s *Store, program, name string, r *recipe) (string, error) {
	t.Helper()
	r.name, r.builder = "attack-"+name, "/attacker"
	env := map[string]string{attackVariable: name}
	maps.Copy(env, r.env)
	r.env = env
	req := r.request(t, s)
	req.SandboxPaths = append(req.SandboxPaths, "/attacker="+program)
	req.Timeout = time.Minute
	var log strings.Builder
	req.Log = &log
	_, err := s.Build(t.Context(), req)
	return log.String(), err
}

// TestFirstProcess has builders do to the sandbox's first process what they can. They
// go on after it, and how they end is theirs.
func TestFirstProcess(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	s := openTestStore(t)
	program := attackerProgram(t)
	for _, name := range slices.Sorted(maps.Keys(attacks)) {
		t.Run(name, func(t *testing.T) {
			log, err := attack(t, s, program, name, new(recipe))
			var failure *store.BuildError
			if !errors.As(err, &failure) || failure.ExitCode != survived {
				t.Errorf("got %v, want exit code %d\n%s", err, survived, log)
			}
			wantClean(t, s)
		})
	}
}

// attackWithSignals sends all signals to the first process in all ways.
func attackWithSignals() error {
	pidfd, err := unix.PidfdOpen(1, 0)
	if err != nil && err != unix.ENOSYS {
		return err
	}
	for sig := unix.Signal(1); sig <= 64; sig++ {
		_ = unix.Kill(1, sig)
		_ = unix.Tgkill(1, 1, sig)
		_, _, _ = unix.RawSyscall(unix.SYS_TKILL, 1, uintptr(sig), 0)
		var info [128]byte // a siginfo_t with si_code SI_QUEUE
		*(*int32)(unsafe.Pointer(&info[0])) = int32(sig)
		*(*int32)(unsafe.Pointer(&info[8])) = -1
		_, _, _ = unix.RawSyscall(unix.SYS_RT_SIGQUEUEINFO, 1, uintptr(sig), uintptr(unsafe.Pointer(&info)))
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_TGSIGQUEUEINFO, 1, 1, uintptr(sig), uintptr(unsafe.Pointer(&info)), 0, 0)
		_ = unix.PidfdSendSignal(pidfd, sig, nil, 0)
		_ = unix.Kill(-1, sig)
		signalByPipe(sig)
		// The other threads of the process, as well.
		for tid := 2; tid < 32; tid++ {
			if tid != os.Getpid() {
				_ = unix.Tgkill(1, tid, sig)
			}
		}
	}
	// Had one of them been taken, the process would be about to die.
	for range 50 {
		if err := exec.Command("/bin/sh", "-c", "kill -TERM 1; kill -SEGV 1; (kill -ABRT 1 &)").Run(); err != nil {
			return fmt.Errorf("a child: %w", err)
		}
	}
	return nil
}

// signalByPipe has the kernel tell the first process that a socket can be read.
func signalByPipe(sig unix.Signal) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETOWN, 1)
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETSIG, int(sig))
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETFL, unix.O_ASYNC|unix.O_NONBLOCK)
	_, _ = unix.Write(fds[1], []byte("x"))
}

// attackWithOrphans gives the first process thousands of children to reap.
func attackWithOrphans() error {
	return exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 3000 ]; do (: &); i=$((i+1)); done").Run()
}

// attackLimits limits the first process, so that the kernel kills it or gives it no
// memory once it has something to do.
func attackLimits() error {
	var taken []string
	for resource := range 16 {
		var old unix.Rlimit
		if unix.Prlimit(1, resource, nil, &old) == nil {
			taken = append(taken, fmt.Sprintf("limit %d was read", resource))
		}
		if unix.Prlimit(1, resource, &unix.Rlimit{}, nil) == nil {
			taken = append(taken, fmt.Sprintf("limit %d was set", resource))
		}
	}
	if len(taken) > 0 {
		return errors.New(strings.Join(taken, "\n"))
	}
	// Its own limits are for it to set.
	return unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: 100}, nil)
}

// attackByPeeking reads and writes what the kernel tells of the first process.
func attackByPeeking() error {
	var taken []string
	for _, name := range []string{
		"mem", "environ", "maps", "auxv", "exe", "cwd", "root", "fd", "fdinfo", "map_files", "stack", "syscall", "personality",
		"ns/net", "ns/mnt", "ns/user", "root/etc/shadow", "task/1/mem",
	} {
		if f, err := os.Open("/proc/1/" + name); err == nil {
			if n, err := f.Read(make([]byte, 1)); n > 0 || errors.Is(err, unix.EISDIR) {
				taken = append(taken, "read "+name)
			}
			f.Close()
		}
	}
	for _, name := range []string{"mem", "oom_score_adj", "oom_adj", "coredump_filter", "timerslack_ns", "autogroup", "uid_map", "gid_map", "setgroups", "clear_refs", "comm", "sched", "loginuid", "make-it-fail"} {
		if f, err := os.OpenFile("/proc/1/"+name, os.O_WRONLY, 0); err == nil {
			if _, err := f.WriteString("1"); err == nil {
				taken = append(taken, "write "+name)
			}
			f.Close()
		}
	}
	if unix.PtraceAttach(1) == nil || unix.PtraceSeize(1) == nil {
		taken = append(taken, "ptrace")
	}
	buf := make([]byte, 8)
	local := []unix.Iovec{{Base: &buf[0], Len: 8}}
	if _, err := unix.ProcessVMReadv(1, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0); err != unix.EPERM && err != unix.ENOSYS {
		taken = append(taken, fmt.Sprint("process_vm_readv: ", err))
	}
	if _, err := unix.ProcessVMWritev(1, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0); err != unix.EPERM && err != unix.ENOSYS {
		taken = append(taken, fmt.Sprint("process_vm_writev: ", err))
	}
	if pidfd, err := unix.PidfdOpen(1, 0); err == nil {
		for fd := range 16 {
			if _, err := unix.PidfdGetfd(pidfd, fd, 0); err == nil {
				taken = append(taken, fmt.Sprintf("descriptor %d", fd))
			}
		}
		for _, flags := range []int{unix.CLONE_NEWNS, unix.CLONE_NEWUSER, unix.CLONE_NEWNET, unix.CLONE_NEWPID} {
			if err := unix.Setns(pidfd, flags); err == nil {
				taken = append(taken, fmt.Sprintf("namespace %x", flags))
			}
		}
	}
	if len(taken) > 0 {
		return errors.New(strings.Join(taken, "\n"))
	}
	return nil
}

// attackSchedule makes the first process wait for everything else. That is no harm.
func attackSchedule() error {
	_ = unix.Setpriority(unix.PRIO_PROCESS, 1, 19)
	_ = unix.SchedSetAttr(1, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	var first unix.CPUSet
	first.Set(0)
	_ = unix.SchedSetaffinity(1, &first)
	_, _, _ = unix.RawSyscall(unix.SYS_IOPRIO_SET, 1, 1, 3<<13) // IOPRIO_CLASS_IDLE
	return exec.Command("/bin/sh", "-c", "true").Run()
}

// attackByCalls tries system calls that lead out of the namespaces, and those that must
// go on working.
func attackByCalls() error {
	var wrong []string
	check := func(what string, got, want error) {
		if got != want { //nolint:errorlint // results of system calls
			wrong = append(wrong, fmt.Sprintf("%s: %v, want %v", what, got, want))
		}
	}
	_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	check("a socket to the hypervisor", err, unix.EAFNOSUPPORT)
	_, _, errno := unix.RawSyscall(unix.SYS_BPF, 0, 0, 0)
	check("bpf", errno, unix.EPERM)
	_, err = unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), 0)
	check("open_by_handle_at", err, unix.EPERM)
	pty, err := unix.Open("/dev/ptmx", unix.O_RDWR, 0)
	check("a terminal of its own", err, nil)
	typed := byte('x')
	_, _, errno = unix.RawSyscall(unix.SYS_IOCTL, uintptr(pty), unix.TIOCSTI, uintptr(unsafe.Pointer(&typed)))
	check("typing", errno, unix.EIO)
	_, err = unix.Open("/dev/tty", unix.O_RDWR, 0)
	check("a controlling terminal", err, unix.ENXIO)
	if runtime.GOARCH == "amd64" {
		_, _, errno = unix.RawSyscall(39|0x40000000, 0, 0, 0)
		check("getpid of x32", errno, unix.ENOSYS)
	}

	for _, family := range []int{unix.AF_INET, unix.AF_UNIX, unix.AF_NETLINK} {
		_, err = unix.Socket(family, unix.SOCK_DGRAM, 0)
		check(fmt.Sprint("a socket of family ", family), err, nil)
	}
	traced := exec.Command("/bin/true")
	traced.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	runtime.LockOSThread()
	check("tracing a child", traced.Start(), nil)
	var status unix.WaitStatus
	_, err = unix.Wait4(traced.Process.Pid, &status, 0, nil)
	check("waiting for it", err, nil)
	check("letting it go", unix.PtraceDetach(traced.Process.Pid), nil)
	check("its end", traced.Wait(), nil)
	inner := exec.Command("/bin/true")
	inner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	check("namespaces of its own", inner.Run(), nil)
	check("a file", os.WriteFile("/tmp/x", nil, 0o600), nil)
	check("setuid bits", unix.Chmod("/tmp/x", 0o4755), nil)
	if err := unix.Setxattr("/tmp/x", "user.x", nil, 0); err == unix.EPERM || err == unix.ENOSYS {
		wrong = append(wrong, "extended attributes")
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n"))
	}
	return nil
}

// TestBadBuilders has builders that can't be started: that is what the derivation
// says, and so its failure, with the exit code that guix-daemon gives.
func TestBadBuilders(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	s := openTestStore(t)
	folder := scratch(t)
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, mode os.FileMode, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(folder, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("plain", 0o644, "#!/bin/sh\n")
	write("text", 0o755, "hello\n")
	write("empty", 0o755, "")
	write("interpreter", 0o755, "#!/no/such/interpreter\n")
	write("itself", 0o755, "#!/bad/itself\n")
	write("folder-interpreter", 0o755, "#!/bad\n")
	write("own", 0o755, "#! /proc/self/exe -x\n")
	write("own-by-link", 0o755, "#!/bad/link-to-own\n")
	write("own-by-chain", 0o755, "#!/bad/own\n")
	write("own-relative", 0o755, "#!../../proc/self/exe\n")
	write("cut", 0o755, "\x7fELF\x02\x01\x01")
	write("foreign", 0o755, "\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 9)+"\x02\x00\xff\x7f\x01"+strings.Repeat("\x00", 43))
	for name, target := range map[string]string{"loop": "loop", "dangling": "nowhere", "link-to-own": "/proc/self/exe", "dev-link": "/dev/fd/../exe"} {
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(folder, "fifo"), 0o777); err != nil {
		t.Fatal(err)
	}
	many := func(n, length int) []string { return slices.Repeat([]string{strings.Repeat("x", length)}, n) }
	for _, tt := range []struct {
		builder string
		args    []string
		message string
	}{
		{"/gnu/store/00000000000000000000000000000000-missing", nil, "no such file or directory"},
		{"/gnu/store/00000000000000000000000000000000-missing/bin/sh", nil, "no such file or directory"},
		{"bin/sh", nil, "not an absolute file name"},
		{"", nil, "not an absolute file name"},
		{"/bad/plain", nil, "permission denied"},
		{"/bad", nil, "permission denied"},
		{"/", nil, "permission denied"},
		{"/dev/null", nil, "permission denied"},
		{"/bad/fifo", nil, "permission denied"},
		{"/proc/self/exe", nil, "permission denied"},
		{"/proc/1/exe", nil, "permission denied"},
		{"/proc/thread-self/exe", nil, "permission denied"},
		{"/bad/link-to-own", nil, "permission denied"},
		{"/bad/dev-link", nil, "permission denied"},
		{"/bad/own", nil, "permission denied"},
		{"/bad/own-by-link", nil, "permission denied"},
		{"/bad/own-by-chain", nil, "permission denied"},
		{"/bad/own-relative", nil, "permission denied"},
		{"/bad/text", nil, "exec format error"},
		{"/bad/empty", nil, "exec format error"},
		{"/bad/cut", nil, "exec format error"},
		{"/bad/foreign", nil, "exec format error"},
		{"/bad/folder-interpreter", nil, "permission denied"},
		{"/bad/itself", nil, "too many levels"},
		{"/bad/loop", nil, "too many levels"},
		{"/bad/text/sh", nil, "not a directory"},
		{"/" + strings.Repeat("n", 256), nil, "file name too long"},
		{"/" + strings.Repeat("n/", 2100), nil, "file name too long"},
		{"/" + strings.Repeat("n", 3<<20), nil, "file name too long"},
		{"/bin/sh", many(1, 200<<10), "argument list too long: an argument has 200 KiB, and Linux takes no more than 128 KiB"},
		{"/bin/sh", many(65, 100<<10), "argument list too long: the arguments and variables have 6.35 MiB together"},
		{"/bin/sh", many(650, 10<<10), "argument list too long"},
	} {
		name := tt.builder
		if len(name) > 40 {
			name = fmt.Sprintf("%s-%d", name[:10], len(name))
		}
		t.Run(name, func(t *testing.T) {
			req := rawRequest(t, s, &derivation.Derivation{System: machineSystems()[0], Builder: tt.builder, Args: tt.args})
			req.SandboxPaths = append(systemPaths(), "/bad="+folder)
			_, err := s.Build(t.Context(), req)
			var failure *store.BuildError
			if !errors.As(err, &failure) {
				t.Fatalf("got %.300v, want a *store.BuildError", err)
			}
			if failure.Failure != store.FailedExit || failure.ExitCode != 1 || !strings.Contains(failure.Message, tt.message) || len(failure.Message) > 1000 {
				t.Errorf("got %.300v, code %d, want code 1 and %q", failure, failure.ExitCode, tt.message)
			}
			wantClean(t, s)
		})
	}
}

// rawRequest returns a request for a derivation that no recipe makes.
func rawRequest(t testing.TB, s *Store, d *derivation.Derivation) *store.BuildRequest {
	t.Helper()
	d.Outputs = []derivation.Output{{Name: "out"}}
	d.Env = append(d.Env, derivation.EnvVar{Name: "out"})
	if err := d.Fill(s.Dir(), "raw", noInputs); err != nil {
		t.Fatal(err)
	}
	path, err := s.AddText(t.Context(), "raw.drv", d.Marshal(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &store.BuildRequest{Derivation: path, Cores: 1}
}

// TestKilledFromOutside has the sandbox's first process killed from outside, which
// is not the derivation's failure.
func TestKilledFromOutside(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "victim", script: "echo started; sleep 1000"}
	req := r.request(t, s)
	var once sync.Once
	req.Log = writerFunc(func([]byte) {
		once.Do(func() {
			for _, pid := range sandboxProcesses(t) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
	})
	_, err := s.Build(t.Context(), req)
	var failure *store.BuildError
	if err == nil || errors.As(err, &failure) || !strings.Contains(err.Error(), "the sandbox ") {
		t.Errorf("got %v, want an error that does not blame the derivation", err)
	}
	wantClean(t, s)
}

// sandboxProcesses returns the first processes of this process's sandboxes.
func sandboxProcesses(t testing.TB) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // the thread may be gone
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
