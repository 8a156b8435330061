package machinetest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/machines"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

// Tester tests machines, also several at the same time.
type Tester struct {
	Advice
	// Store is the head's. A small new item is exchanged with each machine; nil means that
	// nothing is sent, and nothing asked for.
	Store Store
	// ACL has the keys whose archives the head accepts; nil if it has no such list.
	ACL func() (*signature.ACL, error)
}

// Store is what a test needs of the head's store. It must be a store.Adder too for an item
// to be sent.
type Store interface {
	store.Exporter
	store.Importer
}

// Result is what a test of one machine found.
type Result struct {
	Info  *agentapi.Machine // nil if its agent did not answer
	OK    bool              // builds can be made there
	Steps []api.TrialStep
	// HeadRefused says that the machine does not accept what the head signs, MachineRefused
	// that the head does not accept what the machine signs.
	HeadRefused, MachineRefused bool
}

// finding is what one step found.
type finding struct {
	detail  string
	err     error  // in place of detail
	warning bool   // builds can be made all the same
	fix     string // what to do about err, or warning
}

func good(format string, args ...any) finding { return finding{detail: fmt.Sprintf(format, args...)} }

// problem is the finding that text is, unless it is empty.
func problem(text, fix string) finding {
	if text == "" {
		return finding{}
	}
	return finding{err: errors.New(text), fix: fix}
}

// worst returns the first finding that is bad, else the last.
func worst(findings ...finding) finding {
	for _, f := range findings {
		if f.err != nil {
			return f
		}
	}
	return findings[len(findings)-1]
}

// trial is the test of one machine.
type trial struct {
	*Tester
	*Reached
	m      *machines.Machine
	agent  Agent
	result Result
}

// reach begins the test of a machine.
func (t *Tester) reach(ctx context.Context, m *machines.Machine, agent Agent) (*trial, error) {
	x := &trial{Tester: t, m: m, agent: agent, result: Result{OK: true}}
	var err error
	if x.Reached, err = Reach(ctx, agent); err == nil {
		x.result.Info = x.Info
	}
	return x, err
}

// note notes the outcome of a step, and reports whether it was not bad.
func (x *trial) note(name string, f finding) bool {
	s := api.TrialStep{Name: name, OK: true, Outcome: api.TrialGood, Detail: f.detail}
	switch {
	case f.err != nil:
		s.OK, s.Outcome, s.Detail, s.Fix = false, api.TrialBad, f.err.Error(), f.fix
		x.result.OK = false
	case f.warning:
		s.OK, s.Outcome, s.Fix = false, api.TrialWarning, f.fix
	}
	x.result.Steps = append(x.result.Steps, s)
	return f.err == nil
}

// The steps of a test, in their order.
const (
	StepSSH     = "ssh"     // the way there and the login
	StepAgent   = "agent"   // it answers, and speaks this protocol
	StepStore   = "store"   // it is where the head's is
	StepSystems = "systems" // the machine builds for those of its entry
	StepBuild   = "build"   // its store can build
	StepOffer   = "offer"   // its owner lets this head
	StepKey     = "key"     // each side accepts what the other signs, as far as they say
	StepRoom    = "room"    // it is within the limits of its entry
	StepClock   = "clock"
	StepSend    = "send"  // it imports an item of the head's
	StepFetch   = "fetch" // the head imports an item of the machine's
	StepPlace   = "place" // the coordinator would give it a build now
)

// Test tries in order what building on a machine needs, each thing in a step of its own, up
// to the first without which the rest cannot be tried.
func (t *Tester) Test(ctx context.Context, m *machines.Machine, agent Agent) *Result {
	x, err := t.reach(ctx, m, agent)
	if err != nil {
		return t.Unreachable(m, err)
	}
	if !m.Local {
		x.note(StepSSH, good("%s, round trip %s", address(m), x.RoundTrip.Round(10*time.Microsecond)))
	}
	if !x.note(StepAgent, worst(x.protocol(), x.program())) {
		return &x.result
	}
	sameDir := x.note(StepStore, worst(x.dir(), good("%s", StoreText(x.Info))))
	x.note(StepSystems, x.systems())
	x.note(StepBuild, worst(x.builds(), x.buildsSo()))
	if x.Info.Offer != nil {
		x.note(StepOffer, worst(problem(offerProblem(m, x.Info)), good("its owner offers all that its entry asks for")))
	}
	x.note(StepKey, x.keys())
	x.note(StepRoom, x.room())
	x.note(StepClock, x.clock())
	// What the keys forbid need not be tried.
	if !sameDir || t.Store == nil || x.result.HeadRefused || !x.note(StepSend, x.send(ctx)) {
		return &x.result
	}
	if !m.Local && !x.result.MachineRefused {
		x.note(StepFetch, x.fetch(ctx))
	}
	return &x.result
}

