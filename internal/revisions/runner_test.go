package revisions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/dataservice"
	"lighter/internal/human"
	"lighter/internal/submission/submissiontest"
)

func testCommit(i int) string { return fmt.Sprintf("%040x", i) }

// sourceStub is a data service: revisions by branch, the newest first, and derivations by
// commit and platform.
type sourceStub struct {
	revisions   map[string][]dataservice.Revision
	derivations map[string]map[Platform][]int
	fail        func(commit string, page int) error
	page        int // derivations on one
	asked       []string
}

func (s *sourceStub) Revisions(_ context.Context, _ int, branch string, limit int) ([]dataservice.Revision, error) {
	if s.fail != nil {
		if err := s.fail(branch, -1); err != nil {
			return nil, err
		}
	}
	list := s.revisions[branch]
	return list[:min(limit, len(list))], nil
}

func (s *sourceStub) Derivations(_ context.Context, commit, system, target string) iter.Seq2[[]dataservice.Derivation, error] {
	return func(yield func([]dataservice.Derivation, error) bool) {
		s.asked = append(s.asked, strings.TrimLeft(commit, "0")+" "+Platform{system, target}.String())
		n := 0
		for part := range slices.Chunk(s.derivations[commit][Platform{system, target}], max(1, s.page)) {
			if s.fail != nil {
				if err := s.fail(commit, n); err != nil {
					yield(nil, err)
					return
				}
			}
			var page []dataservice.Derivation
			for _, i := range part {
				page = append(page, dataservice.Derivation{Path: submissiontest.Derivation(i), System: system, Target: target})
			}
			if n++; !yield(page, nil) {
				return
			}
		}
	}
}

var x86, arm = Platform{System: "x86_64-linux"}, Platform{System: "aarch64-linux"}

// twoRevisions has commit 3, which is not available, 2 and 1 on master. Derivations 1 and 2
// are in both revisions.
func twoRevisions() *sourceStub {
	return &sourceStub{
		page: 2,
		revisions: map[string][]dataservice.Revision{"master": {
			{Commit: testCommit(3)},
			{Commit: testCommit(2), Available: true},
			{Commit: testCommit(1), Available: true},
		}},
		derivations: map[string]map[Platform][]int{
			testCommit(1): {x86: {0, 1, 2, 2}},
			testCommit(2): {x86: {1, 2, 3}},
		},
	}
}

type queueLab struct {
	*Runner
	source *sourceStub
	stub   *submissiontest.Coordinator
	file   string
	output bytes.Buffer
}

func newQueueLab(t *testing.T, source *sourceStub) *queueLab {
	t.Helper()
	lab := &queueLab{source: source, stub: &submissiontest.Coordinator{}, file: filepath.Join(t.TempDir(), "commits")}
	lab.Runner = &Runner{
		Service: source, Coordinator: lab.stub, Log: slog.New(slog.NewTextHandler(&lab.output, nil)),
		Repository: 1, Branches: []string{"master"}, Platforms: []Platform{x86}, Newest: 100,
		Base: api.Request{Priority: 4, Tags: map[string]string{"set": "a"}},
	}
	lab.open(t)
	return lab
}

// open is what a new process does.
func (l *queueLab) open(t *testing.T) {
	t.Helper()
	if l.Commits != nil {
		l.Commits.Close()
	}
	var err error
	if l.Commits, err = OpenCommits(l.file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Commits.Close() })
}

func (l *queueLab) done(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(l.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		all = append(all, strings.TrimLeft(strings.TrimSpace(line), "0"))
	}
	return strings.Join(all, " ")
}

func TestRevisionsAreDoneOnce(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	if err := lab.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lab.stub.States(), map[string]int{"1 queued": 3, "2 queued": 1}); diff != "" {
		t.Errorf("builds (-got +want):\n%s", diff)
	}
	for _, b := range lab.stub.Builds {
		if b.Derivation == submissiontest.Derivation(3) {
			want := map[string]string{"branch": "master", "commit": testCommit(2), "system": "x86_64-linux", "set": "a"}
			if diff := cmp.Diff(b.Tags, want); diff != "" || b.Priority != 4 || !b.SkipIfSubmitted {
				t.Errorf("%+v, tags (-got +want):\n%s", b.Request, diff)
			}
		}
	}
	if got := lab.done(t); got != "1 2" {
		t.Errorf("done: %q", got)
	}
	lab.open(t)
	lab.source.asked = nil
	if err := lab.Round(t.Context()); err != nil || len(lab.source.asked) > 0 || lab.done(t) != "1 2" {
		t.Errorf("%v; asked for %q; done: %q", err, lab.source.asked, lab.done(t))
	}
	lab.source.revisions["master"][0].Available = true
	lab.source.derivations[testCommit(3)] = map[Platform][]int{x86: {3, 4}}
	if err := lab.Round(t.Context()); err != nil || lab.done(t) != "1 2 3" || lab.stub.States()["3 queued"] != 1 {
		t.Errorf("%v; done: %q; %v", err, lab.done(t), lab.stub.States())
	}
}

