package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/disk"
	"lighter/store/local/sandbox"
)

// FixedOutputNetwork says what network builders of fixed-output derivations get. Other
// builders have none, and builtin:download runs in this process.
//
// A network of their own has a way out, but none to what listens on this machine's
// loopback addresses or on abstract Unix sockets. An installed program makes it,
// slirp4netns or pasta (of passt): a TCP/IP stack in this program would make each agent
// a few megabytes larger, for builds that are rare.
type FixedOutputNetwork string

// The values. The empty one is NetworkBest.
const (
	NetworkBest     FixedOutputNetwork = "best"     // isolated if there is a program for it, else the host's
	NetworkIsolated FixedOutputNetwork = "isolated" // or no such builds
	NetworkHost     FixedOutputNetwork = "host"     // this machine's own
)

// tapName is the network interface of fixed-output builds.
const tapName = "tap0"

// Limits for the programs that make networks: how long one may take to print its help,
// how much of its output is kept, in bytes, and how long the trial may take.
const (
	helpTime    = 5 * time.Second
	maxToolSays = 4 << 10
	trialTime   = 20 * time.Second
)

// settleTime is how long a program on trial must go on after it has made its network: some
// give up their privileges only then, and fail in that.
const settleTime = 300 * time.Millisecond

// networkTool is a program that makes networks.
type networkTool struct {
	name     string
	file     string
	resolver string // what answers DNS inside, as this machine's resolver does
	options  []string
}

// command returns its arguments to serve a process, including the 0th.
func (n *networkTool) command(pid int) []string {
	args := append([]string{n.name}, n.options...)
	if n.name == pasta {
		return append(args, fmt.Sprint(pid))
	}
	return append(args, fmt.Sprint(pid), tapName)
}

const (
	slirp = "slirp4netns"
	pasta = "pasta"
)

// networkTools are the programs to look for. For root, slirp4netns comes first: guix-daemon
// uses it, and it gives up its capabilities and needs no default route, while pasta keeps
// CAP_SYS_ADMIN. For others pasta comes first: slirp4netns has a sandbox of its own only in
// user namespaces that have a root, and those of builds have none.
var networkTools = []knownTool{
	{slirp, "10.0.2.3", []string{"--configure", "--disable-host-loopback"}, []string{"--mtu=65520", "--enable-seccomp"}},
	{
		pasta, "169.254.1.1",
		[]string{"--config-net", "--foreground", "--no-map-gw", "--tcp-ports=none", "--udp-ports=none", "--tcp-ns=none", "--udp-ns=none", "--ns-ifname=" + tapName},
		[]string{"--dns-forward=169.254.1.1", "--quiet", "--stderr"},
	},
}

// knownTool is a program that may be installed.
type knownTool struct {
	name, resolver string
	needed         []string // options without which it opens the host to builds
	wanted         []string // options that its version may lack
}

// find returns the installed program, or why it can't be used.
func (t *knownTool) find() (*networkTool, error) {
	file := ""
	for _, folder := range append(strings.Split(os.Getenv("PATH"), ":"), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/run/current-system/profile/bin", "/run/current-system/profile/sbin") {
		if strings.HasPrefix(folder, "/") && unix.Access(folder+"/"+t.name, unix.X_OK) == nil {
			file = folder + "/" + t.name
			break
		}
	}
	if file == "" {
		return nil, errors.New("it is not installed")
	}
	if err := unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK); err != nil {
		return nil, fmt.Errorf("this user can't open /dev/net/tun: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), helpTime)
	defer cancel()
	help, err := exec.CommandContext(ctx, file, "--help").CombinedOutput()
	if err != nil && len(help) == 0 {
		return nil, err
	}
	has := func(option string) bool {
		option, _, _ = strings.Cut(option, "=")
		return bytes.Contains(help, []byte(option))
	}
	n := &networkTool{name: t.name, file: file, resolver: t.resolver, options: slices.Clone(t.needed)}
	for _, option := range t.needed {
		if !has(option) {
			return nil, fmt.Errorf("%s is too old: it has no %s", file, option)
		}
	}
	for _, option := range slices.Concat(t.wanted, n.more()) {
		if has(option) {
			n.options = append(n.options, option)
		}
	}
	return n, nil
}

// more returns the options that depend on this machine and this user.
func (n *networkTool) more() (options []string) {
	root := disk.IsRoot()
	if n.name == pasta && root {
		options = append(options, "--runas=0:0") // as another user it can't join the build's namespaces
	}
	if n.name == slirp && root {
		options = append(options, "--enable-sandbox")
	}
	if n.name == slirp && hasIPv6() {
		options = append(options, "--enable-ipv6")
	}
	return options
}

// hasIPv6 reports whether this machine has a global IPv6 address. Without one, builds get
// none either: programs that have one try IPv6 first.
func hasIPv6() bool {
	text, _ := os.ReadFile("/proc/net/if_inet6")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == "00" { // IPV6_ADDR_ANY: global
			return true
		}
	}
	return false
}