// Unreachable is what a test finds where a machine cannot be reached.
func (t *Tester) Unreachable(m *machines.Machine, err error) *Result {
	x := &trial{}
	p := t.Explain(m, err)
	step := StepAgent
	if p.Login {
		step = StepSSH
	} else if !m.Local {
		x.note(StepSSH, good("logged in as %s", address(m)))
	}
	x.note(step, finding{err: p.Err, fix: p.Fix})
	return &x.result
}

// address says where a machine is reached.
func address(m *machines.Machine) string { return m.User + "@" + m.Addr() }

func (x *trial) program() finding {
	info := x.Info
	return good("lighter-agent %s on %s, %s, %d cores", info.Version, info.Hostname, info.Kernel, info.Cores)
}

func (x *trial) protocol() finding {
	return problem(protocolProblem(x.Info), "use agents and lighter of the same release")
}

func (x *trial) dir() finding {
	return problem(x.dirProblem(x.Info), "set the machine's store to the head's store directory")
}

// systems compares those of the machine's entry with those that it can build for.
func (x *trial) systems() finding {
	lacks := Lacks(x.m, x.Info)
	text := "it builds for " + strings.Join(x.Info.Builds(), ", ")
	if len(lacks) == 0 {
		return good("%s", text)
	}
	f := finding{
		warning: len(lacks) < len(x.m.Systems),
		fix:     fmt.Sprintf("take %s out of the systems in %s, or have the machine emulate it (binfmt_misc; qemu-user-static on Debian)", strings.Join(lacks, ", "), x.entry(x.m)),
	}
	text += ", and not for " + strings.Join(lacks, ", ")
	if f.warning {
		f.detail = text
	} else {
		f.err = errors.New(text)
	}
	return f
}

// Lacks returns the systems of a machine's entry for which it can't build.
func Lacks(m *machines.Machine, info *agentapi.Machine) []string {
	if len(info.Builds()) == 0 { // it does not say
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.Systems), func(system string) bool { return slices.Contains(info.Builds(), system) })
}

// room compares what the machine has with the limits of its entry, as the coordinator does.
func (x *trial) room() finding {
	info := WithUnknown(x.Info)
	if text := BeyondLimit(x.m, info, 0); text != "" {
		return finding{err: errors.New(text), fix: "make room there (lighter machines gc " + human.ShellWord(x.m.Name) + " deletes what no build needs), or change the limit in " + x.entry(x.m)}
	}
	load := info.Load / float64(max(1, info.Cores))
	if max := x.m.OverloadThreshold; max > 0 && load >= max {
		return finding{
			err: fmt.Errorf("load %.2f per core: from %.2f on it gets no builds", load, max),
			fix: "it passes by itself; overload-threshold in " + x.entry(x.m) + " sets the limit, and false there disregards it",
		}
	}
	return good("%s free, load %.2f per core", quantity.Bytes(info.FreeDisk), load)
}

func (x *trial) builds() finding {
	text, fix := x.buildProblem(x.m, x.Info)
	return problem(text, cmp.Or(fix, "see the text; without it the machine gets no builds"))
}

func (x *trial) buildsSo() finding {
	if x.Info.BuildWarning != "" {
		return good("it can build; %s", x.Info.BuildWarning)
	}
	return good("it can build")
}

// keys compares what head and machine say of whose archives they accept.
func (x *trial) keys() finding {
	if x.ACL == nil {
		return good("not checked: the head has no list of authorized keys")
	}
	acl, err := x.ACL()
	if errors.Is(err, os.ErrPermission) {
		return good("not checked: this user may not read the head's list of authorized keys")
	}
	if err != nil {
		return finding{err: err, fix: "repair the file that the text names"}
	}
	near, fix := x.machineKeyProblem(x.Info, acl, x.m.Name)
	if fix != "" {
		fix = x.nearACLFix(x.m)
	}
	far := x.keyProblem(x.m, x.Info)
	x.result.MachineRefused, x.result.HeadRefused = near != "", far != ""
	return worst(problem(near, fix), problem(far, x.farACLFix(x.m, x.Info)), good("the head accepts its key"))
}

