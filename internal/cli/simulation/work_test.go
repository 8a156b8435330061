package simulation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/internal/submission"
	"lighter/scheduler/estimate"
	"lighter/scheduler/simulate"
	"lighter/store"
)

func drvOf(name string) store.Path {
	return store.Path("/gnu/store/" + strings.Repeat("a", 32) + "-" + name + ".drv")
}

// nodesWith finds the inputs of derivations in a map, and nothing else.
func nodesWith(inputs map[string]string) nodeOf {
	return func(drv store.Path) *headstore.Node {
		names, ok := inputs[api.DerivationName(drv)]
		if !ok {
			return nil
		}
		n := &headstore.Node{Path: drv, System: "s"}
		for _, name := range strings.Fields(names) {
			n.Inputs = append(n.Inputs, drvOf(name))
		}
		return n
	}
}

var start = time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)

// built is a build that has succeeded, so many seconds after the start.
func built(name string, submitted, took float64) *api.Build {
	b := &api.Build{Request: api.Request{ID: "id-" + name, Derivation: drvOf(name)}, System: "s", State: api.Succeeded, Machine: "m", OutputSize: 7, BuildTime: api.Seconds(took)}
	b.Submitted = start.Add(time.Duration(submitted * float64(time.Second)))
	stopped := b.Submitted.Add(time.Duration(took * float64(time.Second)))
	b.Stopped = &stopped
	return b
}

