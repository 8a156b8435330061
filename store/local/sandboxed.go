package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/disk"
	"lighter/internal/measure"
	"lighter/store"
	"lighter/store/local/sandbox"
)

// MaybeRunBuilder is to be called first thing in main, and in TestMain, of programs
// that build. In the process that the store starts to set a sandbox up, it would not
// return; in others it does nothing. Importing the package is what counts, since that
// process does its work while the program is still being initialized, long before
// main. See package sandbox.
func MaybeRunBuilder() {
	if os.Getenv(sandbox.Variable) != "" {
		panic("the sandbox's process has come to main")
	}
}

// The user and group that builders see themselves as (guestUID and guestGID in
// libstore), and are if this process is root.
const (
	guestUID = 30001
	guestGID = 30000
)

// drainTime is how long the log is read after the sandbox has ended. Only something
// outside could hold it open for longer.
const drainTime = 5 * time.Second

// buildUser says who builders are outside the sandbox. If change is not set they are
// who this process is.
type buildUser struct {
	change   bool
	uid, gid uint32
	groups   []uint32
}

// sandboxes are those that this open store makes, to build in or on trial.
type sandboxes struct {
	opts     Options
	claims   *claims
	users    userPool
	problem  problemCache
	networks networkCache
}

// takeUser returns who the builder of one build is. Root of a user namespace without other users does
// as an ordinary user.
func (s *sandboxes) takeUser() (buildUser, error) {
	if os.Geteuid() != 0 || !disk.HasIDs(s.opts.BuildUID, s.opts.BuildGID) {
		return buildUser{}, nil
	}
	u := buildUser{change: true, gid: s.opts.BuildGID}
	// Builds that need KVM get it, where a group may use it.
	var st unix.Stat_t
	if unix.Stat("/dev/kvm", &st) == nil && st.Mode&0o066 == 0o060 && st.Gid != 0 && st.Gid != u.gid {
		u.groups = []uint32{st.Gid}
	}
	var err error
	u.uid, err = s.users.take(uidFolder, s.opts.BuildUID)
	return u, err
}

// runBuilder runs the builder in a sandbox. The folder has its outputs afterwards.
func (b *build) runBuilder(ctx context.Context) error {
	access, err := b.networkAccess() //nolint:contextcheck // a trial is for all builds, and bounds itself
	if err != nil {
		return err
	}
	c, err := b.sandboxConfig(ctx, access)
	if err != nil {
		return err
	}
	use := b.store.meter.Own(b.req.MemoryLimit)
	end, err := runSandbox(ctx, c, access.tool, b.log, use)
	b.used = use.End()
	if err != nil {
		return err
	}
	switch end.Kind {
	case sandbox.NoExec:
		return b.notStarted(c, end.Errno)
	case sandbox.Exited:
		return b.exitError(end.Status)
	case sandbox.Started:
		return b.plainFailure("the builder ended the first process of its sandbox")
	case sandbox.Failed:
	}
	return fmt.Errorf("the sandbox ended with message %q", end.Kind)
}

// plainFailure is a failure with the exit code that guix-daemon gives where no builder
// has given one.
func (b *build) plainFailure(format string, args ...any) error {
	failure := b.failure(store.FailedExit, format, args...)
	failure.ExitCode = 1
	return failure
}

// maxShown is how much of a derivation's text a message shows, in bytes.
const maxShown = 256

func shorten(text string) string {
	if len(text) <= maxShown {
		return text
	}
	return text[:maxShown] + "…"
}

// lastLines comes in a message before the last lines of the log.
const lastLines = "; its last lines were:\n"

// exitError returns the error of a builder that has ended, or nil if it has succeeded.
func (b *build) exitError(status unix.WaitStatus) error {
	var how string
	var code int
	kind := store.FailedExit
	switch {
	case status.Exited() && status.ExitStatus() == 0:
		return nil
	case status.Exited():
		code = status.ExitStatus()
		how = fmt.Sprintf("the builder failed with exit code %d", code)
	default:
		code = 128 + int(status.Signal())
		how = fmt.Sprintf("the builder was killed by signal %d (%v)", int(status.Signal()), status.Signal())
	}
	// A shell says so of what it ran; make and compilers don't, but the kernel may.
	if code == 128+int(unix.SIGKILL) || b.used.KilledForMemory {
		kind = store.FailedKilled
	}
	if last := b.log.lastLines(); last != "" {
		how += lastLines + last
	}
	failure := b.failure(kind, "%s", how)
	failure.ExitCode = code
	return failure
}