func (x *trial) clock() finding {
	text, far := x.Clock()
	return finding{detail: text, warning: far, fix: ClockFix}
}

// newText returns a text that is in no store yet.
func newText(about string) (name string, content []byte) {
	return "lighter-offload-test", []byte(about + " " + rand.Text() + "\n")
}

// send sends a new item to the machine, which imports it if it accepts the head's key.
func (x *trial) send(ctx context.Context) finding {
	if x.m.Local {
		return good("not needed: it is the head's own store")
	}
	path, archive, err := x.pack(ctx)
	if err != nil {
		return finding{err: fmt.Errorf("the head's store: %w", err), fix: x.HeadFix(err)}
	}
	_, err = x.agent.Import(ctx, bytes.NewReader(archive))
	switch {
	case err == nil:
		return good("it imported %s, signed by the head", path.Base())
	case errors.Is(err, store.ErrUnauthorized):
		x.result.HeadRefused = true
		if x.PublicKey != nil {
			err = fmt.Errorf("it does not take what the head signs with %s: %w", x.PublicKey.Fingerprint(), err)
		}
		return finding{err: err, fix: x.farACLFix(x.m, x.Info)}
	}
	return finding{err: err, fix: x.refusalFix(x.m, x.Info, err)}
}

// pack makes a new item on the head, and an archive of it.
func (x *trial) pack(ctx context.Context) (store.Path, []byte, error) {
	adder, ok := x.Store.(store.Adder)
	if !ok {
		return "", nil, errors.New("it takes no texts")
	}
	name, content := newText("from the head to " + x.m.Name)
	path, err := adder.AddText(ctx, name, content, nil)
	if err != nil {
		return "", nil, err
	}
	var archive bytes.Buffer
	err = x.Store.Export(ctx, &archive, []store.Path{path})
	return path, archive.Bytes(), err
}

// fetch has an item made on the machine, and imports it if the head accepts the machine's
// key.
func (x *trial) fetch(ctx context.Context) finding {
	path, archive, err := x.request(ctx)
	if err != nil {
		return finding{err: err, fix: x.refusalFix(x.m, x.Info, err)}
	}
	if err = x.verify(archive, path); err == nil {
		_, err = x.Store.Import(ctx, bytes.NewReader(archive), store.ImportOptions{})
	}
	switch {
	case err == nil:
		return good("the head imported %s, signed by the machine", path.Base())
	case errors.Is(err, store.ErrUnauthorized):
		x.result.MachineRefused = true
		return finding{err: fmt.Errorf("the head does not take what it signs: %w", err), fix: x.nearACLFix(x.m)}
	}
	return finding{err: err, fix: x.HeadFix(err)}
}

// maxArchive bounds the archive of a text of a few bytes, with its signature.
const maxArchive = 64 << 10

// request has an item made on the machine, and returns an archive of it.
func (x *trial) request(ctx context.Context) (store.Path, []byte, error) {
	name, content := newText("from " + x.m.Name + " to the head")
	info, err := x.agent.AddText(ctx, name, content)
	if err != nil {
		return "", nil, err
	}
	if want, err := x.Dir.TextPath(name, content, nil); err != nil || info.Path != want {
		return "", nil, errors.Join(err, fmt.Errorf("it made %s, not %s", info.Path, want))
	}
	body, err := x.agent.Export(ctx, []store.Path{info.Path})
	if err != nil {
		return "", nil, err
	}
	defer body.Close()
	archive, err := io.ReadAll(io.LimitReader(body, maxArchive+1))
	if err == nil && len(archive) > maxArchive {
		err = fmt.Errorf("its archive of %s has more than %d bytes", info.Path, maxArchive)
	}
	return info.Path, archive, err
}

// verify checks an archive's only item against the head's ACL, as far as this user may
// read it: the store has the last word.
func (x *trial) verify(archive []byte, path store.Path) error {
	r := nar.NewArchiveReader(bytes.NewReader(archive), x.Dir)
	if _, err := r.Next(); err != nil {
		return fmt.Errorf("its archive: %w", err)
	}
	item, err := r.Item()
	if err != nil {
		return fmt.Errorf("its archive: %w", err)
	}
	if item.Path != path {
		return fmt.Errorf("it sent %s instead of %s", item.Path, path)
	}
	if x.ACL == nil {
		return nil
	}
	acl, err := x.ACL()
	if errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err == nil {
		_, err = acl.Check(item.Signature, item.SignedHash)
	}
	return err
}
