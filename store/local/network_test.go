package local

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
	"lighter/store"
)

// Variables with which the tests of networks run this program once more: in a network
// of its own, which root sets up, and there once more, as a user who builds.
const (
	networkVariable = "LIGHTER_TEST_NETWORK"
	targetVariable  = "LIGHTER_TEST_TARGETS"
)

// Addresses in that network: of its way out, of another host, and of its resolver,
// which is on the loopback interface as systemd's is.
const (
	hostAddress  = "203.0.113.5"
	otherAddress = "198.51.100.9"
	resolver     = "127.0.0.53"
)

// TestFixedOutputNetwork has fixed-output builders attack what listens on the machine,
// and reach what is beyond it.
func TestFixedOutputNetwork(t *testing.T) {
	needBuilds(t)
	testkit.NeedRoot(t)
	for _, name := range []string{"ip", slirp, pasta} {
		testkit.NeedCommand(t, name)
	}
	runInNetwork(t, "root", "^TestInNetwork$", &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET})
}

func runInNetwork(t *testing.T, stage, test string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run="+test, "-test.v")
	cmd.Env = append(os.Environ(), networkVariable+"="+stage)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS") {
		t.Errorf("nothing was tested:\n%s", out)
	}
}

// TestInNetwork sets the network up, and has root and an ordinary user build.
func TestInNetwork(t *testing.T) {
	if os.Getenv(networkVariable) != "root" {
		t.Skip("TestFixedOutputNetwork runs it")
	}
	folder := scratch(t)
	if err := os.Chmod(folder, 0o1777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", folder)
	resolv := filepath.Join(folder, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("search example\nnameserver "+resolver+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	devices := filepath.Join(folder, "devices") // what it is in may be mounted without any
	tun := filepath.Join(devices, "tun")
	for _, err := range []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(resolv, "/etc/resolv.conf", "", unix.MS_BIND, ""),
		os.Mkdir(devices, 0o755),
		unix.Mount("tmpfs", devices, "tmpfs", 0, ""),
		unix.Mknod(tun, unix.S_IFCHR, int(unix.Mkdev(10, 200))),
		os.Chmod(tun, 0o666), // as udev has it
		unix.Mount(tun, "/dev/net/tun", "", unix.MS_BIND, ""),
		unix.Unmount(devices, unix.MNT_DETACH),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		"link set lo up",
		"link add out0 type veth peer name in0", "link set in0 up", "link set out0 up", "addr add " + hostAddress + "/24 dev out0", "addr add 2001:db8::5/64 dev out0 nodad",
		"route add default via 203.0.113.1 dev out0", "-6 route add default via 2001:db8::1 dev out0",
		"addr add " + otherAddress + "/24 dev in0",
	} {
		if out, err := exec.CommandContext(t.Context(), testkit.NeedCommand(t, "ip"), strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", line, err, out)
		}
	}
	names, err := net.ListenPacket("udp", resolver+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer names.Close()
	go answerNames(names)
	runInNetwork(t, "builder", "^TestNetworkTools$", nil)
	runInNetwork(t, "builder", "^TestNetworkTools$", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}})
}

// answerNames is a DNS server for which every name is otherAddress.
func answerNames(c net.PacketConn) {
	query := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(query)
		if err != nil {
			return
		}
		end := 12 + slices.Index(query[12:n], 0) + 1 + 4 // of the question
		reply := append(slices.Clone(query[:2]), 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0)
		reply = append(reply, query[12:end]...)
		if query[end-3] == 1 { // an A record is asked for
			reply[7] = 1
			address := netip.MustParseAddr(otherAddress).As4()
			reply = append(append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4), address[:]...)
		}
		_, _ = c.WriteTo(reply, from)
	}
}

// TestNetworkTools builds with each program.
func TestNetworkTools(t *testing.T) {
	if os.Getenv(networkVariable) != "builder" {
		t.Skip("TestFixedOutputNetwork runs it")
	}
	t.Logf("as %d", os.Geteuid())
	program := attackerProgram(t)
	for _, known := range networkTools {
		t.Run(known.name, func(t *testing.T) {
			s := openTestStore(t)
			tool, err := known.find()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.sandboxes.try(trialTime, networkAccess{tool: tool}); err != nil {
				t.Fatal(err)
			}
			s.sandboxes.networks.tool, s.sandboxes.networks.asked = tool, time.Now()
			w := listen(t)
			log, err := attack(t, s, program, "network", &recipe{env: map[string]string{targetVariable: w.targets}, hash: "sha256 " + strings.Repeat("0", 64)})
			var failure *store.BuildError
			if !errors.As(err, &failure) || failure.ExitCode != survived {
				t.Errorf("got %v, want exit code %d\n%s", err, survived, log)
			}
			for _, name := range w.reached() {
				t.Errorf("the builder has reached %s", name)
			}
			if !w.outside.Load() {
				t.Error("the builder has not reached what is outside")
			}
			wantClean(t, s)
			wantNoTools(t)
		})
	}
	t.Run("killed", func(t *testing.T) {
		for _, known := range networkTools {
			killBuilding(t, known.name)
		}
	})
}

