//go:build guixlab

package guixlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// The variables that make TestChaos another one. "inkscape" needs 2,200 derivations.
const (
	chaosSeed     = "LIGHTER_CHAOS_SEED"
	chaosPackages = "LIGHTER_CHAOS_PACKAGES"
	chaosPatience = 40 * time.Minute
)

// TestChaos has the graph of real packages built by builders that take their time and
// sometimes fail, while machines, coordinator, disks and hooks do what they do on bad days.
// The seed decides the graph's fates and what happens; when it happens is up to the machine.
func TestChaos(t *testing.T) {
	seed, packages := uint64(1), []string{"hello"}
	if s := os.Getenv(chaosSeed); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", chaosSeed, err)
		}
		seed = n
	}
	if s := os.Getenv(chaosPackages); s != "" {
		packages = strings.Fields(s)
	}
	// Machines that come back soon, a limit on failures that nobody reaches, a disk that fills.
	machines := []string{
		entry("builder1", `min-free-disk = "1 MiB"`), entry("builder2", "speed = 1.5"), entry("plain", `min-free-disk = "1 MiB"`),
	}
	hooks, err := os.MkdirTemp("/var/lib/lighter", "hooks-*") //nolint:usetesting // the coordinator's user has to get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(hooks) })
	if err := os.Chmod(hooks, 0o777); err != nil {
		t.Fatal(err)
	}
	f := newChaosFarm(t, chaosSettings(t, hooks), machines...)
	began := time.Now()
	c := &chaos{farm: f, rng: rand.New(rand.NewPCG(seed, 0)), machines: machines, happened: make(map[string]int)}
	c.sweep()
	c.plan(c.shape(packages...))
	t.Logf("seed %d, %v: %d derivations, %d of them fail for good, %d now and then; made in %s", seed, packages, len(c.nodes),
		c.count(func(n *chaosNode) bool { return n.doomed }), c.count(func(n *chaosNode) bool { return n.flaky }), time.Since(began).Round(time.Second))

	began = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), chaosPatience)
	defer cancel()
	submitted := make(chan struct{})
	go func() {
		defer close(submitted)
		c.submit(ctx, seed)
	}()
	for done := false; !done; {
		if ctx.Err() != nil {
			t.Fatalf("not done after %s: %s", chaosPatience, c.left())
		}
		c.happen(ctx)
		select {
		case <-submitted:
			done = c.left() == ""
		default:
		}
	}
	t.Logf("done after %s; what happened: %v", time.Since(began).Round(time.Second), c.happened)
	c.verify()
	c.verifyHooks(hooks)
	c.nothingLeft()
}

// chaosSettings is a lighter.toml with a hook that fails now and then, after it has noted what it was
// called for.
func chaosSettings(t *testing.T, dir string) string {
	script := filepath.Join(dir, "hook.sh")
	err := os.WriteFile(script, []byte(`#!/bin/sh
echo "$LIGHTER_EVENT_SEQ $LIGHTER_EVENT $LIGHTER_BUILD_ID" >>`+dir+`/calls
[ $(od -An -N1 -tu1 /dev/urandom) -gt 20 ]
`), 0o755)
	if err != nil {
		t.Fatal(err)
	}
	return `[coordinator]
machine-lost-after = "10s"
max-attempts = 1000

[[hook]]
name = "note"
events = ["build-submitted", "build-started", "build-succeeded", "build-failed", "build-dependency-failed", "machine-lost", "machine-back"]
command = ["` + script + `"]
parallel = 4
tries = 100
`
}

// newChaosFarm is newFarm with settings, and with a small disk for the plain machine's store.
func newChaosFarm(t *testing.T, settings string, machines ...string) *farm {
	t.Helper()
	restoreACL(t)
	f := startFarmWith(t, settings, machines...)
	f.on("plain", "runuser -u offload -- mkdir -p "+plainState+" && mount -t tmpfs -o size=512M,mode=755,uid=$(id -u offload) tmpfs "+plainState)
	t.Cleanup(func() {
		f.on("plain", "pkill -KILL -u offload lighter-agent; umount -l "+plainState)
	})
	f.authorize("plain")
	f.awaitUp(len(machines))
	return f
}

