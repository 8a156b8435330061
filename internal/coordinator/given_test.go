package coordinator

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/nar"
	"lighter/store"
)

// These tests have machines whose keys the head accepts give what they were not given to make.

// plant puts an item of the machine's own making into its store.
func (a *fakeAgent) plant(t *testing.T, path store.Path, content string, references ...store.Path) *store.Info {
	t.Helper()
	archive, err := makeArchive(a.key, path, references, content)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := a.store.Import(context.Background(), bytes.NewReader(archive), store.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return infos[0]
}

// content returns the text of a file in the head's store.
func (f *farm) content(p store.Path) string {
	f.t.Helper()
	var b bytes.Buffer
	if err := f.head.WriteNAR(context.Background(), &b, p); err != nil {
		f.t.Fatal(err)
	}
	r := nar.NewReader(&b)
	if _, err := r.Next(); err != nil {
		f.t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// refusedBy checks that a build failed since a machine gave something that it may not.
func refusedBy(t *testing.T, b *api.Build, machine string, item store.Path) {
	t.Helper()
	f := b.Failure
	if f == nil || f.Culprit != api.CulpritMachine || f.Machine != machine || !strings.Contains(f.Message, string(item)) {
		t.Errorf("got %s, %+v; want a failure of %s that names %s", b.State, f, machine, item)
	}
}

// impatient has builds fail with the first failure of a machine.
func impatient(c *Config) { c.Limits.MaxAttempts = 1 }

// TestReferenceTrojan has an output that refers to an output of another derivation, which nobody
// has and the machine was never given: that one is not taken, and is built where it may be.
func TestReferenceTrojan(t *testing.T) {
	for _, direct := range []bool{true, false} {
		t.Run(fmt.Sprint("direct=", direct), func(t *testing.T) {
			f := newFarm(t, impatient, "m1", "m2")
			m1 := f.agents["m1"]
			trojan := f.derive(on("m2"), "openssl", "")
			lib := f.derive(on("m1"), "lib", "")
			victim, end := lib, api.Failed
			if !direct {
				end = api.DependencyFailed
				victim = f.derive(on("m1"), "app", "", lib)
			}
			m1.plant(t, f.output(trojan), "TROJAN")
			m1.plant(t, f.output(lib), "lib", f.output(trojan))
			b := f.awaitState(f.submit(victim)[0], end)
			if direct {
				refusedBy(t, b, "m1", f.output(trojan))
			} else {
				refusedBy(t, f.children()[lib], "m1", f.output(trojan))
			}
			if f.valid(f.output(trojan)) {
				t.Fatalf("the head has %s", f.content(f.output(trojan)))
			}
			b = f.awaitState(f.submit(trojan)[0], api.Succeeded)
			if b.Machine != "m2" || f.agents["m2"].count("openssl") != 1 || strings.Contains(f.content(f.output(trojan)), "TROJAN") {
				t.Errorf("built on %q, %d times: %s", b.Machine, f.agents["m2"].count("openssl"), f.content(f.output(trojan)))
			}
			f.idle()
		})
	}
}

// TestReferenceToHeadsItem has an output that refers to an item of the head's store which is no
// input: what needs that output would be sent the item.
func TestReferenceToHeadsItem(t *testing.T) {
	f := newFarm(t, impatient, "m1")
	m1 := f.agents["m1"]
	secret, err := f.head.AddText(t.Context(), "secret", []byte("of the head"), nil)
	if err != nil {
		t.Fatal(err)
	}
	lib := f.drv("lib", "")
	m1.plant(t, secret, "guessed")
	m1.plant(t, f.output(lib), "lib", secret)
	top := f.drv("top", "", lib)
	f.awaitState(f.submit(top)[0], api.DependencyFailed)
	refusedBy(t, f.children()[lib], "m1", secret)
	if m1.sent[secret] > 0 {
		t.Error("the machine was sent the head's secret")
	}
	f.idle()
}

// TestOutputsThatAreNot has a build end with outputs that are not, or not only, those of its
// derivation.
func TestOutputsThatAreNot(t *testing.T) {
	for _, name := range []string{"another's", "null", "null alone", "twice", "an input", "an input in its place", "none", "under another name"} {
		t.Run(name, func(t *testing.T) {
			f := newFarm(t, impatient, "m1", "m2", "m3")
			m1 := f.agents["m1"]
			lib := f.derive(on("m2"), "lib", "")
			input := f.derive(on("m1"), "input", "")
			bad := f.derive(on("m1"), "bad", "", input)
			app := f.derive(on("m3"), "app", "", lib, bad)
			trojan := m1.plant(t, f.output(lib), "TROJAN")
			told := f.output(bad)
			m1.set(func(a *fakeAgent) {
				a.lie = func(s *agentapi.BuildStatus) {
					if s.State != agentapi.Succeeded || s.Derivation != bad {
						return
					}
					out := s.Outputs["out"]
					switch name {
					case "another's":
						s.Outputs["lib"] = trojan
					case "null":
						s.Outputs["doc"] = nil
					case "null alone":
						s.Outputs["out"] = nil
					case "twice":
						s.Outputs["doc"] = out
					case "an input":
						s.Outputs["doc"] = &store.Info{Path: f.output(input), NARSize: 1}
					case "an input in its place":
						s.Outputs["out"] = &store.Info{Path: f.output(input), NARSize: 1}
					case "none":
						s.Outputs = nil
					case "under another name":
						s.Outputs = map[string]*store.Info{"doc": out}
					}
				}
			})
			id := f.submit(app)[0]
			f.awaitState(id, api.DependencyFailed)
			b := f.children()[bad]
			if b.Failure == nil || b.Failure.Culprit != api.CulpritMachine || b.Failure.Machine != "m1" {
				t.Errorf("got %+v; want a failure of m1 (%s)", b.Failure, told)
			}
			if child := f.children()[lib]; child != nil && child.State == api.Succeeded && f.agents["m2"].count("lib") != 1 {
				t.Errorf("lib: %+v", child)
			}
			m1.set(func(a *fakeAgent) { a.lie = nil })
			f.forgive("m1")
			f.awaitState(f.submit(app)[0], api.Succeeded)
			if text := f.content(f.output(lib)); strings.Contains(text, "TROJAN") {
				t.Errorf("lib at home is %s", text)
			}
			f.idle()
		})
	}
}

// TestArchiveUnlikeAnnounced has a machine send another item than it said it had made, under the
// same name.
func TestArchiveUnlikeAnnounced(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(f *farm, drv store.Path) (content string, references []store.Path, deriver store.Path)
	}{
		{"contents", func(*farm, store.Path) (string, []store.Path, store.Path) { return "something else", nil, "" }},
		{"references", func(f *farm, drv store.Path) (string, []store.Path, store.Path) {
			return "built from " + drv.String(), []store.Path{f.output(drv)}, ""
		}},
		{"deriver", func(_ *farm, drv store.Path) (string, []store.Path, store.Path) {
			return "built from " + drv.String(), nil, drv
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFarm(t, impatient, "m1")
			drv := f.drv("one", "")
			content, references, deriver := tt.make(f, drv)
			f.agents["m1"].set(func(a *fakeAgent) {
				a.archive = func([]byte) []byte {
					var b bytes.Buffer
					w := nar.NewArchiveWriter(&b)
					item := &nar.Item{Path: f.output(drv), References: references, Deriver: deriver}
					if err := w.WriteItem(item, func(out io.Writer) error { return writeFile(out, content) }, a.key.Sign); err != nil {
						t.Error(err)
					}
					w.Close()
					return b.Bytes()
				}
			})
			refusedBy(t, f.awaitState(f.submit(drv)[0], api.Failed), "m1", f.output(drv))
			if f.valid(f.output(drv)) {
				t.Errorf("the head has %s", f.content(f.output(drv)))
			}
			f.idle()
		})
	}
}

// forgive ends that a machine rests.
func (f *farm) forgive(machine string) {
	f.t.Helper()
	if err := f.c.do(context.Background(), func(l *loop) { l.byName[machine].conduct, l.placing = conduct.Record{}, true }); err != nil {
		f.t.Fatal(err)
	}
}

// comeBack has a machine come back after a break, with other builds to list.
func (f *farm) comeBack(name string, lie func(*agentapi.BuildStatus), extra ...agentapi.BuildStatus) {
	f.t.Helper()
	a := f.agents[name]
	a.cutLink(true)
	f.machine(name).peer.Poke()
	f.untilState(name, api.MachineDown)
	a.set(func(a *fakeAgent) {
		a.lie = lie
		for _, s := range extra {
			a.builds[fmt.Sprint(len(a.builds), s.ID)] = &fakeBuild{status: s, changed: make(chan struct{}), cancel: func() {}}
		}
	})
	a.up()
	f.machine(name).peer.Wake()
	f.untilState(name, api.MachineUp)
}

func (f *farm) untilState(machine string, state api.MachineState) {
	f.t.Helper()
	f.until(machine+" is "+string(state), func() (ok bool) {
		if err := f.c.do(context.Background(), func(l *loop) { ok = l.byName[machine].state == state }); err != nil {
			f.t.Fatal(err)
		}
		return ok
	})
}

// TestListedAttempts has a machine that once got a build list it, after a break, as an attempt
// that it was not given, while the build waits for its next one.
func TestListedAttempts(t *testing.T) {
	for _, attempt := range []int64{2147483647, 9999999999, -1, 0, 2, 3, 1} {
		states := []string{agentapi.Running, agentapi.Rooted, agentapi.Succeeded}
		if attempt == 1 {
			states = []string{agentapi.Rooted} // the others are what it was given: TestLostMachineBringsResult
		}
		for _, state := range states {
			t.Run(fmt.Sprint(attempt, " ", state), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFarm(t, nil, "m1", "m2")
					m1 := f.agents["m1"]
					drv := f.drv("one", "machine=m1")
					m2 := f.derive(on("m2"), "plug", "hold")
					plugs := f.submit(m2, f.derive(on("m2"), "plug2", "hold"))
					for _, id := range plugs {
						f.awaitState(id, api.Building)
					}
					id := f.submit(drv)[0]
					f.await(id, func(b *api.Build) bool { return b.State == api.Queued && b.Attempt == 1 })
					out := m1.plant(t, f.output(drv), "TROJAN")
					s := agentapi.BuildStatus{ID: id, Attempt: int(attempt), Derivation: drv, State: state}
					if state == agentapi.Succeeded {
						s.Outputs = map[string]*store.Info{"out": out}
					}
					f.comeBack("m1", nil, s)
					f.releaseAll("plug", "plug2", "one")
					b := f.awaitState(id, api.Succeeded)
					if b.Machine != "m2" || b.Attempt != 2 || strings.Contains(f.content(f.output(drv)), "TROJAN") {
						t.Errorf("built on %s in attempt %d: %s", b.Machine, b.Attempt, f.content(f.output(drv)))
					}
				})
			})
		}
	}
}