// listeners is what listens while a builder attacks.
type listeners struct {
	targets string // "NETWORK ADDRESS" in lines, the last one is to be reached
	outside atomic.Bool
	mu      sync.Mutex
	hits    []string
}

func (w *listeners) reached() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hits
}

func (w *listeners) hit(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hits = append(w.hits, name)
}

func listen(t *testing.T) *listeners {
	t.Helper()
	w := new(listeners)
	add := func(network, address string) { w.targets += network + " " + address + "\n" }
	stream := func(network, address string) string {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if strings.HasPrefix(address, otherAddress) {
					w.outside.Store(true)
				} else {
					w.hit(network + " " + address)
				}
				c.Close()
			}
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return port
	}
	four, six := stream("tcp", "127.0.0.1:0"), stream("tcp", "[::1]:0")
	onResolver := stream("tcp", resolver+":0")
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	go func() {
		if _, from, err := udp.ReadFrom(make([]byte, 100)); err == nil {
			w.hit("udp from " + from.String())
		}
	}()
	_, udpPort, _ := net.SplitHostPort(udp.LocalAddr().String())
	abstract := fmt.Sprintf("@lighter-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	stream("unix", abstract)
	add("unix", abstract)
	for _, address := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "10.0.2.2", "10.0.2.3", "10.0.2.4", "10.0.2.1", "10.0.2.255", "169.254.1.1", "169.254.1.2", "203.0.113.1", hostAddress, resolver} {
		add("tcp", address+":"+four)
		add("tcp", address+":"+onResolver)
		add("udp", address+":"+udpPort)
	}
	for _, address := range []string{"::1", "::", "::ffff:127.0.0.1", "fd00::2", "fd00::3", "fd00::1", "fe80::1%tap0", "fe80::2%tap0", "fe80::3%tap0", "2001:db8::1", "2001:db8::5"} {
		add("tcp", "["+address+"]:"+six)
		add("tcp", "["+address+"]:"+four)
	}
	add("tcp", net.JoinHostPort("anything.test", stream("tcp", otherAddress+":0")))
	w.targets = strings.TrimSpace(w.targets)
	return w
}

// attackNetwork connects to what it is told. Who listens tells what it has reached.
func attackNetwork() error {
	targets := strings.Split(os.Getenv(targetVariable), "\n")
	var wg sync.WaitGroup
	for _, target := range targets[:len(targets)-1] {
		wg.Go(func() {
			network, address, _ := strings.Cut(target, " ")
			c, err := net.DialTimeout(network, address, time.Second)
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			c.Close()
		})
	}
	wg.Wait()
	network, address, _ := strings.Cut(targets[len(targets)-1], " ")
	c, err := net.DialTimeout(network, address, 20*time.Second)
	if err != nil {
		return fmt.Errorf("outside: %w", err)
	}
	c.Close()
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil || strings.Count(string(sockets), "\n") != 1 {
		return fmt.Errorf("sockets: %s, %w", sockets, err)
	}
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) != 2 || interfaces[0].Name != "lo" || interfaces[1].Name != tapName {
		return fmt.Errorf("interfaces: %v, %w", interfaces, err)
	}
	if processes, err := filepath.Glob("/proc/[0-9]*"); err != nil || len(processes) != 2 {
		return fmt.Errorf("processes: %v, %w", processes, err)
	}
	return nil
}

// toolsHere returns the programs that serve networks in this network.
func toolsHere(t testing.TB) (found []string) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range all {
		command, _ := os.ReadFile(process + "/cmdline")
		name, _, _ := strings.Cut(string(command), "\x00")
		if name != slirp && name != pasta && name != "lighter-sandbox" {
			continue
		}
		// Those of a user's namespaces don't show theirs.
		if where, err := os.Readlink(process + "/ns/net"); err != nil || where == own {
			found = append(found, process+" "+name)
		}
	}
	return found
}

// wantNoTools waits until no program serves a network any more.
func wantNoTools(t testing.TB) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = toolsHere(t); len(left) == 0 {
			return
		}
	}
	t.Errorf("still there: %q", left)
}