// sandboxConfig returns what the sandbox contains, and makes what that needs in the build's
// folder.
func (b *build) sandboxConfig(ctx context.Context, access networkAccess) (*sandbox.Config, error) {
	c := b.store.sandboxes.newConfig(b.folder, access)
	c.Personality = personality(b.drv.System)
	c.Builder = b.drv.Builder
	c.Args = append([]string{path.Base(b.drv.Builder)}, b.drv.Args...)
	c.Env = b.environment()
	if !path.IsAbs(b.drv.Builder) {
		return nil, b.plainFailure("the builder %q is not an absolute file name", shorten(b.drv.Builder))
	}
	for _, v := range slices.Concat(c.Args, c.Env, []string{c.Builder}) {
		if strings.IndexByte(v, 0) >= 0 {
			return nil, b.plainFailure("the derivation has a NUL in a builder's argument or variable")
		}
	}
	if err := b.addSandboxPaths(c); err != nil {
		return nil, err
	}
	slices.SortStableFunc(c.Paths, func(x, y sandbox.Bind) int { return strings.Compare(x.Inside, y.Inside) })
	if err := b.writeReferencesGraphs(ctx); err != nil {
		return nil, err
	}
	items, err := b.mountPoints()
	if err != nil {
		return nil, err
	}
	for _, r := range items {
		c.Items = append(c.Items, sandbox.Bind{Outside: b.store.layout.data(r.data()), Inside: r.Path.Base()})
	}
	return c, nil
}

// newConfig returns what all sandboxes contain.
func (s *sandboxes) newConfig(f buildFolder, access networkAccess) *sandbox.Config {
	u := f.user
	uid, gid := uint32(guestUID), uint32(guestGID)
	if u.change {
		gid = u.gid
		if !userNamespacesAllowed() { // it can't be made to look like another
			uid = u.uid
		}
	}
	c := &sandbox.Config{
		Root:     f.root(),
		Store:    f.store(),
		StoreDir: string(s.claims.layout.dir),
		Tmp:      f.tmp(),
		Folder:   f.topInside(),
		Files: []sandbox.File{
			{Inside: "/etc/passwd", Contents: fmt.Sprintf("nixbld:x:%d:%d:Nix build user:/:/noshell\nnobody:x:65534:65534:Nobody:/:/noshell\n", uid, gid)},
			{Inside: "/etc/group", Contents: fmt.Sprintf("nixbld:!:%d:\n", gid)},
		},
		SetUser:      u.change,
		UID:          uid,
		HostUID:      u.uid,
		GID:          u.gid,
		Groups:       u.groups,
		HostNetwork:  access.host,
		Personality:  personalityNoRandomize,
		MaxProcesses: s.opts.MaxProcesses,
	}
	var names []string
	switch {
	case access.host:
		names = []string{"/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/services"}
	case access.tool != nil:
		names = []string{"/etc/nsswitch.conf", "/etc/services"}
		c.Interface = tapName
		c.Files = append(c.Files, networkFiles(access.tool)...)
	default:
		c.Files = append(c.Files, sandbox.File{Inside: "/etc/hosts", Contents: "127.0.0.1 localhost\n"})
	}
	for _, name := range names {
		if _, err := os.Stat(name); err == nil {
			c.Paths = append(c.Paths, sandbox.Bind{Outside: name, Inside: name})
		}
	}
	return c
}

func (b *build) addSandboxPaths(c *sandbox.Config) error {
	if len(b.req.SandboxPaths) == 0 {
		return nil
	}
	v, err := b.store.view()
	if err != nil {
		return err
	}
	for _, text := range b.req.SandboxPaths {
		bind, err := b.sandboxPath(v, text)
		if err != nil {
			return err
		}
		c.Paths = append(c.Paths, bind)
	}
	return nil
}