// TestListedBuilds has a machine list what it was not given under ids that it knows.
func TestListedBuilds(t *testing.T) {
	for _, tt := range []struct {
		name string
		list func(f *farm, old, waits *api.Build, out *store.Info) agentapi.BuildStatus
	}{
		{"its old id", func(_ *farm, old, waits *api.Build, out *store.Info) agentapi.BuildStatus {
			return agentapi.BuildStatus{ID: old.ID, Attempt: 1, Derivation: waits.Derivation, State: agentapi.Succeeded, Outputs: map[string]*store.Info{"out": out}}
		}},
		{"the id that waits", func(_ *farm, _, waits *api.Build, out *store.Info) agentapi.BuildStatus {
			return agentapi.BuildStatus{ID: waits.ID, Attempt: 1, Derivation: waits.Derivation, State: agentapi.Succeeded, Outputs: map[string]*store.Info{"out": out}}
		}},
		{"the id that waits, no attempt", func(_ *farm, _, waits *api.Build, out *store.Info) agentapi.BuildStatus {
			return agentapi.BuildStatus{ID: waits.ID, Derivation: waits.Derivation, State: agentapi.Succeeded, Outputs: map[string]*store.Info{"out": out}}
		}},
		{"without outputs", func(_ *farm, old, waits *api.Build, _ *store.Info) agentapi.BuildStatus {
			return agentapi.BuildStatus{ID: old.ID, Attempt: 1, Derivation: waits.Derivation, State: agentapi.Succeeded}
		}},
		{"runs", func(_ *farm, _, waits *api.Build, _ *store.Info) agentapi.BuildStatus {
			return agentapi.BuildStatus{ID: waits.ID, Attempt: 1, Derivation: waits.Derivation, State: agentapi.Running}
		}},
		{"a check", func(_ *farm, old, waits *api.Build, out *store.Info) agentapi.BuildStatus {
			return agentapi.BuildStatus{ID: old.ID, Attempt: 1, Derivation: waits.Derivation, State: agentapi.Succeeded, Check: true, Outputs: map[string]*store.Info{"out": out}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFarm(t, nil, "m1", "m2")
			old := f.awaitState(f.submit(f.derive(on("m1"), "old", ""))[0], api.Succeeded)
			plugs := f.submit(f.derive(on("m2"), "plug", "hold"), f.derive(on("m2"), "plug2", "hold"))
			for _, id := range plugs {
				f.awaitState(id, api.Building)
			}
			drv := f.drv("one", "")
			id := f.request(api.Request{Derivation: drv, On: []string{"m2"}})[0]
			waits := f.awaitState(id, api.Queued)
			f.until("it is in the queue", func() (ok bool) {
				f.c.do(t.Context(), func(l *loop) { ok = l.queue.Len() == 1 })
				return ok
			})
			f.comeBack("m1", nil, tt.list(f, old, waits, f.agents["m1"].plant(t, f.output(drv), "TROJAN")))
			f.releaseAll("plug", "plug2")
			b := f.awaitState(id, api.Succeeded)
			if b.Machine != "m2" || b.Attempt != 1 || strings.Contains(f.content(f.output(drv)), "TROJAN") {
				t.Errorf("built on %s in attempt %d: %s", b.Machine, b.Attempt, f.content(f.output(drv)))
			}
		})
	}
}

// keptFarm has base built on m1, where it is kept for top, which waits for gate on m2.
func keptFarm(t *testing.T, names ...string) (f *farm, base, top store.Path, id string) {
	t.Helper()
	f = newFarm(t, nil, names...)
	base = f.derive(on("m1"), "base", "")
	gate := f.derive(on("m2"), "gate", "hold")
	top = f.derive(on("m2"), "top", "", base, gate)
	id = f.submit(top)[0]
	f.awaitState(id, api.Waiting)
	f.awaitChild(base, api.Succeeded)
	f.until("base is kept", func() bool { item, _ := f.c.inventory.Get(f.output(base)); return item != nil })
	return f, base, top, id
}

// TestKeptItemChanges has a machine say something else of what it keeps the second time.
func TestKeptItemChanges(t *testing.T) {
	for _, name := range []string{"hash", "references", "size", "path", "gone", "failed", "extra"} {
		t.Run(name, func(t *testing.T) {
			f, base, _, id := keptFarm(t, "m1", "m2")
			before, _ := f.c.inventory.Get(f.output(base))
			other := f.drv("other", "")
			var made string // what the lies are about: what is built again is as it was
			f.comeBack("m1", func(s *agentapi.BuildStatus) {
				build := fmt.Sprint(s.ID, s.Attempt)
				if s.Derivation != base || s.Outputs["out"] == nil || build != cmp.Or(made, build) {
					return
				}
				made = build
				info := *s.Outputs["out"]
				switch name {
				case "hash":
					info.NARHash[0] ^= 1
				case "references":
					info.References = []store.Path{f.output(other)}
				case "size":
					info.NARSize++
				case "path":
					info.Path = f.output(other)
				case "extra":
					s.Outputs["other"] = &store.Info{Path: f.output(other)}
				case "failed":
					s.State = agentapi.Failed
				}
				s.Outputs["out"] = &info
				if name == "gone" {
					s.Outputs = nil
				}
			})
			if item, _ := f.c.inventory.Get(f.output(other)); item != nil {
				t.Error("another item is kept there")
			}
			if item, _ := f.c.inventory.Get(f.output(base)); item != nil && (item.Info.NARHash != before.Info.NARHash || len(item.Info.References) > 0) {
				t.Errorf("what is known of it is another now: %+v", item.Info)
			}
			f.agents["m1"].set(func(a *fakeAgent) { a.lie = nil })
			f.forgive("m1")
			f.releaseAll("gate")
			f.awaitState(id, api.Succeeded)
			f.idle()
		})
	}
}

// TestKeptItemIsReplaced has a machine give other contents for what another machine needs than it
// said it had made.
func TestKeptItemIsReplaced(t *testing.T) {
	f, base, _, id := keptFarm(t, "m1", "m2")
	m1 := f.agents["m1"]
	lies := 1
	m1.set(func(a *fakeAgent) {
		a.archive = func(archive []byte) []byte {
			if lies--; lies >= 0 {
				archive, _ = makeArchive(a.key, f.output(base), nil, "TROJAN")
			}
			return archive
		}
	})
	f.releaseAll("gate")
	f.awaitState(id, api.Succeeded)
	if text := f.content(f.output(base)); strings.Contains(text, "TROJAN") {
		t.Errorf("base at home is %s", text)
	}
	f.idle()
}

// TestClosureOfOthers has a machine answer for the closure of what it keeps with items that it was
// not given to make, after a start, when only it knows what that refers to.
func TestClosureOfOthers(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	m1 := f.agents["m1"]
	base := f.derive(on("m1"), "base", "")
	mid := f.derive(on("m1"), "mid", "", base)
	gate := f.derive(on("m2"), "gate", "hold")
	top := f.derive(on("m2"), "top", "", mid, gate)
	trojan := f.derive(on("m2"), "openssl", "")
	id := f.submit(top)[0]
	f.awaitChild(mid, api.Succeeded)
	f.until("base is forgotten", func() bool { return m1.knows() == 1 })
	f.awaitChild(gate, api.Building)
	f.shutDown()
	planted := m1.plant(t, f.output(trojan), "TROJAN")
	asked := 0
	m1.set(func(a *fakeAgent) {
		a.closure = func() []*store.Info {
			if asked++; asked > 2 {
				return nil
			}
			out, _ := a.store.Info(context.Background(), f.output(base))
			out.References = []store.Path{planted.Path}
			return []*store.Info{planted, out, out}
		}
	})
	f.start()
	f.releaseAll("gate")
	f.awaitState(id, api.Succeeded)
	if f.valid(planted.Path) {
		t.Errorf("the head has %s", f.content(planted.Path))
	}
	f.idle()
}

// TestCheckGivesNothing has a machine that builds for a check say that it made other things.
func TestCheckGivesNothing(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2", "m3")
	drv := f.drv("one", "")
	trojan := f.derive(on("m3"), "openssl", "")
	for _, name := range []string{"m1", "m2"} {
		a := f.agents[name]
		planted := a.plant(t, f.output(trojan), "TROJAN")
		a.set(func(a *fakeAgent) {
			a.lie = func(s *agentapi.BuildStatus) {
				if s.State == agentapi.Succeeded && a.builds[s.ID] != nil && a.builds[s.ID].request.Check {
					s.Outputs["lib"] = planted
				}
			}
		})
	}
	id := f.checkBuild(api.Request{Derivation: drv, Check: 2})
	b := f.awaitFinal(id)
	for _, r := range b.Results {
		if len(r.Hashes) != 1 {
			t.Errorf("got hashes %v", r.Hashes)
		}
	}
	if f.valid(f.output(trojan)) {
		t.Error("what was made for a check is at home")
	}
	f.awaitState(f.submit(trojan)[0], api.Succeeded)
	if f.agents["m3"].count("openssl") != 1 {
		t.Error("openssl was not built")
	}
	f.idle()
}

// TestHonestMachineUnderTheSameName has another machine in the place of one that listed what it
// was not given.
func TestHonestMachineUnderTheSameName(t *testing.T) {
	f := newFarm(t, nil, "m1")
	m1 := f.agents["m1"]
	drv := f.drv("one", "machine=m1")
	f.config.Limits.AttemptDelay = 1
	id := f.submit(drv)[0]
	f.await(id, func(b *api.Build) bool { return b.Attempt >= 1 })
	f.comeBack("m1", func(s *agentapi.BuildStatus) { s.Attempt = 2147483647 })
	f.shutDown()
	honest := newFakeAgent(t, "other", m1.key, nil)
	honest.store = m1.store
	f.agents["m1"] = honest
	f.start()
	if b := f.awaitState(id, api.Succeeded); b.Attempt > 20 || honest.count("one") != 1 {
		t.Errorf("attempt %d, built %d times", b.Attempt, honest.count("one"))
	}
}

// TestOffloadSaysWhatWasMade has a hook told what the machine said it had made, so that it can
// refuse anything else, and a machine that gives one more output.
func TestOffloadSaysWhatWasMade(t *testing.T) {
	f := newHookFarm(t, nil, "m1", "m2")
	drv, other := f.drv("one", ""), f.drv("other", "")
	lies := 1
	lie := func(s *agentapi.BuildStatus) {
		if s.State == agentapi.Succeeded && lies > 0 {
			lies--
			s.Outputs["other"] = &store.Info{Path: f.output(other), NARSize: 1}
		}
	}
	f.agents["m1"].set(func(a *fakeAgent) { a.lie = lie })
	h := f.hook(drv)
	if r := h.result(); r.State != api.Succeeded {
		t.Fatalf("got %+v", r)
	}
	info, err := f.agents[h.ships[0].Machine].store.Info(t.Context(), f.output(drv))
	if err != nil || len(h.ships) != 1 || len(h.ships[0].NARHashes) != 1 || h.ships[0].NARHashes[info.Path] != info.NARHash {
		t.Errorf("got shipments %+v, %v", h.ships, err)
	}
	f.over()
}
