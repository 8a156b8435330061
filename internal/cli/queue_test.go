package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"lighter/internal/api"
	"lighter/internal/dataservice"
	"lighter/internal/submission/submissiontest"
	"lighter/internal/testkit"
	"lighter/store"
)

func testCommit(i int) string { return fmt.Sprintf("%040x", i) }

// sourceStub is a data service: revisions by branch, the newest first, and derivations by
// commit and platform.
type sourceStub struct {
	revisions   map[string][]dataservice.Revision
	derivations map[string]map[platform][]int
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
		s.asked = append(s.asked, strings.TrimLeft(commit, "0")+" "+platform{system, target}.String())
		n := 0
		for part := range slices.Chunk(s.derivations[commit][platform{system, target}], max(1, s.page)) {
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

var x86, arm = platform{system: "x86_64-linux"}, platform{system: "aarch64-linux"}

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
		derivations: map[string]map[platform][]int{
			testCommit(1): {x86: {0, 1, 2, 2}},
			testCommit(2): {x86: {1, 2, 3}},
		},
	}
}

type queueLab struct {
	*queuer
	source *sourceStub
	stub   *submissiontest.Coordinator
	file   string
	output bytes.Buffer
}

func newQueueLab(t *testing.T, source *sourceStub) *queueLab {
	t.Helper()
	lab := &queueLab{source: source, stub: &submissiontest.Coordinator{}, file: filepath.Join(t.TempDir(), "commits")}
	lab.queuer = &queuer{
		service: source, coordinator: lab.stub, log: slog.New(slog.NewTextHandler(&lab.output, nil)),
		repository: 1, branches: []string{"master"}, platforms: []platform{x86}, revisions: 100,
		base: api.Request{SkipIfSubmitted: true, Priority: 4, Tags: map[string]string{"set": "a"}}, vain: make(map[string]int),
	}
	lab.open(t)
	return lab
}

// open is what a new process does.
func (l *queueLab) open(t *testing.T) {
	t.Helper()
	if l.commits != nil {
		l.commits.close()
	}
	var err error
	if l.commits, err = openCommits(l.file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.commits.close() })
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

