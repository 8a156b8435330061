package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/cli/command"
	"lighter/internal/cli/watch"
)

// taker answers submissions with builds, all of which are at once as finish says, and
// keeps their requests.
type taker struct {
	requests []api.Request
	portions []int
	finish   func(r *api.Request) api.Submitted
	machines []api.MachineStatus
}

func (k *taker) serve(s *stub) {
	s.answer("GET /v1/status", api.Status{LastEvent: 7, Machines: k.machines})
	s.mux.HandleFunc("POST /v1/builds", func(w http.ResponseWriter, r *http.Request) {
		var body api.Submission
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			s.t.Error(err)
		}
		k.portions = append(k.portions, len(body.Builds))
		var answer api.Submissions
		for i := range body.Builds {
			k.requests = append(k.requests, body.Builds[i])
			answer.Builds = append(answer.Builds, k.finish(&body.Builds[i]))
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	s.mux.HandleFunc("GET /v1/events", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s.mux.HandleFunc("GET /v1/builds/{id}", func(w http.ResponseWriter, r *http.Request) {
		for i := range k.requests {
			if k.requests[i].ID == r.PathValue("id") {
				_ = json.NewEncoder(w).Encode(k.finish(&k.requests[i]).Build)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	})
}

// taken answers with a build in that state.
func taken(state api.State) func(r *api.Request) api.Submitted {
	return func(r *api.Request) api.Submitted {
		return api.Submitted{Build: &api.Build{Request: *r, State: state, Submitted: time.Now()}}
	}
}

func TestBuildRequests(t *testing.T) {
	s := newStub(t)
	k := &taker{finish: taken(api.Queued)}
	k.serve(s)
	const id = "11111111-2222-4333-8444-555555555555"
	args := strings.Fields("build -d --priority 3 --tag a=b --timeout 2h --max-silent-time 90s --retries 2 --check 2 --on alpha --on beta,gamma --skip delta " +
		"--all-inputs --skip-if-built --skip-if-submitted --keep-failed --derivation-substitute-urls https://a,https://b --id " + id)
	s.run("", append(args, string(drv("hello")))...).want(t, command.ExitDone, id+"\n", "")
	want := api.Request{
		ID: id, Derivation: drv("hello"), Priority: 3, Tags: map[string]string{"a": "b"}, Timeout: 7200, MaxSilentTime: 90,
		Retries: 2, Check: 2, On: []string{"alpha", "beta", "gamma"}, Skip: []string{"delta"}, AllInputs: true, SkipIfBuilt: true,
		SkipIfSubmitted: true, KeepFailed: true, DerivationSubstituteURLs: []string{"https://a", "https://b"},
	}
	if diff := cmp.Diff([]api.Request{want}, k.requests); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	k.requests = nil
	s.run("", "build", "-d", "--id", id, "--retries", "0", "--timeout", "1d12h", string(drv("hello"))).want(t, command.ExitDone, "", "")
	if diff := cmp.Diff([]api.Request{{ID: id, Derivation: drv("hello"), Retries: -1, Timeout: 36 * 3600}}, k.requests); diff != "" {
		t.Errorf("no retries (-want +got):\n%s", diff)
	}

	// JSON lines go before the flags, and their tags are added.
	k.requests = nil
	lines := fmt.Sprintf("%s\n\n{\"derivation\":%q,\"priority\":9,\"tags\":{\"c\":\"d\"},\"on\":[\"alpha\"]}\n%s\n", drv("one"), drv("two"), drv("one"))
	s.run(lines, "build", "-d", "-p", "1", "--tag", "a=b", "-").want(t, command.ExitDone, "", "")
	for i := range k.requests {
		k.requests[i].ID = ""
	}
	wantAll := []api.Request{
		{Derivation: drv("one"), Priority: 1, Tags: map[string]string{"a": "b"}},
		{Derivation: drv("two"), Priority: 9, Tags: map[string]string{"a": "b", "c": "d"}, On: []string{"alpha"}},
	}
	if diff := cmp.Diff(wantAll, k.requests); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// A named submission gives the same ids again.
	k.requests = nil
	first := s.run("", "build", "-d", "--submission", "nightly", string(drv("one")))
	second := s.run("", "build", "-d", "--submission", "nightly", string(drv("one")))
	if first.out == "" || first != second {
		t.Errorf("%+v, and then %+v", first, second)
	}
	if got := k.requests[0].Tags; len(got) != 1 || got[api.SubmissionTag] != "nightly" {
		t.Errorf("its tags are %v", got)
	}
}

func TestBuildRefusesWrongRequests(t *testing.T) {
	s := newStub(t)
	k := &taker{finish: taken(api.Queued)}
	k.serve(s)
	hello := string(drv("hello"))
	for name, c := range map[string]struct {
		args, input string
		code        int
		want        string
	}{
		"bad id":             {"--id 7 " + hello, "", command.ExitUsage, "want a UUID"},
		"id of two":          {"--id 11111111-2222-4333-8444-555555555555 " + hello + " " + string(drv("x")), "", command.ExitUsage, "--id is for one derivation"},
		"id of many lines":   {"--id 11111111-2222-4333-8444-555555555555 -", hello + "\n" + string(drv("x")), command.ExitBadInput, "asked for before"},
		"on and skip":        {"--on a --skip a " + hello, "", command.ExitUsage, "machine a is both"},
		"negative retries":   {"--retries=-2 " + hello, "", command.ExitUsage, "can't be negative"},
		"bad timeout":        {"--timeout 5 " + hello, "", command.ExitUsage, "want one such as 90s"},
		"supersede nothing":  {"--supersede branch " + hello, "", command.ExitUsage, "has no such tag"},
		"supersede itself":   {"--supersede branch --tag branch=x " + hello, "", command.ExitUsage, "nothing tells this submission"},
		"tag of a line":      {"--supersede branch --tag branch=x --tag commit=1 -", `{"derivation":"` + hello + `","tags":{"commit":"2"}}`, command.ExitBadInput, "tag commit"},
		"plain line":         {"--json-input", hello, command.ExitBadInput, "line 1: "},
		"unknown field":      {"-", "\n" + `{"derivation":"` + hello + `","prio":1}`, command.ExitBadInput, `line 2: unknown field "prio"`},
		"no derivation":      {"-", `{"priority":1}`, command.ExitBadInput, `"derivation" is missing`},
		"negative in a line": {"-", `{"derivation":"` + hello + `","timeout":-1}`, command.ExitBadInput, "can't be negative"},
		"nothing at all":     {"-", "\n", command.ExitUsage, "names no derivation"},
		"no file":            {"missing.drv", "", command.ExitFailure, "missing.drv"},
	} {
		t.Run(name, func(t *testing.T) {
			k.requests = nil
			s.run(c.input, append([]string{"build", "-d"}, strings.Fields(c.args)...)...).want(t, c.code, "", c.want)
			if len(k.requests) > 1 {
				t.Errorf("submitted %v", k.requests)
			}
		})
	}
}

func TestUnknownMachinesAreNamed(t *testing.T) {
	s := newStub(t)
	k := &taker{finish: taken(api.Queued), machines: []api.MachineStatus{{Name: "alpha"}, {Name: "beta"}}}
	k.serve(s)
	s.run("", "build", "-d", "--on", "alpha", "--on", "gamma", "--skip", "beta", string(drv("hello"))).
		want(t, command.ExitDone, "", "warning: no machine is called \"gamma\"; there are alpha, beta\n")
	if got := s.run("", "build", "-d", "--on", "alpha", "--skip", "beta", string(drv("hello"))); got.err != "" {
		t.Errorf("machines that are there: %q", got.err)
	}
	if len(k.requests) != 2 {
		t.Errorf("submitted %v", k.requests)
	}
}

func TestSkippedRequestsAreNoFailure(t *testing.T) {
	s := newStub(t)
	there := oneBuild("aaaa1111-22", "one", api.Queued)
	k := &taker{finish: func(r *api.Request) api.Submitted {
		switch r.Derivation {
		case drv("one"):
			return api.Submitted{Skipped: "there is a build " + evil, Build: &there}
		case drv("two"):
			return api.Submitted{Skipped: "its outputs are there"}
		}
		return taken(api.Succeeded)(r)
	}}
	k.serve(s)
	got := s.run("", "build", "--skip-if-built", string(drv("one")), string(drv("two")), string(drv("three")))
	got.want(t, command.ExitDone, "", `skipped   one: there is a build evil\x1b[2J\r\x07 (build aaaa1111)`)
	got.want(t, command.ExitDone, "", "skipped   two: its outputs are there\n")
	got.want(t, command.ExitDone, "", "1 of 1 build done")
	s.run("", "build", "--skip-if-built", string(drv("two"))).want(t, command.ExitDone, "", "skipped   two")
}

func TestManyDerivations(t *testing.T) {
	t.Parallel()
	const n = 2*api.MaxSubmit + 345
	s := newStub(t)
	k := &taker{finish: taken(api.Queued)}
	k.serve(s)
	var lines strings.Builder
	for i := range n {
		fmt.Fprintln(&lines, drv(fmt.Sprint("p", i)))
	}
	got := s.run(lines.String(), "build", "-d", "-")
	got.want(t, command.ExitDone, "", "submitted 10,000\nsubmitted 20,000\n")
	ids := strings.Fields(got.out)
	if len(k.requests) != n || len(ids) != n || ids[n-1] != k.requests[n-1].ID || k.requests[n-1].Derivation != drv(fmt.Sprint("p", n-1)) {
		t.Errorf("submitted %d, printed %d ids", len(k.requests), len(ids))
	}
	if most := slices.Max(k.portions); most > api.MaxSubmit {
		t.Errorf("%d requests at once", most)
	}
}

func TestRefusalCancelsTheOthers(t *testing.T) {
	s := newStub(t)
	k := &taker{finish: func(r *api.Request) api.Submitted {
		if r.Derivation == drv("bad") {
			return api.Submitted{Error: "not in the store " + evil, Code: api.CodeNotValid}
		}
		return taken(api.Queued)(r)
	}}
	k.serve(s)
	s.answer("POST /v1/cancel", api.Selected{})
	s.run("", "build", "-d", string(drv("good")), string(drv("bad"))).want(t, command.ExitFailure, "", `bad.drv: not in the store evil\x1b`)
	if got := s.requests("POST /v1/cancel"); len(got) != 1 || !strings.Contains(got[0], k.requests[0].ID) {
		t.Errorf("canceled %q", got)
	}
	got := s.run("", "build", "-dk", string(drv("good")), string(drv("bad")))
	got.want(t, command.ExitFailure, "", "lighter: "+string(drv("bad"))+": not in the store")
	if len(strings.Fields(got.out)) != 1 {
		t.Errorf("printed %q", got.out)
	}
	if got := s.requests("POST /v1/cancel"); len(got) != 0 {
		t.Errorf("canceled %q", got)
	}
}

func TestInterruptedSubmissionIsCanceled(t *testing.T) {
	s := newStub(t)
	k := &taker{finish: taken(api.Queued)}
	k.serve(s)
	s.answer("POST /v1/cancel", api.Selected{})
	// The interrupt comes while standard input is awaited.
	signals := make(chan os.Signal, 1)
	interrupt := sync.OnceFunc(func() { signals <- os.Interrupt })
	in := readerFunc(func(p []byte) (int, error) {
		interrupt()
		<-t.Context().Done()
		return 0, t.Context().Err()
	})
	var errs strings.Builder
	getenv := func(name string) string { return map[string]string{"LIGHTER_SOCKET": s.socket, "HOME": s.folder}[name] }
	code := Run(t.Context(), []string{"build", "-d", string(drv("first")), "-"}, command.Process{In: in, Out: &errs, Err: &errs, Getenv: getenv, Signals: signals})
	if code != command.ExitInterrupted || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
	var ids []string
	for i := range k.requests {
		ids = append(ids, k.requests[i].ID)
	}
	for _, canceled := range s.requests("POST /v1/cancel") {
		for _, id := range ids {
			if !strings.Contains(canceled, id) {
				t.Errorf("%s was submitted but not canceled: %s", id, canceled)
			}
		}
		ids = nil
	}
	if len(ids) > 0 {
		t.Errorf("%q were submitted but not canceled", ids)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestSupersede(t *testing.T) {
	s := newStub(t)
	k := &taker{finish: taken(api.Queued)}
	k.serve(s)
	old := func(id, commit, kind string) api.Build {
		b := oneBuild(id, "hello", api.Queued)
		b.Tags = map[string]string{"branch": "master", "commit": commit, "kind": kind}
		return b
	}
	child := old("child", "1", "nightly")
	child.Parent = "old-1"
	s.answer("GET /v1/builds", api.BuildList{Builds: []api.Build{
		old("old-1", "1", "nightly"), old("same", "2", "nightly"), child, old("old-2", "2", "weekly"),
	}})
	s.answer("POST /v1/cancel", api.Selected{Count: 2})
	s.run("", strings.Fields("build -d --tag branch=master --tag commit=2 --tag kind=nightly --supersede branch "+string(drv("hello")))...).
		want(t, command.ExitDone, "", "canceled  2 builds that this supersedes")
	s.mu.Lock()
	asked := strings.Join(s.asked, "\n")
	s.mu.Unlock()
	for _, want := range []string{
		"GET /v1/builds?limit=1000&state=queued&state=waiting&state=placed&state=sending&state=building&state=fetching&tag=branch%3Dmaster\n",
		`POST /v1/cancel {"ids":["old-1","old-2"],"reason":"superseded in branch=master"}`,
	} {
		if !strings.Contains(asked, want) {
			t.Errorf("asked\n%s\nwant %s", asked, want)
		}
	}
}

func TestCheckHasItsOwnExitCode(t *testing.T) {
	for hash, code := range map[string]int{"1": command.ExitDone, "2": command.ExitDiffers} {
		s := newStub(t)
		k := &taker{finish: func(r *api.Request) api.Submitted {
			a := taken(api.Succeeded)(r)
			a.Build.Results = []api.CheckResult{
				{Machine: "alpha", Hashes: map[string]string{"out": "1"}},
				{Machine: "beta", Hashes: map[string]string{"out": hash}, Differs: differing(hash)},
			}
			return a
		}}
		k.serve(s)
		got := s.run("", "build", "--check", "2", string(drv("hello")))
		got.want(t, code, "", "  beta: out is sha256:"+hash+"\n")
		if hash == "2" {
			got.want(t, code, "", "  beta: differs: bin/hello\n")
		}
	}
}

func differing(hash string) []string {
	if hash == "1" {
		return nil
	}
	return []string{"bin/hello"}
}

func TestExitCodeSaysHowBuildsEnded(t *testing.T) {
	for want, states := range map[int][][]api.State{
		command.ExitDone:        {{api.Succeeded, api.Succeeded}},
		command.ExitCanceled:    {{api.Succeeded, api.Canceled}},
		command.ExitBuildFailed: {{api.Failed, api.Succeeded}, {api.Canceled, api.TimedOut}, {api.Failed, api.Canceled}, {api.DependencyFailed, api.Canceled}},
	} {
		for _, ended := range states {
			var builds []*api.Build
			for _, s := range ended {
				builds = append(builds, &api.Build{Request: api.Request{ID: fmt.Sprint(len(builds))}, State: s})
			}
			code := command.ExitDone
			if err := (&buildAction{quiet: true}).finish(&command.Invocation{Process: command.Process{Out: io.Discard}}, watch.New(watch.Options{}, builds)); err != nil {
				code, _ = command.ExitCode(err)
			}
			if code != want {
				t.Errorf("%s: exit code %d, want %d", ended, code, want)
			}
		}
	}
}