// sandboxPath reads one of the request's sandbox paths.
func (b *build) sandboxPath(v *view, text string) (sandbox.Bind, error) {
	inside, outside, two := strings.Cut(text, "=")
	if !two {
		outside = inside
	}
	dir := string(b.store.layout.dir)
	switch {
	case !path.IsAbs(inside) || path.Clean(inside) != inside || inside == "/":
		return sandbox.Bind{}, fmt.Errorf("sandbox path %q: %q is not a clean absolute file name", text, inside)
	case !path.IsAbs(outside):
		return sandbox.Bind{}, fmt.Errorf("sandbox path %q: %q is not an absolute file name", text, outside)
	case inside == dir || strings.HasPrefix(inside, dir+"/") || strings.HasPrefix(dir, inside+"/"):
		return sandbox.Bind{}, fmt.Errorf("sandbox path %q: %s is the store's own", text, inside)
	case inside == "/proc" || strings.HasPrefix(inside, "/proc/") || inside == "/dev" || inside == "/tmp" || strings.HasPrefix(inside, "/tmp/"):
		return sandbox.Bind{}, fmt.Errorf("sandbox path %q: %s is the sandbox's own", text, inside)
	}
	bind, err := v.outside(outside)
	if err != nil {
		return sandbox.Bind{}, fmt.Errorf("sandbox path %q: %w", text, err)
	}
	bind.Inside = inside
	return bind, nil
}

// runSandbox runs a sandbox until it ends, with the program that makes its network unless
// tool is nil, and returns its last message. If the context ends, it kills everything in the
// sandbox; then the message says nothing. use is told what it uses, unless it is nil.
func runSandbox(ctx context.Context, c *sandbox.Config, tool *networkTool, log io.Writer, use *measure.Build) (sandbox.Message, error) {
	p, err := startSandbox(c, use)
	if err != nil {
		return sandbox.Message{}, err
	}
	use.Watch(p.process.Pid, false)
	stop := context.AfterFunc(ctx, func() { _ = p.process.Kill() })
	var said sayings
	var n *network
	if tool != nil {
		if n, err = startNetwork(tool, p.process.Pid); err == nil {
			defer n.end()
			go n.await(&said.any, p.process)
		} else {
			_ = p.process.Kill()
		}
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		_, _ = io.Copy(log, p.log) // it ends with the sandbox, in whatever way
	}()
	// The sandbox reads all of it before it does anything else; if it dies, that shows
	// in what it says.
	_, _ = p.control.Write(c.Encode())
	_, _ = io.Copy(&said, io.LimitReader(p.control, 1<<20))

	state, waitErr := p.process.Wait()
	stop()
	_ = p.log.SetReadDeadline(time.Now().Add(drainTime))
	<-logged
	p.control.Close()
	p.log.Close()
	if err == nil && waitErr != nil {
		err = fmt.Errorf("wait for the sandbox: %w", waitErr)
	}
	if err != nil {
		return sandbox.Message{}, err
	}
	use.CPU(state.UserTime() + state.SystemTime())
	if ctx.Err() != nil {
		return sandbox.Message{}, context.Cause(ctx)
	}
	m, err := lastMessage(c, said.text, state.Sys().(syscall.WaitStatus)) //nolint:forcetypeassert // it is on Linux
	use.Largest(int64(m.Largest))                                         //nolint:gosec // the kernel's
	if n != nil && (err != nil && n.failed(0) || c.Probe && n.failed(settleTime)) {
		err = n.problem()
	}
	return m, err
}

// sayings are what a sandbox says: first, that the builder has started, or why not.
type sayings struct {
	text []byte
	any  atomic.Bool
}

func (s *sayings) Write(p []byte) (int, error) {
	s.text = append(s.text, p...)
	s.any.Store(true)
	return len(p), nil
}

