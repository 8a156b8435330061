//go:build guixlab

package guixlab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/store"
)

// submit asks the coordinator for a build.
func (f *farm) submit(r api.Request) *api.Build {
	f.t.Helper()
	if r.ID == "" {
		r.ID = uuid.NewString()
	}
	b, err := f.client.Submit(f.t.Context(), r)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

// ends waits until a build is final, which must be in that state.
func (f *farm) ends(id string, want api.State) *api.Build {
	f.t.Helper()
	var b *api.Build
	await(f.t, func() string {
		var err error
		if b, err = f.client.Build(f.t.Context(), id); err != nil {
			return err.Error()
		}
		if !b.State.Final() {
			return fmt.Sprintf("build %s is %s: %s", id, b.State, b.Reason)
		}
		return ""
	})
	if b.State != want {
		text, _ := json.MarshalIndent(b, "", "  ")
		f.t.Fatalf("want %s: %s", want, text)
	}
	return b
}

// builds requests a build and waits for its end.
func (f *farm) builds(r api.Request, want api.State) *api.Build {
	f.t.Helper()
	return f.ends(f.submit(r).ID, want)
}

// resultOf returns what a machine made in a check.
func resultOf(t *testing.T, b *api.Build, machine string) *api.CheckResult {
	t.Helper()
	for i := range b.Results {
		if b.Results[i].Machine == machine {
			return &b.Results[i]
		}
	}
	t.Fatalf("%s has made nothing: %+v", machine, b.Results)
	return nil
}

// newMixedFarm has machines of both kinds of stores: two with guix-daemon, one without.
func newMixedFarm(t *testing.T) *farm {
	t.Helper()
	return newFarmAuthorized(t, entry("builder1"), entry("builder2"), entry("plain"))
}

func TestCheckOfWhatIsReproducible(t *testing.T) {
	f := newMixedFarm(t)
	input := f.add(Recipe{Name: unique("input"), Script: "echo input > $out"})
	drv := f.add(Recipe{
		Name: unique("same"), Inputs: []store.Path{input}, Outputs: []string{"doc", "out"},
		Script: "mkdir $out; cat " + string(f.Output(input, "out")) + " > $out/file; echo $out > $doc",
	})
	check := func(machines ...string) {
		t.Helper()
		b := f.builds(api.Request{Derivation: drv, Check: 3}, api.Succeeded)
		if len(b.Results) != len(machines) {
			t.Fatalf("got %+v", b.Results)
		}
		for _, m := range machines {
			r := resultOf(t, b, m)
			if r.Failure != nil || r.Differs != nil || len(r.Hashes) != 2 || r.Hashes["doc"] != b.Results[0].Hashes["doc"] || r.Hashes["out"] != b.Results[0].Hashes["out"] {
				t.Errorf("got %+v", r)
			}
		}
	}
	check("builder1", "builder2", "plain")
	// And where all have it.
	check(api.TheHead, "builder1", "builder2", "plain")
}

func TestCheckOfWhatIsNot(t *testing.T) {
	f := newMixedFarm(t)
	drv := f.add(Recipe{
		Name:   unique("random"),
		Script: "mkdir -p $out/share; echo same > $out/same; cat /proc/sys/kernel/random/uuid > $out/share/id",
	})
	b := f.builds(api.Request{Derivation: drv, Check: 3}, api.Failed)
	if b.Failure.Kind != "differs" || b.Failure.Culprit != api.CulpritDerivation || len(b.Results) != 3 {
		t.Fatalf("got %+v of %+v", b.Failure, b.Results)
	}
	for _, r := range b.Results[1:] {
		if !slices.Equal(r.Differs, []string{"out/share/id"}) {
			t.Errorf("got %+v", r)
		}
	}
	// The next one has each guix-daemon build it in its own mode for checks.
	before, err := f.Store.Info(t.Context(), f.Output(drv, "out"))
	if err != nil {
		t.Fatal(err)
	}
	b = f.builds(api.Request{Derivation: drv, Check: 3}, api.Failed)
	if b.Failure.Kind != "differs" || len(b.Results) != 4 {
		t.Fatalf("got %+v of %+v", b.Failure, b.Results)
	}
	for _, m := range []string{"builder1", "builder2", "plain"} {
		if r := resultOf(t, b, m); !slices.Equal(r.Differs, []string{"out/share/id"}) || r.Failure != nil {
			t.Errorf("got %+v", r)
		}
	}
	if after, err := f.Store.Info(t.Context(), f.Output(drv, "out")); err != nil || after.NARHash != before.NARHash {
		t.Errorf("a check has changed what is on the head: %v", err)
	}
}

// guix-daemon tells of the first output that differs, and of no other.
func TestCheckOfSeveralOutputs(t *testing.T) {
	f := newMixedFarm(t)
	drv := f.add(Recipe{
		Name: unique("outputs"), Outputs: []string{"doc", "lib", "out"},
		Script: "echo same > $doc; cat /proc/sys/kernel/random/uuid > $lib; cat /proc/sys/kernel/random/uuid > $out",
	})
	f.builds(api.Request{Derivation: drv, Check: 3}, api.Failed)
	b := f.builds(api.Request{Derivation: drv, Check: 3}, api.Failed)
	if b.Failure.Kind != "differs" {
		t.Errorf("got %+v", b.Failure)
	}
	for _, m := range []string{"builder1", "builder2", "plain"} {
		r := resultOf(t, b, m)
		want := []string{"lib", "out"}
		if m != "plain" {
			want = want[:1]
		}
		if !slices.Equal(r.Differs, want) || len(r.Hashes) != 1+len(want) || r.Hashes["doc"] != b.Results[0].Hashes["doc"] {
			t.Errorf("got %+v", r)
		}
	}
}

func TestCheckOfWhatFailsOnOne(t *testing.T) {
	f := newMixedFarm(t)
	// The machines' kernel is one, but not what their builders are told.
	drv := f.add(Recipe{Name: unique("fails"), Script: "test -e " + Shared + "/never || test $NIX_BUILD_CORES != 3 || exit 7; echo ok > $out"})
	f.builds(api.Request{Derivation: drv, On: []string{"builder1"}}, api.Succeeded)
	f.write(entry("builder1"), entry("builder2", "build-cores = 3"), entry("plain", "build-cores = 3"))
	f.reload()
	b := f.builds(api.Request{Derivation: drv, Check: 3}, api.Failed)
	for _, m := range []string{"builder2", "plain"} {
		if r := resultOf(t, b, m); r.Failure == nil || r.Failure.ExitCode != 7 || r.Differs != nil {
			t.Errorf("got %+v", r)
		}
	}
	if r := resultOf(t, b, "builder1"); r.Failure != nil || r.Differs != nil {
		t.Errorf("got %+v", r)
	}
	contains(t, b.Failure.Message, "it fails on builder2 and plain")
}

// reload has the coordinator read the machines file.
func (f *farm) reload() {
	f.t.Helper()
	if _, err := f.client.Reload(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// ---- substitute servers of machines ----------------------------------------------------------

// big is how large the inputs are that a machine is to fetch. All else that is sent for a
// build is far less.
const big = 4 << 20

// bigInput adds an item that no machine has.
func (h *Head) bigInput(t *testing.T) store.Path {
	t.Helper()
	file := filepath.Join(t.TempDir(), "data")
	data := make([]byte, big)
	copy(data, unique("data"))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := h.AddTree(t.Context(), unique("data"), file)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reads makes a derivation that needs an item, and refers to it.
func (f *farm) reads(name string, p store.Path) store.Path {
	f.t.Helper()
	return f.add(Recipe{Name: unique(name), Sources: []store.Path{p}, Script: fmt.Sprintf("test -s %[1]s && echo %[1]s > $out", p)})
}

// newFarmWith has one machine, with more in its entry.
func newFarmWith(t *testing.T, name string, more ...string) *farm {
	t.Helper()
	if name == "plain" {
		return newFarmAuthorized(t, entry(name, more...))
	}
	return newFarm(t, entry(name, more...))
}

// letSubstitute has a machine's guix-daemon substitute until the test ends.
func letSubstitute(t *testing.T, m Machine) {
	t.Helper()
	if _, err := m.Run(t.Context(), substituting+" bash /lab/script service daemon"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := m.Run(context.WithoutCancel(t.Context()), "bash /lab/script service daemon"); err != nil {
			t.Error(err)
		}
	})
}

// nobodyListens returns a URL that refuses connections.
func nobodyListens(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// A machine fetches inputs from its own servers, and the head sends what they do not have.
func TestMachineSubstitutesFromLighter(t *testing.T) {
	for _, name := range []string{"builder1", "plain"} {
		t.Run(name, func(t *testing.T) {
			if name != "plain" {
				letSubstitute(t, Machine{name})
			}
			h, dir := openHead(t), t.TempDir()
			there, absent := h.bigInput(t), h.bigInput(t)
			lighter(t, "publish", "add", "--store=guix-daemon", "--to", dir, string(there), string(h.Busybox))
			servers := fmt.Sprintf("substitute-urls = [%q, %q]", nobodyListens(t), servePublished(t, dir))
			f := newFarmWith(t, name, servers)

			b := f.builds(api.Request{Derivation: f.reads("there", there), On: []string{name}}, api.Succeeded)
			if b.SentBytes >= big {
				t.Errorf("%d bytes were sent of what the machine's server has", b.SentBytes)
			}
			b = f.builds(api.Request{Derivation: f.reads("absent", absent), On: []string{name}}, api.Succeeded)
			if b.SentBytes < big {
				t.Errorf("only %d bytes were sent of what no server has", b.SentBytes)
			}
		})
	}
}

// A server that is down changes nothing.
func TestMachineWithServerDown(t *testing.T) {
	for _, name := range []string{"builder1", "plain"} {
		t.Run(name, func(t *testing.T) {
			if name != "plain" {
				letSubstitute(t, Machine{name})
			}
			servers := fmt.Sprintf("substitute-urls = [%q]", nobodyListens(t))
			f := newFarmWith(t, name, servers)
			b := f.builds(api.Request{Derivation: f.reads("down", f.bigInput(t)), On: []string{name}}, api.Succeeded)
			if b.SentBytes < big {
				t.Errorf("only %d bytes were sent, and there is no server", b.SentBytes)
			}
		})
	}
}

// The machine's own ACL says whose substitutes count: guix publish has a key that a person
// authorizes there.
func TestMachineAuthorizesItsServer(t *testing.T) {
	url := guixPublish(t)
	f := newFarmAuthorized(t, entry("plain", fmt.Sprintf("substitute-urls = [%q]", url)))
	b1 := openStoreOf(t, Machine{"builder1"})
	shared := func() store.Path {
		t.Helper()
		p := f.bigInput(t)
		tree, err := b1.AddTree(t.Context(), p.Name(), string(p))
		if err != nil || tree != p {
			t.Fatalf("builder1 has %s, %v", tree, err)
		}
		return p
	}
	b := f.builds(api.Request{Derivation: f.reads("refused", shared())}, api.Succeeded)
	if b.SentBytes < big {
		t.Errorf("only %d bytes were sent: a key that nobody authorized counts", b.SentBytes)
	}
	const acl = "~offload/.local/share/lighter/acl"
	f.on("plain", "cp -p "+acl+" /tmp/acl.before")
	t.Cleanup(func() { f.on("plain", "mv /tmp/acl.before "+acl) })
	f.on("plain", "set -e; agent=$(ls -t ~offload/.cache/lighter/agents/*/lighter-agent* | head -n 1); su offload -s /bin/sh -c \"$agent authorize -\" < /lab/keys/builder1.guix.pub")
	b = f.builds(api.Request{Derivation: f.reads("taken", shared())}, api.Succeeded)
	if b.SentBytes >= big {
		t.Errorf("%d bytes were sent of what the machine's server has", b.SentBytes)
	}
}

// ---- a machine's limits ----------------------------------------------------------------------

func TestMachineBuildCores(t *testing.T) {
	f := newFarmAuthorized(t, entry("builder1", "build-cores = 3"), entry("plain", "build-cores = 5"))
	for name, want := range map[string]string{"builder1": "3\n", "plain": "5\n"} {
		drv := f.add(Recipe{Name: unique("cores"), Script: "echo $NIX_BUILD_CORES > $out"})
		f.builds(api.Request{Derivation: drv, On: []string{name}}, api.Succeeded)
		f.content(f.Output(drv, "out"), want)
	}
}

func TestMachineTimeLimits(t *testing.T) {
	f := newFarmAuthorized(t,
		entry("builder1", `timeout = "2s"`), entry("builder2", `max-silent-time = "2s"`), entry("plain", `timeout = "2s"`))
	ids := make(map[string]string)
	for _, name := range []string{"builder1", "builder2", "plain"} {
		drv := f.add(Recipe{Name: unique("slow"), Script: "echo begun; sleep 600; echo > $out"})
		ids[name] = f.submit(api.Request{Derivation: drv, On: []string{name}, Timeout: 300}).ID
	}
	for name, id := range ids {
		b := f.ends(id, api.TimedOut)
		want := store.FailedTimeout
		if name == "builder2" {
			want = store.FailedSilence
		}
		if b.Failure.Kind != string(want) || b.Machine != name || !strings.Contains(b.Failure.Message, "2") {
			t.Errorf("%s: got %+v on %s", name, b.Failure, b.Machine)
		}
	}
}
