package intake

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
	"lighter/store/storetest"
)

// bench is an Intake with what it works on.
type bench struct {
	t *testing.T
	*Intake
	hasher *derivation.Hasher
	taken  []api.Build // that were taken up
}

func newBench(t *testing.T) *bench {
	t.Helper()
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(filepath.Join(t.TempDir(), "ledger"), ledger.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b := &bench{t: t, hasher: derivation.NewHasher(store.DefaultDir, nil)}
	b.Intake = New(Options{
		Ledger: l, Head: headstore.New(storetest.NewMemory(store.DefaultDir, key, &signature.ACL{})), Timeout: time.Hour, Now: time.Now,
		AsError: func(err error) *api.Error {
			var answer *api.Error
			if !errors.As(err, &answer) {
				answer = &api.Error{Status: http.StatusInternalServerError, Code: api.CodeInternal, Message: err.Error()}
			}
			return answer
		},
		Add: func(builds []api.Build) { b.taken = append(b.taken, builds...) },
	})
	return b
}

// drv adds a derivation to the head's store, whose output is of some contents if it has a
// hash.
func (b *bench) drv(name, hash string, inputs ...store.Path) store.Path {
	b.t.Helper()
	d := &derivation.Derivation{
		System: "x86_64-linux", Builder: "builtin:test", Outputs: []derivation.Output{{Name: "out"}},
		Env: []derivation.EnvVar{{Name: "name", Value: name}, {Name: "out"}},
	}
	if hash != "" {
		d.Outputs[0].HashAlgorithm, d.Outputs[0].Hash = "sha256", hash
		name = "source"
	}
	for _, in := range inputs {
		d.Inputs = append(d.Inputs, derivation.Input{Path: in, Outputs: []string{"out"}})
	}
	if err := b.hasher.Fill(name, d); err != nil {
		b.t.Fatal(err)
	}
	path, err := b.Head.Backend.(store.Adder).AddText(b.t.Context(), name+".drv", d.Marshal(), d.References())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.hasher.Add(path, d); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *bench) take(requests ...api.Request) []api.Submitted {
	b.t.Helper()
	answers, err := b.Take(b.t.Context(), requests, &api.Submitter{User: "alice"})
	if err != nil {
		b.t.Fatal(err)
	}
	return answers
}

// end ends a build in the ledger.
func (b *bench) end(build *api.Build, state api.State) {
	b.t.Helper()
	ended, now := *build, time.Now()
	ended.State, ended.Stopped = state, &now
	if _, err := b.Ledger.Apply(b.t.Context(), []ledger.Change{{Build: &ended}}, true); err != nil {
		b.t.Fatal(err)
	}
}

func TestTake(t *testing.T) {
	b := newBench(t)
	one, two := b.drv("one", ""), b.drv("two", "")
	const id, other = "01234567-89ab-4def-8123-456789abcdef", "11234567-89ab-4def-8123-456789abcdef"
	first := b.take(api.Request{ID: id, Derivation: one}, api.Request{Derivation: two, Timeout: 5})
	if a := first[0].Build; a.ID != id || a.Timeout != 3600 || a.Submitter.User != "alice" || a.State != api.Queued || a.System != "x86_64-linux" {
		t.Errorf("got %+v", a)
	}
	if a := first[1].Build; a.ID == "" || a.Timeout != 5 || len(b.taken) != 2 {
		t.Errorf("got %+v; %d are taken up", a, len(b.taken))
	}
	again := b.take(
		api.Request{ID: id, Derivation: one}, // as a client does that had no answer
		api.Request{ID: other, Derivation: one}, api.Request{ID: other, Derivation: one},
		api.Request{Derivation: one, Priority: -api.MaxPriority - 1}, api.Request{Derivation: one, Outputs: []string{"doc"}},
	)
	if again[0].Build == nil || again[0].Build.ID != id || again[0].Error != "" || again[1].Build == nil || len(b.taken) != 3 {
		t.Errorf("got %+v; %d are taken up", again, len(b.taken))
	}
	for i, want := range map[int]string{2: "appears twice", 3: "priority", 4: "doc"} {
		if a := again[i]; a.Code != api.CodeBadRequest || !strings.Contains(a.Error, want) {
			t.Errorf("got %+v, want %q", a, want)
		}
	}
	if a := b.take(api.Request{ID: id, Derivation: two})[0]; a.Code != api.CodeConflict || !strings.Contains(a.Error, string(one)) {
		t.Errorf("another derivation with its id: %+v", a)
	}
}

func TestSkipIfSubmitted(t *testing.T) {
	b := newBench(t)
	good, bad := b.drv("good", ""), b.drv("bad", "")
	first := b.take(api.Request{Derivation: good}, api.Request{Derivation: bad})
	b.end(first[0].Build, api.Succeeded)
	b.end(first[1].Build, api.Failed)
	again := b.take(
		api.Request{Derivation: good, SkipIfSubmitted: true}, api.Request{Derivation: bad, SkipIfSubmitted: true}, api.Request{Derivation: bad, SkipIfSubmitted: true},
	)
	if a := again[0]; a.Skipped == "" || a.Build.ID != first[0].Build.ID {
		t.Errorf("a build that succeeded: %+v", a)
	}
	if a := again[1]; a.Skipped != "" || a.Build.ID == first[1].Build.ID {
		t.Errorf("a build that failed: %+v", a)
	}
	if a := again[2]; a.Skipped == "" || a.Build.ID != again[1].Build.ID {
		t.Errorf("a build of the same submission: %+v", a)
	}
	if len(b.taken) != 3 {
		t.Errorf("%d are taken up, want 3", len(b.taken))
	}
}

func TestSkipIfOutputsSubmitted(t *testing.T) {
	b := newBench(t)
	hash := strings.Repeat("cd", 32)
	one, two := b.drv("one", hash), b.drv("two", hash)
	first := b.take(api.Request{Derivation: one})[0].Build
	a := b.take(api.Request{Derivation: two, SkipIfSubmitted: true})[0]
	if one == two || a.Build == nil || a.Build.ID != first.ID || a.Skipped == "" {
		t.Errorf("got %+v", a)
	}
}

func TestFetchedDerivation(t *testing.T) {
	b := newBench(t)
	drv := b.drv("one", "")
	absent := store.Path(strings.Replace(string(drv), "one", "two", 1))
	if a := b.take(api.Request{Derivation: absent})[0]; a.Code != api.CodeNotValid {
		t.Errorf("without a way to fetch it: %+v", a)
	}
	var asked []string
	b.Fetch = func(_ context.Context, urls []string, paths []store.Path) error {
		asked = append(asked, urls...)
		return errors.New("no server has it")
	}
	answers := b.take(
		api.Request{Derivation: absent, DerivationSubstituteURLs: []string{"https://a", "https://b"}},
		api.Request{Derivation: drv, DerivationSubstituteURLs: []string{"https://c"}},
	)
	if !slices.Equal(asked, []string{"https://a", "https://b"}) {
		t.Errorf("asked %v", asked)
	}
	if !strings.Contains(answers[0].Error, "no server has it") || answers[1].Build == nil {
		t.Errorf("got %+v", answers)
	}
}