// lastMessage returns the last message of a sandbox that ended with a status, or what
// it says went wrong. If the last message is that the builder has started, the builder has
// ended the sandbox. No way is known to do that; SIGKILL, which it can't use for it, comes
// from outside.
func lastMessage(c *sandbox.Config, said []byte, status syscall.WaitStatus) (sandbox.Message, error) {
	var last sandbox.Message
	d := sandbox.NewDecoder(said)
	for {
		m, ok := d.Message()
		if !ok {
			break
		}
		last = m
	}
	switch {
	case last.Kind == sandbox.Failed:
		return last, setupError(last.Step, last.Errno)
	case last.Kind == 0 && (!c.Probe || !status.Exited() || status.ExitStatus() != 0):
		return last, errors.New("the sandbox ended before it said anything")
	case last.Kind == sandbox.Started && status.Signaled() && status.Signal() == unix.SIGKILL:
		return last, errors.New("the sandbox was killed from outside")
	}
	return last, nil
}

// sandboxProcess is the first process of a sandbox.
type sandboxProcess struct {
	process *os.Process
	control net.Conn
	log     *os.File
}

// startSandbox starts it.
func startSandbox(c *sandbox.Config, use *measure.Build) (*sandboxProcess, error) {
	control, theirs, err := controlSocket()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	logReader, logWriter, err := os.Pipe()
	if err != nil {
		control.Close()
		return nil, err
	}
	defer logWriter.Close()
	process, err := startProcess(c, logWriter, theirs, use)
	if err != nil {
		control.Close()
		logReader.Close()
		return nil, err
	}
	return &sandboxProcess{process: process, control: control, log: logReader}, nil
}

// controlSocket returns the two ends of a socket, theirs for a process of package sandbox.
func controlSocket() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "sandbox"), os.NewFile(uintptr(fds[1]), "sandbox")
	defer ours.Close() // net.FileConn duplicates it
	control, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return control, theirs, nil
}

func startProcess(c *sandbox.Config, log, control *os.File, use *measure.Build) (*os.Process, error) {
	if c.SetUser { // who may open /dev/stderr
		if err := log.Chown(int(c.HostUID), int(c.GID)); err != nil {
			return nil, err
		}
	}
	attr := namespaces(c)
	inGroup := use.Attr(attr)
	process, err := startSelf("1", log, control, attr)
	if err != nil && inGroup {
		// Whether that is to blame the next try tells.
		without, stillErr := startSelf("1", log, control, namespaces(c))
		if stillErr == nil {
			use.GiveUpGroup(err)
		}
		process, err = without, stillErr
	}
	if err != nil {
		return nil, startError(err)
	}
	return process, nil
}

// startSelf starts this program once more, as the process that package sandbox makes of it
// for a value of its variable.
func startSelf(value string, log, control *os.File, attr *syscall.SysProcAttr) (*os.Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return os.StartProcess("/proc/self/exe", []string{"lighter-sandbox"}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{sandbox.Variable + "=" + value, "GOMAXPROCS=1", "GODEBUG=containermaxprocs=0,updatemaxprocs=0", "GOTRACEBACK=none"},
		Files: []*os.File{null, log, log, control},
		Sys:   attr,
	})
}

// namespaces returns the namespaces to ask the kernel for. Where user namespaces are not
// allowed, root does with the others.
func namespaces(c *sandbox.Config) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Setsid:     true,
	}
	if !c.HostNetwork {
		attr.Cloneflags |= syscall.CLONE_NEWNET
	}
	if c.SetUser && !userNamespacesAllowed() {
		return attr
	}
	attr.Cloneflags |= syscall.CLONE_NEWUSER
	if !c.SetUser {
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: guestUID, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: guestGID, HostID: os.Getegid(), Size: 1}}
		// Only root keeps its capabilities over execve(2) by itself.
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP}
		return attr
	}
	attr.UidMappings = append(identity(0), syscall.SysProcIDMap{ContainerID: int(c.UID), HostID: int(c.HostUID), Size: 1})
	attr.GidMappings = identity(append([]uint32{0, c.GID}, c.Groups...)...)
	attr.GidMappingsEnableSetgroups = true
	return attr
}

// identity maps ids to themselves.
func identity(ids ...uint32) []syscall.SysProcIDMap {
	var mappings []syscall.SysProcIDMap
	for _, id := range ids {
		mappings = append(mappings, syscall.SysProcIDMap{ContainerID: int(id), HostID: int(id), Size: 1})
	}
	return mappings
}
