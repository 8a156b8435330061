package machinetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/internal/agentapi"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/storetest"
)

// side is a store with a key of its own, and the keys that it accepts.
type side struct {
	*storetest.Memory
	key *signature.PrivateKey
	acl *signature.ACL
}

func newSide(t *testing.T) *side {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	s := &side{key: key, acl: new(signature.ACL)}
	s.Memory = storetest.NewMemory(store.DefaultDir, key, s.acl)
	return s
}

// fakeAgent is an agent with a store in memory.
type fakeAgent struct {
	*side
	info agentapi.Machine
	skew time.Duration
	down error // why it can't be reached
}

func (a *fakeAgent) Machine(context.Context) (*agentapi.Machine, error) {
	if a.down != nil {
		return nil, a.down
	}
	info := a.info
	info.Now = time.Now().Add(a.skew)
	return &info, nil
}

func (a *fakeAgent) Import(ctx context.Context, archive io.Reader) ([]*store.Info, error) {
	return a.Memory.Import(ctx, archive, store.ImportOptions{})
}

func (a *fakeAgent) AddText(ctx context.Context, name string, content []byte) (*store.Info, error) {
	path, err := a.Memory.AddText(ctx, name, content, nil)
	if err != nil {
		return nil, err
	}
	return a.Info(ctx, path)
}

func (a *fakeAgent) Export(ctx context.Context, paths []store.Path) (io.ReadCloser, error) {
	var archive bytes.Buffer
	err := a.Memory.Export(ctx, &archive, paths)
	return io.NopCloser(&archive), err
}