func TestQueueDoesRevisionsOnce(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	if err := lab.round(t.Context()); err != nil {
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
	if err := lab.round(t.Context()); err != nil || len(lab.source.asked) > 0 || lab.done(t) != "1 2" {
		t.Errorf("%v; asked for %q; done: %q", err, lab.source.asked, lab.done(t))
	}
	lab.source.revisions["master"][0].Available = true
	lab.source.derivations[testCommit(3)] = map[platform][]int{x86: {3, 4}}
	if err := lab.round(t.Context()); err != nil || lab.done(t) != "1 2 3" || lab.stub.States()["3 queued"] != 1 {
		t.Errorf("%v; done: %q; %v", err, lab.done(t), lab.stub.States())
	}
}

func TestQueueGoesOnWhereItStopped(t *testing.T) {
	broken := &dataservice.Error{URL: "http://x", Status: 502, Err: errors.New("bad gateway")}
	lab := newQueueLab(t, twoRevisions())
	lab.source.fail = func(commit string, page int) error {
		if commit == testCommit(1) && page == 1 {
			return broken
		}
		return nil
	}
	err := lab.round(t.Context())
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
	if err := lab.round(t.Context()); err != nil || lab.done(t) != "1 2" {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
	if diff := cmp.Diff(lab.stub.States(), map[string]int{"1 queued": 3, "2 queued": 1}); diff != "" {
		t.Errorf("builds (-got +want):\n%s", diff)
	}
	if !strings.Contains(lab.output.String(), "1 submitted, 2 were there already") {
		t.Errorf("log:\n%s", lab.output.String())
	}
}

func TestQueueRefusals(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	lab.stub.Refuse = submissiontest.Derivation(0)
	for round := range maxVain + 2 {
		err := lab.round(t.Context())
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
	if err := lab.round(t.Context()); err != nil || lab.done(t) != "2 1" {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
}

func TestQueueEmptyRevision(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	lab.platforms = []platform{arm}
	if err := lab.round(t.Context()); !errors.Is(err, errNoDerivations) || lab.done(t) != "" {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
	// One platform without derivations is no reason not to do the others.
	lab.platforms = []platform{arm, x86}
	if err := lab.round(t.Context()); err != nil || lab.done(t) != "1 2" || !strings.Contains(lab.output.String(), "no package derivations") {
		t.Errorf("%v; done: %q", err, lab.done(t))
	}
}

func TestQueueLatestOnly(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	lab.latestOnly = true
	for range 2 {
		if err := lab.round(t.Context()); err != nil || lab.done(t) != "2" {
			t.Errorf("%v; done: %q", err, lab.done(t))
		}
	}
	if diff := cmp.Diff(lab.source.asked, []string{"2 x86_64-linux"}); diff != "" {
		t.Errorf("asked (-got +want):\n%s", diff)
	}
}

// TestQueueSupersedes checks that what an older revision alone wanted is canceled, and
// nothing that the newer one wants, or somebody else.
func TestQueueSupersedes(t *testing.T) {
	cross := platform{"x86_64-linux", "aarch64-linux-gnu"}
	lab := newQueueLab(t, twoRevisions())
	lab.latestOnly, lab.supersede = true, true
	lab.base.SkipIfSubmitted, lab.base.SkipIfBuilt = false, true
	lab.platforms = []platform{x86, cross}
	lab.source.derivations[testCommit(1)][cross] = []int{9}
	lab.source.derivations[testCommit(2)][cross] = []int{9, 10}
	available := lab.source.revisions["master"]
	lab.source.revisions["master"] = available[2:]
	if err := lab.round(t.Context()); err != nil {
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
	if err := lab.round(t.Context()); err != nil || lab.done(t) != "1 2" {
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

func TestQueueForTheCoordinatorsSystems(t *testing.T) {
	lab := newQueueLab(t, twoRevisions())
	lab.platforms = nil
	if err := lab.round(t.Context()); err == nil || !strings.Contains(err.Error(), "no machines") {
		t.Errorf("without machines: %v", err)
	}
	lab.stub.MachineList = []api.MachineStatus{{Systems: []string{"x86_64-linux", "i686-linux"}}, {Systems: []string{"x86_64-linux"}}}
	if err := lab.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lab.source.asked, []string{"1 x86_64-linux", "1 i686-linux", "2 x86_64-linux", "2 i686-linux"}); diff != "" {
		t.Errorf("asked (-got +want):\n%s", diff)
	}
}

func TestQueueWaitsForTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := newQueueLab(t, twoRevisions())
		lab.platforms, lab.patience = nil, coordinatorPatience
		lab.stub.MachineList = []api.MachineStatus{{Systems: []string{"x86_64-linux"}}}
		start := time.Now()
		back := 3 * time.Minute
		lab.stub.Fail = func(int) error {
			if time.Since(start) < back {
				return fmt.Errorf("%w at /socket", api.ErrUnavailable)
			}
			return nil
		}
		if err := lab.round(t.Context()); err != nil || lab.done(t) != "1 2" {
			t.Errorf("%v; done: %q", err, lab.done(t))
		}
		back, lab.platforms = 24*time.Hour, []platform{x86}
		lab.source.revisions["master"][0].Available = true
		lab.source.derivations[testCommit(3)] = map[platform][]int{x86: {5}}
		err := lab.round(t.Context())
		if !errors.Is(err, api.ErrUnavailable) || !isAwayFromQueue(err) || time.Since(start) > time.Hour {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestQueueLoop has everything fail at first, and ends by an interruption.
func TestQueueLoop(t *testing.T) {
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
		signals := make(chan os.Signal, 1)
		ctx, stop := cancelOnSignal(t.Context(), signals)
		defer stop()
		time.AfterFunc(65*time.Minute, func() { signals <- os.Interrupt })
		err := (&queueAction{interval: 10 * time.Minute}).rounds(ctx, lab.queuer)
		if err != nil || time.Since(start) != 65*time.Minute || lab.done(t) != "1 2" {
			t.Errorf("%v after %v; done: %q", err, time.Since(start), lab.done(t))
		}
		if n := strings.Count(lab.output.String(), "not all was done"); n != 3 {
			t.Errorf("%d rounds failed:\n%s", n, lab.output.String())
		}
	})
}

func TestProcessedCommits(t *testing.T) {
	file := filepath.Join(t.TempDir(), "below", "commits")
	p, err := openCommits(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openCommits(file); err == nil || !strings.Contains(err.Error(), "another lighter queue works with "+file) {
		t.Errorf("a second one: %v", err)
	}
	p.close()
	old := "# of 2022\n\n" + testCommit(1) + "\n"
	if err := os.WriteFile(file, []byte(old+testCommit(2)), 0o644); err != nil { // without a last newline
		t.Fatal(err)
	}
	if p, err = openCommits(file); err != nil {
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
	p.close()
	list, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*"))
	hidden, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*"))
	if len(list) != 2 || len(hidden) > 0 {
		t.Errorf("left behind: %v %v", list, hidden)
	}
	if err := os.WriteFile(file, []byte(testCommit(1)+"\nmaster\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = openCommits(file)
	if code, _ := exitCode(err); err == nil || code != exitBadInput || !strings.Contains(err.Error(), file+`:2: "master" is no commit`) {
		t.Errorf("%v, exit code %d", err, code)
	}
}

// queueServers has a data service that serves testdata of its client, and a coordinator's
// socket. It returns the arguments that name them.
func queueServers(t *testing.T, stub *submissiontest.Coordinator) []string {
	t.Helper()
	testkit.CheckLeaks(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "branch.json"
		switch {
		case strings.HasPrefix(r.URL.Path, "/repository/1/branch/master"):
		case r.URL.Query().Get("after_name") == "" && r.URL.Query().Get("system") == "x86_64-linux":
			name = "package-derivations.json"
		default:
			name = ""
		}
		w.Header().Set("Content-Type", "application/json")
		if name == "" {
			fmt.Fprint(w, `{"derivations":[]}`)
			return
		}
		http.ServeFile(w, r, filepath.Join("..", "dataservice", "testdata", name))
	}))
	t.Cleanup(service.Close)
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/machines", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode([]api.MachineStatus{{Name: "m", Systems: []string{"x86_64-linux"}}})
	})
	mux.HandleFunc("POST /v1/builds", func(w http.ResponseWriter, r *http.Request) {
		var body api.Submission
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		answers, _ := stub.SubmitAll(r.Context(), body.Builds)
		_ = json.NewEncoder(w).Encode(api.Submissions{Builds: answers})
	})
	coordinator := &http.Server{Handler: mux}
	served := make(chan error, 1)
	go func() { served <- coordinator.Serve(listener) }()
	t.Cleanup(func() { coordinator.Close(); <-served })
	return []string{"queue", "--once", "--guix-data-service", service.URL, "--socket", socket, "--state", dir}
}

func runQueue(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	home := t.TempDir()
	p := Process{In: strings.NewReader(""), Out: &o, Err: &e, Getenv: func(name string) string {
		if name == "HOME" {
			return home
		}
		return ""
	}}
	code = Run(t.Context(), args, p)
	return code, o.String(), e.String()
}

func TestQueueCommand(t *testing.T) {
	stub := &submissiontest.Coordinator{}
	args := queueServers(t, stub)
	code, out, errs := runQueue(t, append(args, "--dry-run", "--revisions", "2")...)
	want := "/gnu/store/0cr3xlhxgm9g2cbyhmkgzc4gmcljh5mr-hello-2.12.drv\n/gnu/store/3sywvk8bdphbdpyxnyx9ry8axq0v5nzp-sed-4.8.drv\n"
	if code != exitDone || out != want || len(stub.Builds) > 0 {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	code, out, errs = runQueue(t, append(args, "--derivation-substitute-urls", "https://example.org", "--tag", "a=b")...)
	if code != exitDone || out != "" || !strings.Contains(errs, "2 submitted") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	state := args[len(args)-1]
	text, err := os.ReadFile(filepath.Join(state, "processed-commits"))
	if wantText := strings.Repeat("1", 40) + "\n" + strings.Repeat("2", 40) + "\n"; string(text) != wantText || err != nil {
		t.Errorf("processed: %q, %v", text, err)
	}
	var got []store.Path
	for _, b := range stub.Builds {
		got = append(got, b.Derivation)
		if diff := cmp.Diff(b.DerivationSubstituteURLs, []string{"https://example.org"}); diff != "" || b.Tags["a"] != "b" || b.Tags["commit"] != strings.Repeat("1", 40) {
			t.Errorf("%+v", b.Request)
		}
	}
	slices.Sort(got)
	if len(got) != 2 {
		t.Fatalf("builds of %v", got)
	}
	if text := fmt.Sprintln(got[0]) + fmt.Sprintln(got[1]); text != want {
		t.Errorf("builds of %v", got)
	}
	code, _, errs = runQueue(t, append(args, "--system", "x86_64-linux", "--branch", "master", "--socket", filepath.Join(state, "none"))...)
	if code != exitNoAnswer || !strings.Contains(errs, "no coordinator answers at") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}

func TestQueueUsage(t *testing.T) {
	for args, want := range map[string]string{
		"now":                                    `takes no arguments, got "now"`,
		"--guix-data-service data.guix.gnu.org":  "want a URL such as https://data.guix.gnu.org",
		"--repository 0":                         "the service counts from 1",
		"--revisions 0":                          "want 1 or more",
		"--interval 0":                           "want a time such as 10m",
		"--system x86'":                          "want one such as x86_64-linux",
		"--systems-and-targets x86_64-linux":     "want SYSTEM=TARGET, such as",
		"--tag commit=1":                         "builds get this one anyway",
		"--branch=":                              "the name is empty",
		"--log-level loud":                       "none of debug",
		"--system=--once":                        "want one such as",
		"--systems-and-targets =aarch64-linux-x": "want SYSTEM=TARGET",
	} {
		code, _, errs := runQueue(t, append([]string{"queue", "--state", t.TempDir()}, strings.Fields(args)...)...)
		if code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, errs, want)
		}
	}
}

// startDataService serves one revision of master, whose derivations are the lines of a
// file, whatever that has then.
func startDataService(ts *testscript.TestScript, _ bool, args []string) {
	file, system := ts.MkAbs(args[0]), ts.Getenv("SYSTEM")
	answer := func(r *http.Request) (string, error) {
		q := r.URL.Query()
		if strings.HasPrefix(r.URL.Path, "/repository/1/branch/master") {
			return `{"revisions":[{"date":"2022-01-30 09:15:00","commit-hash":"` + strings.Repeat("1", 40) + `","data_available":true}]}`, nil
		}
		if q.Get("system") != system || q.Get("after_name") != "" {
			return `{"derivations":[]}`, nil
		}
		text, err := os.ReadFile(file)
		var list []string
		for _, drv := range strings.Fields(string(text)) {
			list = append(list, fmt.Sprintf(`{"derivation":%q,"system":%q,"target":""}`, drv, system))
		}
		return `{"derivations":[` + strings.Join(list, ",") + `]}`, err
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := answer(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text)
	}))
	ts.Defer(server.Close)
	ts.Setenv("DATA_SERVICE", server.URL)
}