// networkCache remembers which program makes networks, or why there is none.
type networkCache struct {
	mu    sync.Mutex
	asked time.Time
	tool  *networkTool
	err   error
}

// networkTool returns the program for a fixed-output build; nil stands for the host's
// network. It is an error if there must be one and none works.
func (s *sandboxes) networkTool() (*networkTool, error) {
	if s.opts.FixedOutputNetwork == NetworkHost {
		return nil, nil //nolint:nilnil // as documented
	}
	tool, err := s.workingTool()
	if err != nil && s.opts.FixedOutputNetwork == NetworkIsolated {
		return nil, fmt.Errorf("fixed-output builds must have a network of their own here: %w", err)
	}
	return tool, nil
}

// workingTool tries the programs in a sandbox, unless it has done so lately.
func (s *sandboxes) workingTool() (*networkTool, error) {
	n := &s.networks
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.asked.IsZero() && (n.err == nil || time.Since(n.asked) < problemAge) {
		return n.tool, n.err
	}
	first := n.asked.IsZero()
	n.tool, n.err = nil, nil
	var problems []string
	known := slices.Clone(networkTools)
	if !disk.IsRoot() {
		slices.Reverse(known)
	}
	for _, t := range known {
		tool, err := t.find()
		if err == nil {
			err = s.try(trialTime, networkAccess{tool: tool})
		}
		if err == nil {
			n.tool, problems = tool, nil
			break
		}
		problems = append(problems, t.name+": "+err.Error())
	}
	if n.tool == nil {
		n.err = noTool(problems)
	}
	n.asked = time.Now()
	if first && n.err != nil {
		s.opts.Logger.Warn("fixed-output builds share this machine's network, or are refused", "err", n.err)
	}
	return n.tool, n.err
}

// NetworkProblem returns what fixed-output builds lack here, with what to change, or nil
// if they have a network of their own or the owner wants none. Before the first such
// build it only knows what is installed.
func (s *Store) NetworkProblem() error {
	var problem string
	switch s.opts.FixedOutputNetwork {
	case NetworkHost:
		return nil
	case NetworkIsolated:
		problem = "fixed-output builds are refused"
	default:
		problem = "fixed-output builds share this machine's network"
	}
	n := &s.sandboxes.networks
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.err
	if n.asked.IsZero() {
		err = installedTool()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", problem, err)
	}
	return nil
}

// installedTool returns why there is no program for networks.
var installedTool = sync.OnceValue(func() error {
	var problems []string
	for _, t := range networkTools {
		_, err := t.find()
		if err == nil {
			return nil
		}
		problems = append(problems, t.name+": "+err.Error())
	}
	return noTool(problems)
})

func noTool(problems []string) error {
	return fmt.Errorf("install slirp4netns or passt (%s)", strings.Join(problems, "; "))
}

