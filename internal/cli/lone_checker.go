package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/head"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
)

// loneChecker checks machines where no coordinator runs. It looks, and sends
// nothing, since it owns no builds and must not disturb those that wait on the
// machines for their coordinator to come back.
type loneChecker struct {
	folders  head.Folders
	machines []machines.Machine
	links    *head.Links
}

func newLoneChecker(ctx context.Context, inv *invocation, f head.Folders) (*loneChecker, error) {
	list, err := loadMachines(ctx, inv, f.MachinesFile())
	if err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	links, err := head.NewLinks(f, "", inv.Getenv, quiet)
	if err != nil {
		return nil, err
	}
	l := &loneChecker{folders: f, machines: list, links: links}
	if slices.ContainsFunc(list, func(m machines.Machine) bool { return m.Local }) {
		links.Store, err = head.OpenStore(ctx, f, quiet)
	}
	return l, err
}

func (l *loneChecker) close() error {
	if l.links.Store == nil {
		return nil
	}
	return l.links.Store.Close()
}

// loneCheckTimeout bounds the check of one machine, which may upload the agent.
const loneCheckTimeout = 2 * time.Minute

func (l *loneChecker) check(ctx context.Context, name string) (*api.MachineCheck, error) {
	for i := range l.machines {
		if l.machines[i].Name == name {
			return l.checkMachine(ctx, &l.machines[i])
		}
	}
	return nil, fmt.Errorf("no machine is called %q", name)
}

func (l *loneChecker) checkMachine(ctx context.Context, m *machines.Machine) (*api.MachineCheck, error) {
	ctx, cancel := context.WithTimeout(ctx, loneCheckTimeout)
	defer cancel()
	link, err := l.links.Link(*m)
	if err != nil {
		return nil, err
	}
	defer link.Close()
	client := agentapi.NewClient(link.DialAgent)
	defer client.Close()

	check := &api.MachineCheck{Machine: m.Name, OK: true, Status: api.MachineStatus{Name: m.Name}}
	info, err := client.Machine(ctx)
	if err != nil {
		addStep(check, "link", err, "see the text; ssh to the machine by hand with the same user and key tells more")
		return check, nil
	}
	check.Status.PublicKey = info.PublicKey
	addStep(check, "link", "connected", "")
	addStep(check, "agent", fmt.Sprintf("lighter-agent %s on %s, %s, %d cores", info.Version, info.Hostname, info.Kernel, info.Cores), "")
	l.judge(check, m, info)
	return check, nil
}

// judge adds a step for each thing that the agent said of its machine.
func (l *loneChecker) judge(check *api.MachineCheck, m *machines.Machine, info *agentapi.Machine) {
	var problem any = fmt.Sprintf("protocol %d", info.Protocol)
	if info.Protocol != agentapi.Protocol {
		problem = fmt.Errorf("the agent speaks protocol %d, this lighter %d", info.Protocol, agentapi.Protocol)
	}
	addStep(check, "protocol", problem, "use agents and coordinator of the same release")

	problem = fmt.Sprintf("%s, kind %s", info.StoreDir, info.StoreKind)
	if info.StoreDir != store.DefaultDir {
		problem = fmt.Errorf("its store is %s, the head's is %s", info.StoreDir, store.DefaultDir)
	}
	addStep(check, "store", problem, "set the machine's store to the head's store directory")

	problem = "it can build"
	if info.BuildWarning != "" {
		problem = "it can build; " + info.BuildWarning
	}
	if info.BuildProblem != "" {
		problem = errors.New(info.BuildProblem)
	}
	addStep(check, "build", problem, "see the text; without it the machine gets no builds")

	if info.Offer != nil {
		problem = "its owner offers all that its entry asks for"
		if refused := info.Offer.Refuses(m.SandboxPaths, m.SubstituteURLs, m.ParallelBuilds); refused != "" {
			problem = errors.New(refused)
		}
		addStep(check, "offer", problem, "")
	}

	problem = "the head accepts its key"
	if err := l.keyProblem(info.PublicKey); err != nil {
		problem = err
	}
	addStep(check, "key", problem, "lighter machines authorize "+check.Machine)
}

func (l *loneChecker) keyProblem(publicKey string) error {
	key, err := signature.ParsePublicKey([]byte(publicKey))
	if err != nil {
		return err
	}
	acl, err := loadACL(l.folders)
	if err != nil {
		return err
	}
	if !acl.Authorized(key) {
		return fmt.Errorf("it signs with %s, which is not authorized", key.Fingerprint())
	}
	return nil
}

// addStep adds what was found, or an error and what to do about it.
func addStep(check *api.MachineCheck, name string, found any, fix string) {
	step := api.CheckStep{Name: name, OK: true}
	if err, bad := found.(error); bad {
		step.OK, step.Detail, step.Fix = false, err.Error(), fix
		check.OK = false
	} else {
		step.Detail = fmt.Sprint(found)
	}
	check.Steps = append(check.Steps, step)
}
