package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/machinetest"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
)

// machineTester tests machines through the coordinator or, where none runs, by itself. Then
// it looks, and sends nothing, since it owns no builds and must not disturb those that wait
// on the machines for their coordinator to come back.
type machineTester struct {
	folders head.Folders
	names   []string          // of all machines
	client  *apiclient.Client // nil where no coordinator runs; then:

	machines []machines.Machine
	links    *head.Links
	tester   machinetest.Tester
}

// testerFlags are the flags of commands that test machines.
func testerFlags(fs *pflag.FlagSet) *base.FolderFlags {
	f := base.AllFolderFlags(fs)
	f.Machines = fs.String("machines", "", "connect to the machines of `FILE`, even where a coordinator runs")
	return f
}

// testerAction is the action of a command that tests machines, those that are named or all.
func testerAction(where *base.FolderFlags, do func(ctx context.Context, inv *command.Invocation, t *machineTester, names []string) error) command.Action {
	return where.Action(func(ctx context.Context, inv *command.Invocation, f head.Folders) error {
		newTester := newMachineTester
		if *where.Machines != "" {
			f.Machines, newTester = *where.Machines, newLoneTester
		}
		t, err := newTester(ctx, inv, f)
		if err != nil {
			return err
		}
		t.tester.Hint = where.Typed()
		defer t.close()
		names, err := chooseMachines(inv, t.names, inv.Args)
		if err != nil {
			return err
		}
		return do(ctx, inv, t, names)
	})
}

func newMachineTester(ctx context.Context, inv *command.Invocation, f head.Folders) (*machineTester, error) {
	client := apiclient.NewClient(f.Socket)
	list, err := client.FreshMachines(ctx)
	if bad := new(api.Error); errors.As(err, &bad) && bad.Code == api.CodeBadRequest {
		fmt.Fprintf(inv.Err, "warning: %s\n", command.ErrorText(bad))
		list, err = client.Machines(ctx)
	}
	if err == nil {
		return &machineTester{folders: f, client: client, names: statusNames(list)}, nil
	}
	client.Close()
	var noCoordinator *command.ExitError
	if !errors.As(base.NoAnswer(f, err), &noCoordinator) || noCoordinator.Code != command.ExitNoAnswer {
		return nil, err
	}
	return newLoneTester(ctx, inv, f)
}

// statusNames returns the names of machines.
func statusNames(list []api.MachineStatus) []string {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	return names
}

func newLoneTester(ctx context.Context, inv *command.Invocation, f head.Folders) (*machineTester, error) {
	list, err := loadMachines(ctx, inv, f.MachinesFile())
	if err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	links, err := head.NewLinks(f, inv.Getenv, quiet)
	if err != nil {
		return nil, err
	}
	t := &machineTester{folders: f, machines: list, links: links, tester: machinetest.Tester{
		Advice: f.Advice(links),
		ACL:    func() (*signature.ACL, error) { return trustedKeys(f) },
	}}
	t.tester.Dir, t.tester.ByName = store.DefaultDir, true
	for i := range list {
		t.names = append(t.names, list[i].Name)
	}
	if slices.ContainsFunc(list, func(m machines.Machine) bool { return m.Local }) {
		links.Store, err = head.OpenStore(ctx, f, quiet)
	}
	return t, err
}

// trustedKeys are those whose archives the head takes.
func trustedKeys(f head.Folders) (*signature.ACL, error) {
	if f.StoreKind == machines.StoreDaemon {
		return loadACL(f)
	}
	acl, err := f.LoadOwnACL()
	return acl, command.BadInput(err)
}

// chooseMachines returns those of the names that were given, or all.
func chooseMachines(inv *command.Invocation, all, given []string) ([]string, error) {
	if len(given) == 0 {
		return all, nil
	}
	for _, name := range given {
		if slices.Contains(all, name) {
			continue
		}
		return nil, inv.UsageErrorf("no machine is called %q; %s", name, command.NearestOf(name, all, "there are"))
	}
	return given, nil
}

// loneTrialTimeout bounds the test of one machine, which may upload the agent.
const loneTrialTimeout = 2 * time.Minute

// test tests one of the machines.
func (t *machineTester) test(ctx context.Context, name string) (*api.MachineTrial, error) {
	if t.client != nil {
		return t.client.TestMachine(ctx, name)
	}
	ctx, cancel := context.WithTimeout(ctx, loneTrialTimeout)
	defer cancel()
	m := &t.machines[slices.Index(t.names, name)]
	var result *machinetest.Result
	if agent, closeLink, err := newAgentClient(t.links, m); err != nil {
		result = t.tester.Unreachable(m, err)
	} else {
		defer closeLink()
		result = t.tester.Test(ctx, m, agent)
	}
	trial := &api.MachineTrial{Machine: name, OK: result.OK, Steps: result.Steps, Status: api.MachineStatus{Name: name}}
	if result.Info != nil {
		trial.Status.PublicKey = result.Info.PublicKey
	}
	return trial, nil
}

// newAgentClient makes a link to a machine, and a client of the agent there. It does not
// connect.
func newAgentClient(links *head.Links, m *machines.Machine) (client *agentapi.Client, closeLink func(), err error) {
	link, err := links.Link(*m)
	if err != nil {
		return nil, nil, err
	}
	client = agentapi.NewClient(link.DialAgent)
	return client, func() {
		client.Close()
		_ = link.Close() // nothing is under way on it
	}, nil
}

func (t *machineTester) close() {
	if t.client != nil {
		t.client.Close()
	}
	if t.links != nil && t.links.Store != nil {
		_ = t.links.Store.Close() // it was looked at, no more
	}
}