// plainState is where the agent of the machine without Guix keeps its store.
const plainState = "/home/offload/.local/share/lighter"

// chaos is one run.
type chaos struct {
	*farm
	rng      *rand.Rand // of the graph's fates and of what happens
	machines []string   // of the machines file
	nodes    []chaosNode
	happened map[string]int
}

// chaosNode is a derivation with its fate. Its inputs come before it.
type chaosNode struct {
	name   string
	inputs []int
	doomed bool // fails for good
	flaky  bool // fails now and then
	failed bool // what must become of it
	drv    store.Path
	id     string
}

func (c *chaos) count(is func(*chaosNode) bool) int {
	n := 0
	for i := range c.nodes {
		if is(&c.nodes[i]) {
			n++
		}
	}
	return n
}

// shape returns the graph of all derivations that packages need.
func (c *chaos) shape(packages ...string) []chaosNode {
	c.t.Helper()
	out, err := exec.Command("guix", append([]string{"build", "-d", "--no-grafts"}, packages...)...).Output()
	if err != nil {
		c.t.Fatalf("guix build -d: %v", err)
	}
	var nodes []chaosNode
	number := make(map[store.Path]int)
	var visit func(p store.Path) int
	visit = func(p store.Path) int {
		if n, ok := number[p]; ok {
			return n
		}
		text, err := os.ReadFile(string(p))
		if err != nil {
			c.t.Fatal(err)
		}
		d, err := derivation.Parse(p.Dir(), text)
		if err != nil {
			c.t.Fatal(err)
		}
		node := chaosNode{name: api.DerivationName(p)}
		for _, in := range d.Inputs {
			node.inputs = append(node.inputs, visit(in.Path))
		}
		number[p] = len(nodes)
		nodes = append(nodes, node)
		return number[p]
	}
	for _, line := range strings.Fields(string(out)) {
		visit(store.Path(line))
	}
	return nodes
}

// plan decides what becomes of each node, and adds the derivations.
func (c *chaos) plan(nodes []chaosNode) {
	c.t.Helper()
	c.nodes = nodes
	// What fails takes what needs it along: only where that is not much.
	needed := make([]int, len(nodes)) // by how many directly
	for i := range nodes {
		for _, in := range nodes[i].inputs {
			needed[in]++
		}
	}
	tag := unique("chaos")
	for i := range nodes {
		n := &nodes[i]
		switch c.rng.IntN(100) {
		case 0:
			n.doomed = needed[i] == 0 || needed[i] == 1 && i > len(nodes)/2
		case 1, 2, 3, 4:
			n.flaky = true
		}
		n.failed = n.doomed
		r := Recipe{Name: n.name, Env: map[string]string{"tag": tag}, Script: fmt.Sprintf("echo working; sleep %.2f\n", min(3, c.rng.ExpFloat64()*0.2))}
		if n.flaky {
			r.Script += "test $(od -An -N1 -tu1 /dev/urandom) -gt 100 || exit 3\n"
		}
		if n.doomed {
			r.Script += "echo no luck; exit 1\n"
		}
		r.Script += fmt.Sprintf("mkdir $out; echo %s > $out/name; dd if=/dev/zero of=$out/data bs=1024 count=%d 2>/dev/null\n", n.name, c.rng.IntN(64))
		for j, in := range n.inputs {
			n.failed = n.failed || nodes[in].failed
			r.Inputs = append(r.Inputs, nodes[in].drv)
			if j < 3 {
				r.Script += fmt.Sprintf("test -e %[1]s/name && ln -s %[1]s $out/input-%d\n", c.Output(nodes[in].drv, "out"), j)
			}
		}
		n.drv = c.add(r)
	}
}