// networkFiles returns what is in /etc of a sandbox with a network of its own. This
// machine's resolver may be on the loopback interface; the resolver inside asks it.
func networkFiles(tool *networkTool) []sandbox.File {
	resolv := "nameserver " + tool.resolver + "\n"
	for line := range strings.Lines(readHead("/etc/resolv.conf")) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "search" || f[0] == "domain" || f[0] == "options") {
			resolv += strings.Join(f, " ") + "\n"
		}
	}
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for line := range strings.Lines(readHead("/etc/hosts")) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if address, err := netip.ParseAddr(f[0]); err == nil && !address.Unmap().IsLoopback() {
			hosts += strings.Join(f, " ") + "\n"
		}
	}
	return []sandbox.File{{Inside: "/etc/resolv.conf", Contents: resolv}, {Inside: "/etc/hosts", Contents: hosts}}
}

// readHead returns the contents of a file, up to a limit, or nothing.
func readHead(name string) string {
	const limit = 256 << 10 // only lists of hosts to block are longer, and they don't matter here
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, limit))
	return string(text)
}

// network is a program that serves a sandbox.
type network struct {
	tool    *networkTool
	process *os.Process
	control io.Closer
	ended   chan struct{}
	says    *os.File
	said    chan string
}

// networkAccess is the network that a builder gets; the zero value is none.
type networkAccess struct {
	host bool
	tool *networkTool
}

func (b *build) networkAccess() (networkAccess, error) {
	if _, fixed := b.drv.FixedOutput(); !fixed {
		return networkAccess{}, nil
	}
	tool, err := b.store.sandboxes.networkTool()
	return networkAccess{host: tool == nil, tool: tool}, err
}

// startNetwork starts a program that serves the network of a process.
func startNetwork(tool *networkTool, pid int) (*network, error) {
	ours, theirs, err := controlSocket()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	says, stderr, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer stderr.Close()
	process, err := startSelf(sandbox.WatchValue, stderr, theirs, &syscall.SysProcAttr{Setsid: true})
	if err != nil {
		ours.Close()
		says.Close()
		return nil, fmt.Errorf("start %s: %w", tool.name, err)
	}
	n := &network{tool: tool, process: process, control: ours, ended: make(chan struct{}), says: says, said: make(chan string, 1)}
	w := sandbox.Watched{Program: tool.file, Args: tool.command(pid)}
	_, _ = ours.Write(w.Encode()) // it is small; if the process dies, that will show
	go func() {
		head, _ := io.ReadAll(io.LimitReader(says, maxToolSays))
		n.said <- string(head)
		_, _ = io.Copy(io.Discard, says)
	}()
	go func() {
		defer close(n.ended)
		_, _ = process.Wait()
	}()
	return n, nil
}

// await kills a sandbox whose program ends before the builder could start. A builder that
// has started goes on: what it does to its network is its own business.
func (n *network) await(started *atomic.Bool, sandbox *os.Process) {
	<-n.ended
	if !started.Load() {
		_ = sandbox.Kill()
	}
}

// failed reports whether the program ends by itself within a time.
func (n *network) failed(within time.Duration) bool {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-n.ended:
		return true
	case <-timeout.C:
	}
	select {
	case <-n.ended:
		return true
	default:
		return false
	}
}

// problem returns why the program ended by itself.
func (n *network) problem() error {
	said := "it said nothing"
	select {
	case text := <-n.said:
		said = lastWords(text, said)
	case <-time.After(drainTime):
	}
	return fmt.Errorf("%s, which should have made the network of a fixed-output build, ended: %s", n.tool.file, said)
}

// lastWords returns the line that says what went wrong, not what the program prints as it
// ends; none if there is no such line.
func lastWords(text, none string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.ToValidUTF8(line, "?"))
		switch {
		case line == "", strings.HasPrefix(line, "WARNING: "), strings.HasPrefix(line, "sent tapfd"), strings.HasPrefix(line, "received tapfd"), strings.HasSuffix(line, " syslog"):
			// Both programs also talk about themselves.
		default:
			return line
		}
	}
	return none
}

// end ends the program.
func (n *network) end() {
	n.control.Close()
	<-n.ended
	n.says.Close()
}