// lines shows a graph.
func lines(g *simulate.Graph) (all []string) {
	for i := range g.Nodes {
		n := &g.Nodes[i]
		line := fmt.Sprintf("%s %s at %s", n.Name, n.Duration, n.Submitted)
		if n.Wanted {
			line += " wanted"
		}
		for _, in := range n.Inputs {
			line += " " + g.Nodes[in].Name
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

func twice(string) float64 { return 2 }

func TestReplay(t *testing.T) {
	root, dep, leaf := built("root", 0, 3), built("dep", 1, 2), built("leaf", 2, 1)
	dep.Parent, leaf.Parent = root.ID, dep.ID
	open := built("open", 1, 1)
	open.State = api.Queued
	skipped := built("skipped", 1, 0)
	failed := built("failed", 4, 0)
	failed.State, failed.Started = api.Failed, &failed.Submitted
	stopped := failed.Submitted.Add(5 * time.Second)
	failed.Stopped = &stopped
	check := built("check", 1, 1)
	check.Check = 2
	shared := built("leaf", 6, 1) // somebody asked for it himself
	shared.ID, shared.Shares = "other", leaf.ID
	w := replayed([]*api.Build{leaf, shared, open, skipped, check, failed, dep, root}, nodesWith(map[string]string{"root": "dep gone", "dep": "leaf"}), twice)
	want := []string{"dep 4s at 0s leaf", "failed 10s at 4s wanted", "leaf 2s at 0s wanted", "root 6s at 0s wanted dep"}
	if diff := cmp.Diff(want, lines(w.graph)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if w.took != 9*time.Second || w.measured != 4 || w.guessed != 0 {
		t.Errorf("took %s, %d and %d", w.took, w.measured, w.guessed)
	}
	notes := strings.Join(w.notes, "; ")
	for _, part := range []string{"1 builds are left out, which are not over yet", "which were not built", "which are checks", "the derivations of 2 builds can't be read"} {
		if !strings.Contains(notes, part) {
			t.Errorf("the notes lack %q: %s", part, notes)
		}
	}
}

// TestReplayWithoutDerivations has only what the ledger says of for what builds were made.
func TestReplayWithoutDerivations(t *testing.T) {
	root, dep, leaf := built("root", 0, 3), built("dep", 1, 2), built("leaf", 2, 1)
	dep.Parent, leaf.Parent = root.ID, dep.ID
	w := replayed([]*api.Build{root, dep, leaf}, nodesWith(nil), func(string) float64 { return 1 })
	want := []string{"dep 2s at 0s leaf", "leaf 1s at 0s", "root 3s at 0s wanted dep"}
	if diff := cmp.Diff(want, lines(w.graph)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestReplayOfNonsense: a ledger that was tampered with makes no graph that can't be played.
func TestReplayOfNonsense(t *testing.T) {
	a, b, c := built("a", 0, 1), built("b", -100, 1), built("c", 0, 1e9)
	a.Parent, b.Parent, c.Parent, c.OutputSize = b.ID, a.ID, c.ID, -5
	d := built("a", 3, 2) // the same again
	d.ID = "id-again"
	w := replayed([]*api.Build{a, b, c, d}, nodesWith(map[string]string{"c": "c"}), twice)
	if len(w.graph.Nodes) != 4 || !strings.Contains(strings.Join(w.notes, ";"), "in a circle") {
		t.Fatalf("%v %v", lines(w.graph), w.notes)
	}
	_, err := simulate.Run(t.Context(), simulate.Scenario{Graph: w.graph, Machines: []simulate.Machine{{Name: "m", Systems: []string{"s"}, Slots: 1}}})
	if err != nil {
		t.Error(err)
	}
}

// TestReplayThroughHook: what guix-daemon asked for when its inputs were at home could have been asked for earlier.
func TestReplayThroughHook(t *testing.T) {
	a, b := built("a", 10, 5), built("b", 20, 5)
	a.Offload, b.Offload = true, true
	w := replayed([]*api.Build{a, b}, nodesWith(map[string]string{"a": "", "b": "a"}), func(string) float64 { return 1 })
	if diff := cmp.Diff([]string{"a 5s at 0s wanted", "b 5s at 0s wanted a"}, lines(w.graph)); diff != "" || !w.hook {
		t.Errorf("hook %t (-want +got):\n%s", w.hook, diff)
	}
}

func TestRequests(t *testing.T) {
	var builds []*api.Build
	big := built("big", 0, 1)
	builds = append(builds, big)
	for i := range 40 {
		b := built(fmt.Sprint("part", i), 0, 1)
		b.Parent = big.ID
		builds = append(builds, b)
	}
	small, its := built("small", 5, 1), built("its", 5, 1)
	its.Parent = small.ID
	w := replayed(append(builds, small, its), nodesWith(nil), twice)
	for i := range w.graph.Nodes {
		n := &w.graph.Nodes[i]
		want := 0
		if n.Name == "small" || n.Name == "its" {
			want = 1
		}
		if n.Request != want {
			t.Errorf("%s is of request %d, want %d", n.Name, n.Request, want)
		}
	}
}

func TestRemaining(t *testing.T) {
	k := newKnowledge()
	builds := []*api.Build{built("top", 0, 0), built("mid", 0, 0), built("low", 0, 0), built("other", 0, 0)}
	for _, b := range builds {
		b.State = api.Queued
	}
	builds[2].State, builds[2].Started = api.Building, &start
	builds[1].Parent = "id-top"
	builds[0].Tags = map[string]string{"nightly": "1"}
	e := k.ofName("low", "s")
	now := start.Add(e.Duration.Middle() / 2)
	w := remaining(builds, inSubmission("nightly=1", submission.BuildID), nodesWith(map[string]string{"mid": "low", "other": ""}), k, func(string) float64 { return 1 }, now)
	var names []string
	for i := range w.graph.Nodes {
		names = append(names, w.graph.Nodes[i].Name)
	}
	if diff := cmp.Diff([]string{"low", "mid", "top"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := w.graph.Nodes[0].Duration; got > e.Duration.Middle()/2+time.Second || got < e.Duration.Middle()/2-time.Second {
		t.Errorf("half of %s is left, not %s", e.Duration.Middle(), got)
	}
	if w.guessed != 3 || w.measured != 0 {
		t.Errorf("%d measured, %d guessed", w.measured, w.guessed)
	}
	named := inSubmission("nightly", submission.BuildID)
	b := &api.Build{Request: api.Request{ID: submission.BuildID("nightly", drvOf("x")), Derivation: drvOf("x")}}
	if !named(b) || named(builds[0]) {
		t.Error("a submission is found by what its name makes of derivations")
	}
}

// TestDrawn: with one run, what is in the middle is true; with more, it differs, and is known as it was.
func TestDrawn(t *testing.T) {
	k := newKnowledge()
	it := &item{drv: drvOf("a")}
	it.Name, it.System = "a", "s"
	e := k.ofName("a", "s")
	it.dist = e.Duration
	expect(&it.Node, &e)
	w := assemble([]*item{it})
	keep := func(*simulate.Graph) {}
	g, known := w.drawn(0, 1, 1, knowsWork, keep)
	if g.Nodes[0].Duration != e.Duration.Middle() || known(0).Duration != e.Duration.Middle() {
		t.Errorf("%s, known as %s, want %s", g.Nodes[0].Duration, known(0).Duration, e.Duration.Middle())
	}
	first, known := w.drawn(0, 2, 1, knowsWork, keep)
	second, _ := w.drawn(1, 2, 1, knowsWork, keep)
	again, _ := w.drawn(0, 2, 1, knowsWork, keep)
	if first.Nodes[0].Duration == second.Nodes[0].Duration || known(0).Duration != e.Duration.Middle() {
		t.Errorf("%s and %s, known as %s", first.Nodes[0].Duration, second.Nodes[0].Duration, known(0).Duration)
	}
	if first.Nodes[0].Duration != again.Nodes[0].Duration {
		t.Error("the same seed draws something else")
	}
	if _, known := w.drawn(0, 1, 1, knowsNothing, keep); known(0).Duration != 0 {
		t.Error("something is known")
	}
}

func TestGraphFile(t *testing.T) {
	k := newKnowledge()
	k.add(samplesOf("known", 50*time.Second))
	w, err := fromFile(strings.NewReader("# comment\n0\tknown-1.0\ts\t\t\t\n1\tnew-2.0\ts\tR\t\t0\n"), k)
	if err != nil {
		t.Fatal(err)
	}
	g, _ := w.drawn(0, 1, 1, knowsWork, func(*simulate.Graph) {})
	if w.measured != 1 || w.guessed != 1 || g.Nodes[0].Duration.Round(time.Second) != 50*time.Second || g.Nodes[1].Duration <= 0 {
		t.Errorf("%d measured, %d guessed, %v", w.measured, w.guessed, lines(g))
	}
}

func TestPhases(t *testing.T) {
	at := func(state api.State, attempt int, seconds float64) api.Event {
		return api.Event{State: state, Attempt: attempt, Time: start.Add(time.Duration(seconds * float64(time.Second)))}
	}
	b := built("a", 0, 3)
	b.Attempt, b.SentBytes, b.FetchBytes = 2, 100, 50
	events := []api.Event{
		at(api.Placed, 1, 0), at(api.Building, 1, 1), // lost
		at(api.Placed, 2, 10), at(api.Sending, 2, 10.2), at(api.Building, 2, 12), at(api.Fetching, 2, 15.5), at(api.Succeeded, 2, 17),
	}
	slot, home, ok := phases(events, b, 100, 50)
	if !ok || slot != 1500*time.Millisecond || home != 500*time.Millisecond {
		t.Errorf("%s and %s, want 1.5s and 500ms", slot, home)
	}
	if _, home, _ := phases(slices.Delete(events, 5, 6), b, 100, 50); home >= 0 {
		t.Errorf("nothing came home in %s", home)
	}
	if _, _, ok := phases(events[:2], b, 100, 50); ok {
		t.Error("an attempt without an end")
	}
}

func TestKnowledgeBounds(t *testing.T) {
	if e := newKnowledge().Of(estimate.Key{Kind: estimate.Package, Name: "nothing"}); e.Measured() || e.Duration.Middle() <= 0 {
		t.Error("of what was never built there is a guess")
	}
}

func samplesOf(name string, took time.Duration) *ledger.Samples {
	return &ledger.Samples{Key: estimate.Key{Kind: estimate.Package, Name: name, System: "s"}, Samples: []estimate.Sample{{Version: "1.0", System: "s", Duration: took, Speed: 1}}}
}
