package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/crypto/ssh"

	"lighter/internal/agent"
	"lighter/internal/agentapi"
	"lighter/internal/agentd"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/owner"
	"lighter/internal/version"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/sshtransport"
	"lighter/store"
	"lighter/store/local"
)

func agentCommand() *command.Command {
	return &command.Command{
		Name:  "agent",
		Short: "make this computer a machine without sshd",
		Long: `Runs an SSH server of lighter's own in the foreground, with the agent and its store behind it. It offers builds and nothing else: no shell, no commands, no files; builds see only those of this computer's files that --sandbox-path names. Heads with different keys don't see each other's builds. Where there is an sshd this is not needed: the coordinator uploads its agent by itself.

It first prints an entry for the coordinator's machines file, with the host key, and an empty line; user may need a change, and private-key a line, if the head logs in with a key other than its usual ones. Logging in takes a key in --authorized-keys. What the coordinator sends must be signed by a key that was given once with --authorize: "lighter key show" prints it on the head.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter agent --listen :2222 --authorized-keys ./head-ssh.pub --authorize ./head.pub", "a machine for one head"},
			{"lighter agent --listen 127.0.0.1:0 --name test --state /tmp/test --sandbox-path /bin --sandbox-path /usr", "one to try things with"},
		},
		TakesSignals: true,
		Setup: func(fs *pflag.FlagSet) command.Action {
			a := &agentAction{}
			fs.StringVar(&a.listen, "listen", "", "listen on `ADDR`, as HOST:PORT; without HOST on all addresses, with port 0 on a free port")
			fs.StringVar(&a.name, "name", "", "the machine's name (default this computer's)")
			fs.StringVar(&a.state, "state", "", "folder `DIR` with store, keys and ACL of the machine (else $LIGHTER_STATE, else /var/lib/lighter for root and ~/.local/share/lighter for others)")
			fs.StringVar(&a.hostKey, "host-key", "", "the server's private key is `FILE`, made if missing (default ssh-host-key in the state folder)")
			fs.StringVar(&a.authorizedKeys, "authorized-keys", "", "who may log in: public SSH keys in `FILE`, one a line (default ~/.ssh/authorized_keys)")
			fs.StringArrayVar(&a.authorize, "authorize", nil, "accept from now on what is signed by the public key in `FILE`; may be repeated")
			fs.StringVar(&a.settings, "settings", owner.DefaultFile(), "`FILE` of this machine's owner with more of these settings; flags take precedence")
			a.owner = owner.NewOptions()
			for _, option := range a.owner.All {
				if slices.Contains(notOfServer, option.Key) {
					continue
				}
				if f := fs.VarPF(option, option.Flag, "", option.What); option.Type() == "bool" {
					f.NoOptDefVal = "true"
				}
			}
			a.log = addLogFlags(fs)
			return a.run
		},
	}
}

// agentAction is one run of "lighter agent".
type agentAction struct {
	listen, name, state     string
	hostKey, authorizedKeys string
	settings                string
	authorize               []string
	owner                   *owner.Options
	log                     *logFlags
}

// notOfServer are the keys of options that are no flags here: the state folder has one of
// its own, and the store is always the embedded one.
var notOfServer = []string{"state-directory", "store", "daemon-socket"}

func (a *agentAction) run(ctx context.Context, inv *command.Invocation) error {
	if a.listen == "" {
		return inv.UsageErrorf("--listen is missing, such as --listen :2222")
	}
	if err := a.complete(ctx, inv); err != nil {
		return err
	}
	logger, err := a.log.logger(inv, inv.Err)
	if err != nil {
		return err
	}
	if err := owner.MakeState(a.state); err != nil {
		return err
	}
	lock, err := head.LockFolder(a.state, "agent")
	if err != nil {
		return err
	}
	defer lock.Close()
	ctx, stop := inv.CancelOnSignal(ctx)
	defer stop()
	return a.serve(ctx, inv, logger.With("machine", a.name))
}

// complete fills in what no flag said.
func (a *agentAction) complete(ctx context.Context, inv *command.Invocation) error {
	if err := a.owner.Load(a.settings, inv.Flags.Changed("settings") && a.settings != ""); err != nil {
		return command.BadInput(err)
	}
	if a.owner.Store == owner.StoreDaemon {
		return command.BadInput(fmt.Errorf("%s: store is %q, and lighter agent has a store of its own: leave that out, or give another file with --settings", a.settings, a.owner.Store))
	}
	if a.state == "" {
		a.state = a.owner.State
	}
	f, err := head.ToStart(ctx, head.Said{State: a.state}, inv.Getenv)
	if err != nil {
		return err
	}
	a.state = f.State
	if a.name == "" {
		if a.name, err = os.Hostname(); err != nil {
			return fmt.Errorf("name of this computer: %w; give one with --name", err)
		}
	}
	if a.hostKey == "" {
		a.hostKey = filepath.Join(a.state, "ssh-host-key")
	}
	if a.authorizedKeys == "" {
		a.authorizedKeys = filepath.Join(head.Home(inv.Getenv), ".ssh", "authorized_keys")
	}
	return nil
}

// serve runs the machine until ctx ends, which is a good end.
func (a *agentAction) serve(ctx context.Context, inv *command.Invocation, logger *slog.Logger) (err error) {
	folders := agentd.Folders(a.state)
	if err := a.authorizeKeys(folders); err != nil {
		return err
	}
	backend, err := agentd.OpenLocal(&a.owner.Settings, folders, store.DefaultDir, []string{a.hostKey, a.authorizedKeys}, logger)
	if err != nil {
		return err
	}
	builder, err := agentd.Start(backend, agent.Options{StateDir: folders.Server(), Logger: logger, MaxRunning: a.owner.MaxBuilds, Keep: folders.Keep})
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	defer func() { err = errors.Join(err, builder.Stop(ctx)) }()
	for _, path := range a.owner.SandboxPaths {
		if err := backend.Store.(*local.Store).CheckSandboxPath(path[strings.IndexByte(path, '=')+1:]); err != nil {
			return command.BadInput(fmt.Errorf("sandbox path %s: %w", path, err))
		}
	}
	hostKey, err := sshtransport.LoadOrCreateHostKey(a.hostKey)
	if err != nil {
		return err
	}
	authorized := sshtransport.AuthorizedKeysFile(a.authorizedKeys)
	if _, err := authorized(); err != nil {
		return fmt.Errorf("who may log in: %w", err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", a.listen)
	if err != nil {
		return err
	}
	if err := a.printEntry(ctx, inv, builder, listener.Addr(), hostKey.PublicKey()); err != nil {
		return errors.Join(err, listener.Close())
	}
	logger.Info("machine is ready", "address", listener.Addr().String(), "signs-with", backend.PublicKey.Fingerprint(), "version", version.Version)
	server := &sshtransport.Server{HostKey: hostKey, AuthorizedKeys: authorized, Logger: logger, Handle: func(ctx context.Context, conn net.Conn, key ssh.PublicKey) {
		builder.ServeConn(ctx, conn, a.head(key))
	}}
	err = server.Serve(ctx, listener)
	logger.Info("machine stops")
	return err
}

// head is who logs in with a key.
func (a *agentAction) head(key ssh.PublicKey) *agent.Head {
	sum := sha256.Sum256(key.Marshal())
	return &agent.Head{Name: hex.EncodeToString(sum[:8]), Offer: a.owner.Offer()}
}

// authorizeKeys puts the keys that --authorize names into the machine's ACL.
func (a *agentAction) authorizeKeys(folders agentd.Folders) error {
	var keys []*signature.PublicKey
	for _, file := range a.authorize {
		key, err := signature.LoadPublicKey(file)
		if err != nil {
			return command.BadInput(err)
		}
		keys = append(keys, key)
	}
	return folders.Authorize(keys)
}

// printEntry prints the machine's entry for the coordinator's machines file.
func (a *agentAction) printEntry(ctx context.Context, inv *command.Invocation, builder *agentd.Agent, addr net.Addr, hostKey ssh.PublicKey) error {
	client := agentapi.NewClient(builder.Dial)
	defer client.Close()
	info, err := client.Machine(ctx)
	if err != nil {
		return err
	}
	host, port, err := listenAddress(a.listen, addr)
	if err != nil {
		return err
	}
	parallel := max(1, runtime.NumCPU()/2)
	if a.owner.MaxBuilds > 0 {
		parallel = min(parallel, a.owner.MaxBuilds)
	}
	m := machines.Machine{
		Name: a.name, Host: host, Port: port, Systems: info.Systems, User: userName(), HostKey: sshtransport.FormatHostKey(hostKey),
		ParallelBuilds: parallel, Speed: machines.DefaultSpeed,
		OverloadThreshold: machines.DefaultOverloadThreshold, MinFreeDisk: machines.DefaultMinFreeDisk, MinFreeInodes: machines.DefaultMinFreeInodes,
		Store: machines.StoreAuto, Transport: machines.TransportNative, DaemonSocket: machines.DefaultDaemonSocket, SandboxPaths: a.owner.SandboxPaths, SubstituteURLs: a.owner.SubstituteURLs,
	}
	if info.BuildWarning != "" {
		fmt.Fprintf(inv.Err, "lighter agent: %s\n", command.ErrorText(errors.New(info.BuildWarning)))
	}
	if info.BuildProblem != "" {
		fmt.Fprintf(inv.Err, "lighter agent: no builds are possible here: %s\n", command.ErrorText(errors.New(info.BuildProblem)))
	}
	_, err = fmt.Fprintf(inv.Out, "%s\n\n", strings.TrimRight(string(machines.FormatTOML([]machines.Machine{m})), "\n"))
	return err
}

// listenAddress returns the address under which others reach what listens on addr.
func listenAddress(listen string, addr net.Addr) (host string, port int, err error) {
	_, text, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "", 0, err
	}
	if port, err = strconv.Atoi(text); err != nil {
		return "", 0, err
	}
	host, _, err = net.SplitHostPort(listen)
	if err != nil {
		return "", 0, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host, err = os.Hostname()
	}
	return host, port, err
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "lighter"
}