// TestTester has a machine with one thing wrong.
func TestTester(t *testing.T) {
	type lab struct {
		head   *side
		agent  *fakeAgent
		m      *machines.Machine
		tester *Tester
	}
	const all = "ssh agent store systems build key room clock send fetch"
	for _, tt := range []struct {
		name   string
		change func(l *lab)
		all    string // steps, with a sign before those that are not good
		text   string // of the first step that is not good, with what to do
	}{
		{"all good", func(*lab) {}, all, ""},
		{"unreachable", func(l *lab) { l.agent.down = syscall.ECONNREFUSED }, "-ssh", "connection refused → start sshd on h"},
		{"no agent", func(l *lab) { l.agent.down = errors.New("cosmic ray") }, "ssh -agent", "cosmic ray → the agent's log is there: ssh u@h 'tail "},
		{
			"another protocol", func(l *lab) { l.agent.info.Protocol++ },
			"ssh -agent", "speaks protocol 2, this lighter ",
		},
		{
			"another store", func(l *lab) { l.agent.info.StoreDir = "/nix/store" },
			"ssh agent -store systems build key room clock",
			"its store is /nix/store, the head's is /gnu/store → set the machine's store to the head's store directory",
		},
		{
			"it can't build", func(l *lab) { l.agent.info.BuildProblem = "no user namespaces" },
			"ssh agent store systems -build key room clock send fetch",
			"no user namespaces → see the text; without it the machine gets no builds",
		},
		{
			"its owner offers less", func(l *lab) {
				l.agent.info.Offer, l.m.SandboxPaths = &agentapi.Offer{}, []string{"/dev/kvm"}
			},
			"ssh agent store systems build -offer key room clock send fetch",
			`its owner does not offer the sandbox path "/dev/kvm" → take it out of sandbox-paths`,
		},
		{
			"the head does not accept its key", func(l *lab) { l.head.acl.Remove(l.agent.key.Public()) },
			"ssh agent store systems build -key room clock send",
			" → lighter machines authorize m",
		},
		{
			"it does not accept the head's key, and says so", func(l *lab) {
				l.agent.info.AcceptsKeys = []string{}
				l.agent.acl.Remove(l.head.key.Public())
			},
			"ssh agent store systems build -key room clock",
			"on h, with the head's signing-key.pub: lighter-agent authorize FILE",
		},
		{
			"it does not accept the head's key", func(l *lab) { l.agent.acl.Remove(l.head.key.Public()) },
			"ssh agent store systems build key room clock -send",
			"it does not take what the head signs with SHA256:",
		},
		{
			"its clock is off", func(l *lab) { l.agent.skew = time.Hour },
			"ssh agent store systems build key room ~clock send fetch",
			"1h0m0s ahead of the head's → set the clocks",
		},
		{"the head itself", func(l *lab) { l.m.Local = true }, "agent store systems build key room clock send", ""},
		{"a look alone", func(l *lab) { l.tester.Store = nil }, "ssh agent store systems build key room clock", ""},
		{
			"none of its systems", func(l *lab) { l.m.Systems = []string{"aarch64-linux"} },
			"ssh agent store -systems build key room clock send fetch",
			"it builds for x86_64-linux, i686-linux, and not for aarch64-linux → take aarch64-linux out of the systems in the entry of m in f, or have the machine emulate it",
		},
		{
			"one of its systems", func(l *lab) { l.m.Systems = []string{"x86_64-linux", "aarch64-linux"} },
			"ssh agent store ~systems build key room clock send fetch", "and not for aarch64-linux → take ",
		},
		{
			"no room", func(l *lab) { l.m.MinFreeDisk = 1 << 30 },
			"ssh agent store systems build key -room clock send fetch",
			"only 4.00 MiB are free on the disk of its store; below 1.00 GiB it gets no builds → make room there (lighter machines gc m deletes what no build needs)",
		},
		{
			"much load", func(l *lab) { l.m.OverloadThreshold = 0.8 },
			"ssh agent store systems build key -room clock send fetch", "load 1.50 per core: from 0.80 on it gets no builds → it passes by itself",
		},
		{
			"a file that the head does not use", func(l *lab) {
				l.tester.ByName = false
				l.head.acl.Remove(l.agent.key.Public())
			},
			"ssh agent store systems build -key room clock send", " → lighter machines authorize --machines f m",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &lab{head: newSide(t), agent: &fakeAgent{side: newSide(t)}, m: &machines.Machine{Name: "m", Host: "h", Port: 22, User: "u"}}
			l.head.acl.Add(l.agent.key.Public())
			l.agent.acl.Add(l.head.key.Public())
			l.agent.info = agentapi.Machine{
				Protocol: agentapi.Protocol, StoreKind: machines.StoreLocal, StoreDir: store.DefaultDir, PublicKey: l.agent.key.Public().String(),
				Systems: []string{"x86_64-linux", "i686-linux"}, Cores: 2, Load: 3, FreeDisk: 4 << 20,
			}
			l.tester = &Tester{
				Advice: Advice{Head: Head{Dir: store.DefaultDir, PublicKey: l.head.key.Public()}, File: "f", ByName: true},
				Store:  l.head, ACL: func() (*signature.ACL, error) { return l.head.acl, nil },
			}
			tt.change(l)
			result := l.tester.Test(t.Context(), l.m, l.agent)
			var steps []string
			first := ""
			for _, s := range result.Steps {
				sign := map[string]string{"bad": "-", "warning": "~"}[string(s.Outcome)]
				if sign != "" && first == "" {
					first = s.Detail + " → " + s.Fix
				}
				if s.OK != (sign == "") || sign == "" && s.Fix != "" {
					t.Errorf("got %+v", s)
				}
				steps = append(steps, sign+s.Name)
			}
			if got := strings.Join(steps, " "); got != tt.all || !strings.Contains(first, tt.text) {
				t.Errorf("got %s: %s\nwant %s: %s", got, first, tt.all, tt.text)
			}
			bad := slices.ContainsFunc(steps, func(s string) bool { return s[0] == '-' })
			if result.OK == bad || (result.Info == nil) != (l.agent.down != nil) {
				t.Errorf("got %+v", result)
			}
			refusedHead, refusedMachine := strings.Contains(tt.name, "accept the head's key"), strings.Contains(first, "lighter machines authorize")
			if result.HeadRefused != refusedHead || result.MachineRefused != refusedMachine {
				t.Errorf("keys refused: the head's %v, the machine's %v", result.HeadRefused, result.MachineRefused)
			}
		})
	}
}

// TestTamperedItem has a machine that gives something else back than it made.
func TestTamperedItem(t *testing.T) {
	head, agent := newSide(t), &swappingAgent{fakeAgent{side: newSide(t)}}
	head.acl.Add(agent.key.Public())
	agent.acl.Add(head.key.Public())
	agent.info = agentapi.Machine{Protocol: agentapi.Protocol, StoreDir: store.DefaultDir, PublicKey: agent.key.Public().String()}
	tester := &Tester{Advice: Advice{Head: Head{Dir: store.DefaultDir}}, Store: head}
	result := tester.Test(t.Context(), &machines.Machine{Name: "m"}, agent)
	last := result.Steps[len(result.Steps)-1]
	if result.OK || last.Name != "fetch" || !strings.HasPrefix(last.Detail, "it sent /gnu/store/") {
		t.Errorf("got %+v", last)
	}
}

// swappingAgent exports another item than was asked for.
type swappingAgent struct{ fakeAgent }

func (a *swappingAgent) Export(ctx context.Context, _ []store.Path) (io.ReadCloser, error) {
	other, err := a.AddText(ctx, "other", []byte("x"))
	if err != nil {
		return nil, err
	}
	return a.fakeAgent.Export(ctx, []store.Path{other.Path})
}
