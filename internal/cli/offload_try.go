package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/machines"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

func offloadTestCommand() *command {
	return &command{
		name:  "test",
		args:  offloadArgs,
		short: "try whether machines can build, all at the same time",
		long: `Tries on each machine what offloading to it needs: the SSH connection; the agent, which is uploaded and started; its store; that the machine imports what the head signed, and the head what the machine signed; the clocks. It uses connections of its own, also where a coordinator runs. Of what fails it says how to mend it, and a machine that fails does not keep others from being tried.

` + offloadArguments + `

On each machine a small text is left in the store, for its next garbage collection, and the agent, which ends by itself.`,
		exits: []int{exitBadInput, exitUnusable, exitInterrupted},
		examples: []example{
			{"lighter offload test", "all machines"},
			{"lighter offload test /etc/guix/machines.scm '^node[0-9]+$'", "some of those of Guix"},
			{"lighter offload test --json | jq -r 'select(.ok | not) | .machine'", "which ones are bad"},
		},
		setup: func(fs *pflag.FlagSet) action {
			flags := addOffloadFlags(fs, time.Minute)
			keys := fs.Bool("show-keys", false, "show the public keys that must be authorized, where some are not")
			return func(ctx context.Context, inv *invocation) error {
				o, err := flags.setUp(ctx, inv)
				if err != nil {
					return err
				}
				return o.test(ctx, inv, *flags.asJSON, *keys)
			}
		},
	}
}

// trial is the test of one machine: what was tried, in order, up to the first thing
// without which the rest cannot be tried.
type trial struct {
	Machine string      `json:"machine"`
	Address string      `json:"address,omitempty"` // USER@HOST:PORT; none for the head itself
	OK      bool        `json:"ok"`
	Took    api.Seconds `json:"took"`
	Steps   []trialStep `json:"steps"`
	// HeadKey is the key that the machine must authorize, where it does not take what
	// the head signed.
	HeadKey *keyFile `json:"headKey,omitempty"`
	// MachineKey is the key that the head must authorize, where it does not take what
	// the machine signed.
	MachineKey string `json:"machineKey,omitempty"` // s-expression
}

// trialStep is one thing that was tried.
type trialStep struct {
	Name    string `json:"name"`    // "ssh", "agent", "store", "import", "export", "clock"
	Outcome string `json:"outcome"` // stepGood, stepWarning or stepBad
	Detail  string `json:"detail"`
	Fix     string `json:"fix,omitempty"` // what to do, if it is not good
}

// The outcomes of a step.
const (
	stepGood    = "good"
	stepWarning = "warning"
	stepBad     = "bad"
)

// keyFile is a public key and where it is.
type keyFile struct {
	File string `json:"file"`
	Key  string `json:"key"` // s-expression
}

// test tries all machines.
func (o *offloading) test(ctx context.Context, inv *invocation, asJSON, keys bool) (err error) {
	head, err := o.openHead(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, head.Close()) }()
	bad := 0
	err = each(ctx, o, func(ctx context.Context, m *machines.Machine) *trial {
		return (&tryer{offloading: o, head: head, m: m}).run(ctx)
	}, func(t *trial) error {
		if !t.OK {
			bad++
		}
		if asJSON {
			return writeJSONLine(inv.Out, t)
		}
		t.write(inv.Out, keys, inv.style(inv.Out))
		return nil
	})
	if err != nil {
		return err
	}
	return o.unusable(bad)
}