// submit asks for a build of every node, until all are taken. What is asked for twice has
// the same id.
func (c *chaos) submit(ctx context.Context, seed uint64) {
	const chunk = 200
	space := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "chaos %d %s", seed, c.nodes[0].drv))
	var requests []api.Request
	for i := range c.nodes {
		n := &c.nodes[i]
		n.id = uuid.NewSHA1(space, []byte(n.drv)).String()
		r := api.Request{ID: n.id, Derivation: n.drv, Priority: i % 3, Tags: map[string]string{"chaos": strconv.FormatUint(seed, 10)}}
		if n.flaky {
			r.Retries = 100
		}
		requests = append(requests, r)
	}
	for len(requests) > 0 {
		some := requests[:min(chunk, len(requests))]
		answers, err := c.client.SubmitAll(ctx, some)
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond): // the coordinator is away
			}
			continue
		}
		for _, a := range answers {
			if a.Build == nil {
				c.t.Errorf("not taken: %s", a.Error)
			}
		}
		requests = requests[len(some):]
	}
}

// left says what is not final yet; empty if all is.
func (c *chaos) left() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	status, err := c.client.Status(ctx)
	if err != nil {
		return err.Error()
	}
	text := ""
	for _, s := range api.States() {
		if n := status.Counts[s]; n > 0 && !s.Final() {
			text += fmt.Sprintf("%d %s; ", n, s)
		}
	}
	return text
}

// happen does something bad, and mends it after a while.
func (c *chaos) happen(ctx context.Context) {
	names := []string{"builder1", "builder2", "plain"}
	m := Machine{names[c.rng.IntN(len(names))]}
	action, pause := c.rng.IntN(8), time.Duration(c.rng.IntN(3000))*time.Millisecond
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	must := func(err error) {
		if err != nil && ctx.Err() == nil {
			c.t.Errorf("chaos: %v", err)
		}
	}
	// A coordinator that was just started reads its ledger first.
	ask := func(f func() error) {
		var err error
		for deadline := time.Now().Add(patience); time.Now().Before(deadline) && ctx.Err() == nil; wait(50 * time.Millisecond) {
			if err = f(); !errors.Is(err, api.ErrUnavailable) {
				break
			}
		}
		must(err)
	}
	reload := func() {
		ask(func() error {
			_, err := c.client.Reload(ctx)
			return err
		})
	}
	var what string
	switch action {
	case 0, 1:
		what = "sshd killed"
		must(m.KillSSH(ctx))
		wait(pause)
		if c.rng.IntN(4) == 0 {
			what = "sshd away for long"
			wait(15 * time.Second) // its builds are freed
		}
		must(m.StartSSH(context.WithoutCancel(ctx)))
	case 2:
		what = "coordinator killed"
		c.kill()
		wait(pause / 4)
		c.start()
	case 3:
		what = "machine drained"
		ask(func() error {
			_, err := c.client.Drain(ctx, m.Name, "chaos")
			return err
		})
		wait(pause)
		ask(func() error {
			_, err := c.client.ResumeMachine(ctx, m.Name)
			return err
		})
	case 4:
		what = "machines file changed"
		left := append([]string(nil), c.machines...)
		i := c.rng.IntN(len(left))
		if c.rng.IntN(2) == 0 {
			left = append(left[:i:i], left[i+1:]...)
		} else {
			left[i] += fmt.Sprintf("\ntags = { chaos = \"%d\" }\nparallel-transfers = 2\n", c.rng.IntN(100))
		}
		c.write(left...)
		reload()
		wait(pause)
		c.write("[[machine]]\nname = 1") // refused
		if _, err := c.client.Reload(ctx); err == nil {
			c.t.Error("chaos: a bad machines file was taken")
		}
		c.write(c.machines...)
		reload()
	case 5:
		what = "disk filled"
		c.on("plain", "dd if=/dev/zero of="+plainState+"/filler bs=1M 2>/dev/null; true")
		wait(pause)
		c.on("plain", "rm -f "+plainState+"/filler")
	case 6:
		what = "agent killed"
		c.on(m.Name, "pkill -KILL -u offload lighter-agent; true")
		wait(pause)
	default:
		what = "nothing"
		wait(2 * pause)
	}
	c.happened[what]++
}