// killBuilding kills a process that builds: what makes the network ends as well.
func killBuilding(t *testing.T, tool string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestBuildForever$")
	cmd.Env = append(os.Environ(), networkVariable+"="+tool)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if len(toolsHere(t)) == 0 {
		t.Errorf("no %s runs", tool)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	wantNoTools(t)
}

// TestBuildForever is a process to be killed.
func TestBuildForever(t *testing.T) {
	known := slices.IndexFunc(networkTools, func(k knownTool) bool { return k.name == os.Getenv(networkVariable) })
	if known < 0 {
		t.Skip("TestNetworkTools runs it")
	}
	s := openTestStore(t)
	tool, err := networkTools[known].find()
	if err != nil {
		t.Fatal(err)
	}
	s.sandboxes.networks.tool, s.sandboxes.networks.asked = tool, time.Now()
	r := &recipe{name: "forever", script: "echo started; sleep 1000", hash: "sha256 " + strings.Repeat("0", 64)}
	req := r.request(t, s)
	req.Log = os.Stdout
	_, err = s.Build(t.Context(), req)
	t.Error(err)
}

// TestNetworkChoice has no program at hand.
func TestNetworkChoice(t *testing.T) {
	needBuilds(t)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		choice  FixedOutputNetwork
		problem string // of the store
		refused bool
	}{
		{"", "share this machine's network: install", false},
		{NetworkBest, "share this machine's network: install", false},
		{NetworkHost, "", false},
		{NetworkIsolated, "are refused: install", true},
	} {
		t.Run(string(tt.choice), func(t *testing.T) {
			s := openWith(t, Options{Root: filepath.Join(scratch(t), "store"), FixedOutputNetwork: tt.choice})
			s.sandboxes.networks.err, s.sandboxes.networks.asked = noTool(nil), time.Now().Add(time.Hour)
			if got := fmt.Sprint(s.NetworkProblem()); !strings.Contains(got, tt.problem) {
				t.Errorf("problem: %s", got)
			}
			r := &recipe{name: "where", script: "readlink /proc/self/ns/net", hash: "sha256 " + strings.Repeat("0", 64)}
			req := r.request(t, s)
			var log strings.Builder
			req.Log = &log
			_, err := s.Build(t.Context(), req)
			var failure *store.BuildError
			if blamed := errors.As(err, &failure); blamed == tt.refused {
				t.Errorf("got %v", err)
			}
			if (log.String() == own+"\n") == tt.refused {
				t.Errorf("the builder was in %q, this is %s", log.String(), own)
			}
			// Others go on as ever.
			(&recipe{name: "ordinary", script: "echo > $out"}).mustBuild(t, s)
		})
	}
}

// TestAbstractSockets shares the network of the machine with a builder, and keeps its
// abstract sockets where the kernel can.
func TestAbstractSockets(t *testing.T) {
	needBuilds(t)
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || abi < 6 {
		testkit.Missing(t, errors.New("this kernel is older than 6.12, or has no Landlock"))
	}
	s := openWith(t, Options{Root: filepath.Join(scratch(t), "store"), FixedOutputNetwork: NetworkHost})
	name := fmt.Sprintf("@lighter-test-%d", os.Getpid())
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := &recipe{env: map[string]string{targetVariable: name}, hash: "sha256 " + strings.Repeat("0", 64)}
	log, err := attack(t, s, attackerProgram(t), "sockets", r)
	var failure *store.BuildError
	if !errors.As(err, &failure) || failure.ExitCode != survived {
		t.Errorf("got %v, want exit code %d\n%s", err, survived, log)
	}
}

func attackSockets() error {
	name := os.Getenv(targetVariable)
	if _, err := net.Dial("unix", name); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("an abstract socket of the machine: %w", err)
	}
	l, err := net.Listen("unix", name+"-own")
	if err != nil {
		return err
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
		}
	}()
	_, err = net.Dial("unix", name+"-own")
	return err
}

// TestNetworkFiles reads what fixed-output builds find in /etc.
func TestNetworkFiles(t *testing.T) {
	files := networkFiles(&networkTool{resolver: "10.0.2.3"})
	if len(files) != 2 || !strings.HasPrefix(files[0].Contents, "nameserver 10.0.2.3\n") || strings.Count(files[0].Contents, "nameserver") != 1 {
		t.Errorf("resolv.conf: %q", files[0].Contents)
	}
	for line := range strings.Lines(files[1].Contents) {
		f := strings.Fields(line)
		if address, err := netip.ParseAddr(f[0]); err != nil || address.IsLoopback() && f[1] != "localhost" {
			t.Errorf("hosts: %q", line)
		}
	}
}