func (t *trial) write(w io.Writer, keys bool, style display.Style) {
	took := quantity.Duration(t.Took.Duration())
	fmt.Fprintf(w, "%s: %s (%s)\n", human.Printable(t.Machine), style.Verdict(t.OK, "good", "can't be used"), took)
	for _, s := range t.Steps {
		fmt.Fprintf(w, "  %-6s  %s  %s\n", s.Name, style.Verdict(s.Outcome != stepBad, fmt.Sprintf("%-7s", s.Outcome), "bad    "), human.Printable(s.Detail))
		writeFix(w, "                   ", s.Fix)
	}
	if !keys {
		return
	}
	if t.HeadKey != nil {
		fmt.Fprintf(w, "  the head's key, %s:\n%s\n", human.Printable(t.HeadKey.File), indent(indent(human.PrintableText(t.HeadKey.Key))))
	}
	if t.MachineKey != "" {
		fmt.Fprintf(w, "  the machine's key:\n%s\n", indent(indent(human.PrintableText(t.MachineKey))))
	}
}

// writeFix writes what to do, behind an arrow.
func writeFix(w io.Writer, margin, fix string) {
	if fix == "" {
		return
	}
	for line := range strings.SplitSeq(human.PrintableText(fix), "\n") {
		fmt.Fprintf(w, "%s→ %s\n", margin, line)
	}
}

// tryer tries one machine.
type tryer struct {
	*offloading
	*reached
	head *head.Store
	m    *machines.Machine
	trial
}

func (x *tryer) run(ctx context.Context) *trial {
	began := time.Now()
	x.Machine, x.OK = x.m.Name, true
	if !x.m.Local {
		x.Address = address(x.m)
	}
	x.try(ctx)
	x.Took = api.Seconds(time.Since(began).Seconds())
	return &x.trial
}

func (x *tryer) try(ctx context.Context) {
	var err error
	if x.reached, err = x.reach(ctx, x.m); err != nil {
		p := x.explain(x.m, err)
		if p.step != stepSSH && !x.m.Local {
			x.good(stepSSH, "logged in as "+x.Address)
		}
		x.bad(p.step, p.err, p.fix)
		return
	}
	defer x.close()
	if !x.m.Local {
		x.good(stepSSH, fmt.Sprintf("%s, round trip %s", x.Address, x.roundTrip.Round(10*time.Microsecond)))
	}
	if x.info.Protocol != agentapi.Protocol {
		x.bad(stepAgent, fmt.Errorf("it speaks protocol %d, this lighter %d", x.info.Protocol, agentapi.Protocol), "use agents and lighter of the same release")
		return
	}
	x.good(stepAgent, agentText(x.info))
	if x.store() {
		if x.m.Local {
			x.good("import", "not needed: it is the head's own store")
		} else {
			x.send(ctx)
			x.fetch(ctx)
		}
	}
	x.clock()
}

// The steps that failures to reach a machine are about.
const (
	stepSSH   = "ssh"
	stepAgent = "agent"
)

func (x *tryer) good(name, detail string) {
	x.Steps = append(x.Steps, trialStep{Name: name, Outcome: stepGood, Detail: detail})
}

func (x *tryer) bad(name string, err error, fix string) {
	x.OK = false
	x.Steps = append(x.Steps, trialStep{Name: name, Outcome: stepBad, Detail: err.Error(), Fix: fix})
}

// store looks at the machine's store, and reports whether items may be exchanged with it.
func (x *tryer) store() bool {
	if dir := x.head.Dir(); x.info.StoreDir != dir {
		x.bad("store", fmt.Errorf("its store is %s, the head's is %s", x.info.StoreDir, dir), "set the machine's store to the head's store directory")
		return false
	}
	if text, fix := x.storeProblem(x.m, x.info); text != "" {
		x.bad("store", errors.New(text), fix)
		return false
	}
	x.good("store", fmt.Sprintf("%s, %s free", storeText(x.info), quantity.Bytes(x.info.FreeDisk)))
	return true
}

// nonce returns a text that is in no store yet.
func nonce(about string) (name string, content []byte) {
	random := rand.Text()
	return "lighter-offload-test", []byte(about + " " + random + "\n")
}