func TestRevisionGoesOnWhereItStopped(t *testing.T) {
	broken := &dataservice.Error{URL: "http://x", Status: 502, Err: errors.New("bad gateway")}
	lab := newQueueLab(t, twoRevisions())
	lab.source.fail = func(commit string, page int) error {
		if commit == testCommit(1) && page == 1 {
			return broken
		}
		return nil
	}
	err := lab.Round(t.Context())
	if !errors.Is(err, broken.Err) || !strings.Contains(err.Error(), "branch master, revision "+testCommit(1)+": x86_64-linux: http://x: status 502") {
		t.Errorf("error %v", err)
	}
	if got := lab.done(t); got != "" || len(lab.source.asked) != 1 {
		t.Errorf("done: %q, asked for %q: the service is away, so that the others are not tried", got, lab.source.asked)
	}
	if got := len(lab.stub.Builds); got != 2 {
		t.Errorf("%d builds of the first page", got)
	}
	lab.source.fail = nil
	lab.open(t)
	if err := lab.Round(t.Context()); err != nil || lab.done(t) != "1 2" {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
	if diff := cmp.Diff(lab.stub.States(), map[string]int{"1 queued": 3, "2 queued": 1}); diff != "" {
		t.Errorf("builds (-got +want):\n%s", diff)
	}
	if !strings.Contains(lab.output.String(), "1 submitted, 2 were there already") {
		t.Errorf("log:\n%s", lab.output.String())
	}
}

func TestRevisionWithRefusals(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	lab.stub.Refuse = submissiontest.Derivation(0)
	for round := range maxVain + 2 {
		err := lab.Round(t.Context())
		if failed := round < maxVain; failed != (err != nil) {
			t.Errorf("round %d: %v", round, err)
		} else if failed && !strings.Contains(err.Error(), "1 of 3 derivations were refused, the first: "+string(submissiontest.Derivation(0))+": not valid") {
			t.Errorf("round %d: %v", round, err)
		}
		if got := lab.done(t); got != "2" {
			t.Errorf("done: %q, want the revision that is good", got)
		}
	}
	if !strings.Contains(lab.output.String(), "given up until the next start") {
		t.Errorf("log:\n%s", lab.output.String())
	}
	lab.stub.Refuse = ""
	clear(lab.vain)
	if err := lab.Round(t.Context()); err != nil || lab.done(t) != "2 1" {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
}

func TestEmptyRevision(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	lab.Platforms = []Platform{arm}
	if err := lab.Round(t.Context()); !errors.Is(err, errNoDerivations) || lab.done(t) != "" {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
	// One platform without derivations is no reason not to do the others.
	lab.Platforms = []Platform{arm, x86}
	if err := lab.Round(t.Context()); err != nil || lab.done(t) != "1 2" || !strings.Contains(lab.output.String(), "no package derivations") {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
}

func TestLatestOnly(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	lab.LatestOnly = true
	for range 2 {
		if err := lab.Round(t.Context()); err != nil || lab.done(t) != "2" {
			t.Errorf("%v; done: %q", err, lab.done(t))
		}
	}
	if diff := cmp.Diff(lab.source.asked, []string{"2 x86_64-linux"}); diff != "" {
		t.Errorf("asked (-got +want):\n%s", diff)
	}
}

// TestSupersede checks that what an older revision alone wanted is canceled, and
// nothing that the newer one or another submission wants.
func TestSupersede(t *testing.T) {
	cross := Platform{"x86_64-linux", "aarch64-linux-gnu"}
	lab := newQueueLab(t, twoRevisions())
	lab.Supersede = true
	lab.Platforms = []Platform{x86, cross}
	lab.source.derivations[testCommit(1)][cross] = []int{9}
	lab.source.derivations[testCommit(2)][cross] = []int{9, 10}
	available := lab.source.revisions["master"]
	lab.source.revisions["master"] = available[2:]
	if err := lab.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, tags := range map[string]map[string]string{
		"other branch": {"branch": "staging", "commit": testCommit(1), "system": "x86_64-linux", "set": "a"},
		"other set":    {"branch": "master", "commit": testCommit(1), "system": "x86_64-linux", "set": "b"},
		"other system": {"branch": "master", "commit": testCommit(1), "system": "i686-linux", "set": "a"},
		"other target": {"branch": "master", "commit": testCommit(1), "system": "x86_64-linux", "target": "arm-linux-gnueabihf", "set": "a"},
		"a person's":   nil,
	} {
		lab.stub.Builds[id] = &api.Build{Request: api.Request{ID: id, Derivation: submissiontest.Derivation(0), Tags: tags}, State: api.Building}
	}
	for _, b := range lab.stub.Builds {
		if b.Derivation == submissiontest.Derivation(1) && b.State == api.Queued {
			b.State = api.Succeeded
		}
	}
	lab.source.revisions["master"] = available
	if err := lab.Round(t.Context()); err != nil || lab.done(t) != "1 2" {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
	want := map[string]int{
		"1 succeeded": 1, "1 canceled": 3, // derivations 0 and 2, and 9 for the target
		"2 queued":   5,
		"1 building": 4, " building": 1,
	}
	if diff := cmp.Diff(lab.stub.States(), want); diff != "" {
		t.Errorf("builds (-got +want):\n%s", diff)
	}
	if reason := lab.stub.Canceled[0].Reason; reason != "superseded by revision "+testCommit(1) {
		t.Errorf("reason %q", reason)
	}
}

func TestSystemsOfTheCoordinator(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	lab.Platforms = nil
	if err := lab.Round(t.Context()); err == nil || !strings.Contains(err.Error(), "no machines") {
		t.Errorf("without machines: %v", err)
	}
	lab.stub.MachineList = []api.MachineStatus{{Systems: []string{"x86_64-linux", "i686-linux"}}, {Systems: []string{"x86_64-linux"}}}
	if err := lab.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lab.source.asked, []string{"1 x86_64-linux", "1 i686-linux", "2 x86_64-linux", "2 i686-linux"}); diff != "" {
		t.Errorf("asked (-got +want):\n%s", diff)
	}
}

func TestRunnerWaitsForTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newQueueLab(t, twoRevisions())
		lab.Platforms, lab.Patience = nil, 10*time.Minute
		lab.stub.MachineList = []api.MachineStatus{{Systems: []string{"x86_64-linux"}}}
		start := time.Now()
		back := 3 * time.Minute
		lab.stub.Fail = func(int) error {
			if time.Since(start) < back {
				return fmt.Errorf("%w at /socket", api.ErrUnavailable)
			}
			return nil
		}
		if err := lab.Round(t.Context()); err != nil || lab.done(t) != "1 2" {
			t.Errorf("%v; done: %q", err, lab.done(t))
		}
		back, lab.Platforms = 24*time.Hour, []Platform{x86}
		lab.source.revisions["master"][0].Available = true
		lab.source.derivations[testCommit(3)] = map[Platform][]int{x86: {5}}
		err := lab.Round(t.Context())
		if !errors.Is(err, api.ErrUnavailable) || !isAway(err) || time.Since(start) > time.Hour {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestRun has everything fail at first, and ends by an interruption.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newQueueLab(t, twoRevisions())
		failures := 3
		lab.source.fail = func(string, int) error {
			if failures--; failures >= 0 {
				return &dataservice.Error{URL: "http://x", Status: 500, Err: errors.New("broken")}
			}
			return nil
		}
		start := time.Now()
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 65*time.Minute, interrupted)
		defer cancel()
		err := lab.Run(ctx, 10*time.Minute)
		if !errors.Is(err, interrupted) || time.Since(start) != 65*time.Minute || lab.done(t) != "1 2" {
			t.Errorf("%v after %v; done: %q", err, time.Since(start), lab.done(t))
		}
		if n := strings.Count(lab.output.String(), "not everything was done"); n != 3 {
			t.Errorf("%d rounds failed:\n%s", n, lab.output.String())
		}
	})
}

func TestProcessedCommits(t *testing.T) {
	file := filepath.Join(t.TempDir(), "below", "commits")
	p, err := OpenCommits(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCommits(file); err == nil || !strings.Contains(err.Error(), "another lighter queue works with "+file) {
		t.Errorf("a second one: %v", err)
	}
	p.Close()
	old := "# of 2022\n\n" + testCommit(1) + "\n"
	if err := os.WriteFile(file, []byte(old+testCommit(2)), 0o644); err != nil { // without a last newline
		t.Fatal(err)
	}
	if p, err = OpenCommits(file); err != nil {
		t.Fatal(err)
	}
	if !p.has(testCommit(1)) || !p.has(testCommit(2)) || p.has(testCommit(3)) {
		t.Errorf("known: %v", slices.Collect(maps.Keys(p.known)))
	}
	if err := errors.Join(p.add(testCommit(3)), p.add(testCommit(1))); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if want := old + testCommit(2) + "\n" + testCommit(3) + "\n"; string(text) != want || err != nil {
		t.Errorf("%q, %v, want %q", text, err, want)
	}
	p.Close()
	list, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*"))
	hidden, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*"))
	if len(list) != 2 || len(hidden) > 0 {
		t.Errorf("left behind: %v %v", list, hidden)
	}
	if err := os.WriteFile(file, []byte(testCommit(1)+"\nmaster\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = OpenCommits(file)
	if !errors.As(err, new(*human.InputError)) || !strings.Contains(err.Error(), file+`:2: "master" is not a commit`) {
		t.Error(err)
	}
}
