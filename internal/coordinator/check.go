package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

// maxSkew is the difference between two clocks that is worth a word.
const maxSkew = time.Minute

// checker tries, step by step, what building on a machine needs.
type checker struct {
	c    *Coordinator
	m    *machine
	info *agentapi.Machine
	acl  *signature.ACL
	item store.Path // sent to the machine
	list []api.CheckStep
}

// check connects to a machine now.
func (c *Coordinator) check(ctx context.Context, m *machine) (*api.MachineCheck, error) {
	ctx, cancel := context.WithTimeout(ctx, c.limits.ConnectTimeout)
	defer cancel()
	m.contacts.setShut(nil) // a person who asks has perhaps mended what kept the machine away
	x := &checker{c: c, m: m}
	ok := x.run(ctx)
	x.settle(ctx)
	result := &api.MachineCheck{Machine: m.Name, OK: ok, Steps: x.list}
	err := c.do(ctx, func(l *loop) { result.Status = m.status() })
	return result, err
}

// checkSettle bounds how long a check waits for its news to show in the machine's status.
const checkSettle = 2 * time.Second

// settle has the supervisor look at the machine too, and waits for that.
func (x *checker) settle(ctx context.Context) {
	_, changed := x.m.contacts.seen()
	x.m.contacts.wake()
	if x.info == nil {
		return // it will not be reached
	}
	select {
	case <-changed:
	case <-time.After(checkSettle):
	case <-ctx.Done():
	}
}

// run reports whether all steps went well.
func (x *checker) run(ctx context.Context) bool {
	if !x.link(ctx) || !x.protocol() {
		return false
	}
	ok := x.step("store", x.storeDir(), "set the machine's store to the head's store directory")
	ok = x.step("build", x.builds(), "see the text; without it the machine gets no builds") && ok
	ok = x.offer() && ok
	ok = x.key() && ok
	x.clock()
	if x.info.StoreDir != x.c.head.Dir() {
		return false
	}
	return x.send(ctx) && x.fetch(ctx) && ok
}

// step notes the outcome of a step: what was found, or an error and what to do.
func (x *checker) step(name string, result any, fix string) bool {
	s := api.CheckStep{Name: name, OK: true}
	switch v := result.(type) {
	case error:
		s.OK, s.Detail, s.Fix = false, v.Error(), fix
	case string:
		s.Detail = v
	}
	x.list = append(x.list, s)
	return s.OK
}

func (x *checker) link(ctx context.Context) bool {
	asked := time.Now()
	info, err := x.m.client.Machine(ctx)
	if err != nil {
		return x.step("link", err, "see the text; ssh to the machine by hand with the same user and key tells more")
	}
	took := time.Since(asked)
	info.Now = info.Now.Add(-took / 2)
	x.info = info
	x.step("link", fmt.Sprintf("answered in %s", took.Round(time.Millisecond)), "")
	return x.step("agent", fmt.Sprintf("lighter-agent %s on %s, %s, %d cores", info.Version, info.Hostname, info.Kernel, info.Cores), "")
}

func (x *checker) protocol() bool {
	if x.info.Protocol != agentapi.Protocol {
		return x.step("protocol", fmt.Errorf("the agent speaks protocol %d, this coordinator %d", x.info.Protocol, agentapi.Protocol),
			"use agents and coordinator of the same release")
	}
	return x.step("protocol", fmt.Sprintf("protocol %d", x.info.Protocol), "")
}

func (x *checker) storeDir() any {
	if x.info.StoreDir != x.c.head.Dir() {
		return fmt.Errorf("its store is %s, the head's is %s", x.info.StoreDir, x.c.head.Dir())
	}
	return fmt.Sprintf("%s, kind %s, %d MiB free", x.info.StoreDir, x.info.StoreKind, x.info.FreeDisk>>20)
}

func (x *checker) builds() any {
	if x.info.BuildProblem != "" {
		return errors.New(x.info.BuildProblem)
	}
	if x.info.BuildWarning != "" {
		return "it can build; " + x.info.BuildWarning
	}
	return "it can build"
}

// offer compares the machine's entry with what its owner lets this head ask for.
func (x *checker) offer() bool {
	if x.info.Offer == nil {
		return true
	}
	if refused := x.info.Offer.Refuses(x.m.SandboxPaths, x.m.SubstituteURLs, x.m.ParallelBuilds); refused != "" {
		return x.step("offer", errors.New(refused), "")
	}
	return x.step("offer", "its owner offers all that its entry asks for", "")
}

func (x *checker) key() bool {
	if x.c.cfg.ACL == nil {
		return x.step("key", "not checked: the head has no list of authorized keys", "")
	}
	acl, err := x.c.cfg.ACL()
	if err != nil {
		return x.step("key", err, "repair the file that the text names")
	}
	x.acl = acl
	if problem := keyProblem(x.m.Name, x.info.PublicKey, acl); problem != "" {
		return x.step("key", errors.New(problem), "lighter machines authorize "+x.m.Name)
	}
	if problem := x.m.headKeyProblem(x.info); problem != "" {
		return x.step("key", errors.New(problem), "")
	}
	return x.step("key", "the head accepts its key", "")
}

func (x *checker) clock() {
	skew := time.Until(x.info.Now).Round(time.Millisecond)
	if skew.Abs() > maxSkew {
		x.step("clock", fmt.Errorf("its clock is off by %s", skew), "set the clocks; builds work, but times of files and logs mislead")
		return
	}
	x.step("clock", fmt.Sprintf("off by %s", skew), "")
}

// send sends a new item to the machine: it accepts the head's key.
func (x *checker) send(ctx context.Context) bool {
	adder, ok := x.c.cfg.Store.(store.Adder)
	if !ok {
		return x.step("send", "not tried: the head's store takes no texts", "")
	}
	nonce := rand.Text()
	var err error
	x.item, err = adder.AddText(ctx, "lighter-check-"+nonce[:8], []byte("lighter checks a machine: "+nonce+"\n"), nil)
	if err == nil {
		var info *store.Info
		if info, err = x.c.head.Info(ctx, x.item); err == nil {
			err = x.m.send(ctx, []*store.Info{info})
		}
	}
	if err != nil {
		return x.step("send", err, "authorize the head's key on the machine: "+x.m.authorizeHead(x.info.StoreKind))
	}
	return x.step("send", "it took an item that is signed by the head", "")
}

// fetch fetches the item again: the machine's signature is right and accepted.
func (x *checker) fetch(ctx context.Context) bool {
	if x.item == "" {
		return x.step("fetch", "not tried", "")
	}
	body, err := x.m.client.Export(ctx, []store.Path{x.item})
	if err == nil {
		defer body.Close()
		err = x.verify(body)
	}
	if err != nil {
		return x.step("fetch", err, "lighter machines authorize "+x.m.Name)
	}
	return x.step("fetch", "it gave the item back, signed with its key", "")
}

func (x *checker) verify(archive io.Reader) error {
	r := nar.NewArchiveReader(archive, x.c.head.Dir())
	if _, err := r.Next(); err != nil {
		return err
	}
	item, err := r.Item()
	if err != nil {
		return err
	}
	if item.Path != x.item {
		return fmt.Errorf("it sent %s instead of %s", item.Path, x.item)
	}
	if x.acl == nil {
		return nil
	}
	_, err = x.acl.Check(item.Signature, item.SignedHash)
	return err
}