// send sends a new item to the machine, which imports it if it takes the head's key.
func (x *tryer) send(ctx context.Context) {
	path, archive, err := x.pack(ctx)
	if err != nil {
		x.bad("import", fmt.Errorf("the head's store: %w", err), x.headFix(err))
		return
	}
	if _, err = x.client.Import(ctx, bytes.NewReader(archive)); err == nil {
		x.good("import", fmt.Sprintf("it imported %s, signed by the head", path.Base()))
		return
	}
	fix := x.storeFix(x.m, x.info, err.Error())
	if errors.Is(err, store.ErrUnauthorized) {
		file := signature.PublicFile(x.folders.SigningKey())
		x.HeadKey = &keyFile{File: file, Key: x.head.PublicKey.String()}
		err = fmt.Errorf("it does not take what the head signs with %s: %w", x.head.PublicKey.Fingerprint(), err)
		fix = x.farACLFix(x.m, x.info, file)
	}
	x.bad("import", err, fix)
}

// pack makes a new item on the head, and an archive of it.
func (x *tryer) pack(ctx context.Context) (store.Path, []byte, error) {
	adder, ok := x.head.Store.(store.Adder)
	if !ok {
		return "", nil, errors.New("it takes no texts")
	}
	name, content := nonce("from the head to " + x.m.Name)
	path, err := adder.AddText(ctx, name, content, nil)
	if err != nil {
		return "", nil, err
	}
	var archive bytes.Buffer
	err = x.head.Export(ctx, &archive, []store.Path{path})
	return path, archive.Bytes(), err
}

// fetch has an item made on the machine, and imports it if the head takes the machine's
// key.
func (x *tryer) fetch(ctx context.Context) {
	info, archive, err := x.request(ctx)
	if err != nil {
		x.bad("export", err, x.storeFix(x.m, x.info, err.Error()))
		return
	}
	if err = x.verify(archive, info.Path); err == nil {
		_, err = x.head.Import(ctx, bytes.NewReader(archive), store.ImportOptions{})
	}
	switch {
	case err == nil:
		x.good("export", fmt.Sprintf("the head imported %s, signed by the machine", info.Path.Base()))
	case errors.Is(err, store.ErrUnauthorized):
		x.MachineKey = x.info.PublicKey
		x.bad("export", fmt.Errorf("the head does not take what it signs: %w", err), x.nearACLFix(x.m, x.info))
	default:
		x.bad("export", err, x.headFix(err))
	}
}

// maxArchive bounds the archive of a text of a few bytes, with its signature.
const maxArchive = 64 << 10

// request has an item made on the machine, and returns an archive of it.
func (x *tryer) request(ctx context.Context) (*store.Info, []byte, error) {
	name, content := nonce("from " + x.m.Name + " to the head")
	info, err := x.client.AddText(ctx, name, content)
	if err != nil {
		return nil, nil, err
	}
	if want, err := x.head.Dir().TextPath(name, content, nil); err != nil || info.Path != want {
		return nil, nil, errors.Join(err, fmt.Errorf("it made %s, not %s", info.Path, want))
	}
	body, err := x.client.Export(ctx, []store.Path{info.Path})
	if err != nil {
		return nil, nil, err
	}
	defer body.Close()
	archive, err := io.ReadAll(io.LimitReader(body, maxArchive+1))
	if err == nil && len(archive) > maxArchive {
		err = fmt.Errorf("its archive of %s has more than %d bytes", info.Path, maxArchive)
	}
	return info, archive, err
}

// verify checks an archive's only item against the head's ACL, as far as this user may
// read it: the store has the last word.
func (x *tryer) verify(archive []byte, path store.Path) error {
	r := nar.NewArchiveReader(bytes.NewReader(archive), x.head.Dir())
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
	acl, err := x.head.ACL()
	if errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err == nil {
		_, err = acl.Check(item.Signature, item.SignedHash)
	}
	return err
}

func (x *tryer) clock() {
	text, far := x.clockText()
	if !far {
		x.good("clock", text)
		return
	}
	x.Steps = append(x.Steps, trialStep{Name: "clock", Outcome: stepWarning, Detail: text, Fix: clockFix})
}