// verify checks what became of every build.
func (c *chaos) verify() {
	c.t.Helper()
	for i := range c.nodes {
		n := &c.nodes[i]
		b, err := c.client.Build(c.t.Context(), n.id)
		if err != nil {
			c.t.Errorf("%s: %v", n.drv, err)
			continue
		}
		want := map[bool]api.State{false: api.Succeeded, true: api.Failed}[n.failed]
		if n.failed && (!n.doomed || slices.ContainsFunc(n.inputs, func(in int) bool { return c.nodes[in].failed })) {
			want = api.DependencyFailed
		}
		if b.State != want {
			c.t.Errorf("%s is %s, want %s: %s; %+v", n.drv, b.State, want, b.Reason, b.Failure)
			continue
		}
		if n.failed {
			c.verifyFailure(n, b)
			continue
		}
		out := c.Output(n.drv, "out")
		info, err := c.Store.Info(c.t.Context(), out)
		if err != nil {
			c.t.Errorf("%s: %v", out, err)
			continue
		}
		if hash, size, err := nar.Hash(string(out)); err != nil || hash != info.NARHash || size != info.NARSize {
			c.t.Errorf("%s is not what was built: %d bytes, want %d", out, size, info.NARSize)
		}
	}
}

func (c *chaos) verifyFailure(n *chaosNode, b *api.Build) {
	c.t.Helper()
	kind := api.KindDependency
	if n.doomed {
		kind = string(store.FailedExit)
		for _, in := range n.inputs {
			if c.nodes[in].failed {
				kind = api.KindDependency
			}
		}
	}
	if b.Failure == nil || b.Failure.Culprit != api.CulpritDerivation || b.Failure.Kind != kind {
		c.t.Errorf("%s failed with %+v, want %q of the derivation", n.drv, b.Failure, kind)
	}
}

// verifyHooks checks that the hook was called for every event, and in order for each build.
func (c *chaos) verifyHooks(dir string) {
	c.t.Helper()
	await(c.t, func() string {
		list, err := c.client.Hooks(c.t.Context())
		if err != nil {
			return err.Error()
		}
		for _, h := range list.Hooks {
			if h.Waiting+h.Running > 0 {
				return fmt.Sprintf("%d runs of %s are waiting, %d running", h.Waiting, h.Name, h.Running)
			}
			if h.Parked > 0 {
				c.t.Errorf("%d runs of %s are parked", h.Parked, h.Name)
			}
		}
		return ""
	})
	file, err := os.Open(filepath.Join(dir, "calls"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer file.Close()
	called := make(map[uint64]int)
	latest := make(map[string]uint64) // of each build's first calls
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		seq, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			c.t.Fatalf("call %q: %v", lines.Text(), err)
		}
		if called[seq]++; called[seq] > 1 || len(fields) < 3 {
			continue
		}
		if id := fields[2]; seq < latest[id] {
			c.t.Errorf("build %s: event %d after %d", id, seq, latest[id])
		} else {
			latest[id] = seq
		}
	}
	want, repeated := 0, 0
	err = c.client.Events(c.t.Context(), 1, func(ev *api.Event) error {
		told := ev.Kind == api.KindSubmitted || ev.Kind == api.KindMachineLost || ev.Kind == api.KindMachineBack
		switch ev.State {
		case api.Succeeded, api.Failed, api.DependencyFailed:
			told = true
		}
		if !told {
			return nil
		}
		want++
		if called[ev.Seq] == 0 {
			c.t.Errorf("the hook was not called for %+v", ev)
		}
		if called[ev.Seq] > 1 {
			repeated++
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("the hook was called for %d events, for %d of them more than once", len(called), repeated)
	if want < 2*len(c.nodes) {
		c.t.Errorf("%d events of %d builds", want, len(c.nodes))
	}
}

// nothingLeft checks that machines have forgotten all builds, and none runs.
func (c *chaos) nothingLeft() {
	c.t.Helper()
	for _, m := range []string{"builder1", "builder2", "plain"} {
		await(c.t, func() string {
			return c.on(m, "find /home/offload -path '*/builds/*' -type f; pgrep -u offload -x sh; ls -d /tmp/guix-build-* 2>/dev/null; true")
		})
	}
}

// sweep removes what other tests left there that nothingLeft would find.
func (c *chaos) sweep() {
	c.t.Helper()
	for _, m := range []string{"builder1", "builder2", "plain"} {
		c.on(m, "find /home/offload -path '*/builds/*' -type f -delete; rm -rf /tmp/guix-build-*")
	}
}
