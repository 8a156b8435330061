package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/cli/command"
	"lighter/store"
)

// drv returns the path of a derivation of that name.
func drv(name string) store.Path {
	return store.Path("/gnu/store/" + strings.Repeat("0", 32) + "-" + name + ".drv")
}

// evil is a text that moves the cursor if it is printed as it is.
const evil = "evil\x1b[2J\r\x07"

func oneBuild(id, name string, state api.State) api.Build {
	return api.Build{
		Request: api.Request{ID: id, Derivation: drv(name)}, System: "x86_64-linux", State: state,
		Submitted: time.Now().Add(-3 * time.Minute),
	}
}

func TestListAsksForWhatTheFiltersSay(t *testing.T) {
	s := newStub(t)
	s.answer("GET /v1/builds", api.BuildList{Builds: []api.Build{oneBuild("0123456789", "hello", api.Queued)}})
	for args, want := range map[string]string{
		"":                             "limit=30",
		"--limit 5":                    "limit=5",
		"--limit 0":                    "limit=1000",
		"--state failed,timed-out":     "limit=30&state=failed&state=timed-out",
		"--only failed":                "limit=30&state=failed",
		"--running":                    "limit=30&state=placed&state=sending&state=building&state=fetching",
		"--state open --state waiting": "limit=30&state=queued&state=waiting&state=placed&state=sending&state=building&state=fetching",
		"-t a=b --not-tag c= -m alpha": "limit=30&machine=alpha&not-tag=c%3D&tag=a%3Db",
		"--name hello-* --system i686-linux --since 2026-11-20T10:00:00Z --until 2026-11-20T11:00:00Z": "limit=30&name=hello-%2A&since=2026-11-20T10%3A00%3A00Z&system=i686-linux&until=2026-11-20T11%3A00%3A00Z",
		"--derivation " + string(drv("x")): "derivation=%2Fgnu%2Fstore%2F00000000000000000000000000000000-x.drv&limit=30",
	} {
		s.run("", append([]string{"builds", "list"}, strings.Fields(args)...)...).want(t, command.ExitDone, "01234567  queued  hello  -        3m ago     -", "")
		if diff := cmp.Diff([]string{"GET /v1/builds?" + want}, s.requests("GET")); diff != "" {
			t.Errorf("%q (-want +got):\n%s", args, diff)
		}
	}
	for args, want := range map[string]string{
		"--state don":        `no state is called "don"`,
		"--tag k":            `--tag "k": want NAME=VALUE`,
		"--since soon":       `--since: "soon" is not a time`,
		"--name he*lo":       "a * may come only at the end",
		"--ids --json":       "does not go with --json",
		"--derivation hello": "--derivation: store path",
		"--limit -1":         "can't be negative",
	} {
		s.run("", append([]string{"builds", "list"}, strings.Fields(args)...)...).want(t, command.ExitUsage, "", want)
	}
	if asked := s.requests(""); len(asked) > 0 {
		t.Errorf("asked %q with wrong flags", asked)
	}
}

// pager answers with pages of n builds in all, of at most as many as are asked for.
func pager(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		first, _ := strconv.Atoi(r.URL.Query().Get("after"))
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		var page api.BuildList
		for i := first + 1; i <= min(first+limit, n); i++ {
			page.Builds = append(page.Builds, oneBuild(fmt.Sprintf("%08d", i), "p", api.Succeeded))
		}
		if first+limit < n {
			page.Next = fmt.Sprintf("%08d", first+limit)
		}
		_ = json.NewEncoder(w).Encode(page)
	}
}

func TestListPages(t *testing.T) {
	s := newStub(t)
	s.mux.Handle("GET /v1/builds", pager(2500))
	all := s.run("", "builds", "list", "--ids", "--limit", "0")
	all.want(t, command.ExitDone, "00000001\n00000002\n", "")
	if lines := strings.Fields(all.out); len(lines) != 2500 || lines[2499] != "00002500" {
		t.Errorf("got %d ids, the last one %s", len(lines), lines[len(lines)-1])
	}
	if n := len(s.requests("GET")); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
	some := s.run("", "builds", "list", "--limit", "1200")
	some.want(t, command.ExitDone, "ID        STATE", "")
	s.run("", "builds", "list").want(t, command.ExitDone, "ID        STATE", "there are more; see --limit")
	if n := strings.Count(some.out, "\n"); n != 1201 {
		t.Errorf("got %d lines, want 1200 and a heading", n)
	}
	if n := strings.Count(some.out, "STATE"); n != 1 {
		t.Errorf("the heading is there %d times", n)
	}
	s.run("", "builds", "list", "--limit", "2500", "--ids").want(t, command.ExitDone, "00002500", "")
}

func TestListIsHarmless(t *testing.T) {
	s := newStub(t)
	b := oneBuild(evil, "x", api.Queued)
	b.Machine, b.Reason = evil, evil
	s.answer("GET /v1/builds", api.BuildList{Builds: []api.Build{b}})
	s.run("", "builds", "list").want(t, command.ExitDone, `evil\x1b`, "")
	s.run("", "builds", "list", "--ids").want(t, command.ExitDone, `evil\x1b`, "")
	s.run("", "builds", "list", "--absolute").want(t, command.ExitDone, b.Submitted.Local().Format(time.DateTime), "")
}

func TestSteeringByIDAndFilter(t *testing.T) {
	s := newStub(t)
	s.mux.Handle("GET /v1/builds", pager(3))
	done := api.Selected{IDs: []string{"aaaa1111", evil}, Count: 12}
	for _, path := range []string{"cancel", "retry", "priority"} {
		s.answer("POST /v1/"+path, done)
	}
	for args, want := range map[string]string{
		"cancel aaaa --reason why":                     `POST /v1/cancel {"ids":["aaaa"],"reason":"why"}`,
		"cancel --with-dependents aaaa":                `POST /v1/cancel {"ids":["aaaa"],"withDependents":true}`,
		"cancel --tag k=v --yes":                       `POST /v1/cancel {"filter":{"states":["queued","waiting","placed","sending","building","fetching"],"tags":{"k":"v"}}}`,
		"cancel --state queued -y":                     `POST /v1/cancel {"filter":{"states":["queued"]}}`,
		"retry aaaa":                                   `POST /v1/retry {"ids":["aaaa"]}`,
		"retry --machine beta --yes":                   `POST /v1/retry {"filter":{"states":["failed","timed-out","dependency-failed"],"machine":"beta"}}`,
		"priority 7 aaaa":                              `POST /v1/priority {"ids":["aaaa"],"priority":7}`,
		"priority -y --tag k=v -- -3":                  `POST /v1/priority {"filter":{"states":["queued","waiting","placed","sending","building","fetching"],"tags":{"k":"v"}},"priority":-3}`,
		"cancel --with-dependents --name a* --json -y": `POST /v1/cancel {"filter":{"states":["queued","waiting","placed","sending","building","fetching"],"name":"a*"},"withDependents":true}`,
	} {
		r := s.run("", append([]string{"builds"}, strings.Fields(args)...)...)
		if strings.Contains(args, "--json") {
			r.code, r.out = 0, "" // a program gets the text as it is
		} else {
			r.want(t, command.ExitDone, "and 10 more", "")
			r.want(t, command.ExitDone, `evil\x1b[2J`, "")
		}
		if diff := cmp.Diff([]string{want}, s.requests("POST")); diff != "" {
			t.Errorf("%q (-want +got):\n%s", args, diff)
		}
	}
	s.run("", "builds", "cancel", "--yes", "--tag", "k=v").want(t, command.ExitDone, "aaaa1111 canceled\n", "")
	s.run("", "builds", "retry", "--yes", "--tag", "k=v").want(t, command.ExitDone, "aaaa1111 queued again\n", "")
	s.run("", "builds", "priority", "5", "aaaa").want(t, command.ExitDone, "aaaa1111 has priority 5\n", "")
	s.requests("")
	const nobody = "standard input is not a terminal to ask on; use --yes: the filter selects 3 builds"
	for args, want := range map[string]string{
		"cancel --tag k=v":        nobody,
		"cancel --tag k=v --json": nobody,
		"retry --tag k=v":         nobody,
		"priority 7 --tag k=v":    nobody,

		"cancel":                "which builds?",
		"cancel aaaa --tag k=v": "by ID or by filter, not both",
		"priority":              "N is missing",
		"priority high aaaa":    `"high" is not a priority`,
		"priority 3":            "which builds?",
		"retry --state don":     `no state is called "don"`,
	} {
		s.run("", append([]string{"builds"}, strings.Fields(args)...)...).want(t, command.ExitUsage, "", want)
	}
	if asked := s.requests("POST"); len(asked) > 0 {
		t.Errorf("changed something with wrong flags: %q", asked)
	}
}

func TestSteeringNothing(t *testing.T) {
	s := newStub(t)
	s.answer("GET /v1/builds", api.BuildList{})
	s.run("", "builds", "cancel", "--tag", "k=v").want(t, command.ExitDone, "", "no builds")
	if asked := s.requests("POST"); len(asked) > 0 {
		t.Errorf("asked for %q although the filter selects nothing", asked)
	}
	s.answer("POST /v1/cancel", api.Selected{})
	s.answer("GET /v1/builds/{id}", api.BuildStory{Build: oneBuild("aaaa1111", "hello", api.Succeeded)})
	s.mux = http.NewServeMux()
	s.answer("POST /v1/cancel", api.Selected{})
	b := oneBuild("aaaa1111", "hello", api.Succeeded)
	s.answer("GET /v1/builds/{id}", &b)
	s.run("", "builds", "cancel", "aaaa").want(t, command.ExitDone, "aaaa1111 stays succeeded\n", "")
	s.refuse("POST /v1/retry", &api.Error{Status: 404, Code: api.CodeNotFound, Message: "no build " + evil})
	s.run("", "builds", "retry", "ffff").want(t, command.ExitFailure, "", `no build evil\x1b`)
}

func TestPrune(t *testing.T) {
	s := newStub(t)
	s.answer("POST /v1/prune", api.Pruned{Builds: 1200, Events: 9000, Logs: 1, File: "/x/" + evil, Bytes: 1 << 20})
	s.run("", "builds", "prune", "--older-than", "30d").want(t, command.ExitUsage, "", "use --yes: 1,200 builds with 9,000 events would leave the ledger, 1 log would go")
	s.requests("")
	s.run("", "builds", "prune", "--older-than", "30d", "--yes").want(t, command.ExitDone, "1,200 builds with 9,000 events left the ledger, 1 log went\nthey are in /x/evil", "")
	s.run("", "builds", "prune", "--older-than", "1w", "--dry-run", "--state", "failed", "--keep-logs").want(t, command.ExitDone, "would leave", "")
	want := []string{
		`POST /v1/prune {"olderThan":2592000}`,
		`POST /v1/prune {"olderThan":604800,"states":["failed"],"dryRun":true,"keepLogs":true}`,
	}
	if diff := cmp.Diff(want, s.requests("POST")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for args, want := range map[string]string{
		"":                               "--older-than, such as 30d",
		"--older-than long":              `"long" is not a length of time`,
		"--older-than 1d --state queued": "not finished",
		"--older-than 1d --state succeeded,nonsense": `no state is called "nonsense"`,
	} {
		s.run("", append([]string{"builds", "prune"}, strings.Fields(args)...)...).want(t, command.ExitUsage, "", want)
	}
}

func TestShowTellsTheStory(t *testing.T) {
	s := newStub(t)
	b := oneBuild("aaaa1111-2222", "hello", api.Waiting)
	at := b.Submitted
	b.Attempt, b.Machine, b.LogSize, b.SentBytes = 2, "beta", 4096, 1<<20
	b.Hardware = &api.Hardware{CPU: "Fast " + evil, Cores: 8, Memory: 16 << 30, Kernel: "Linux 6.6"}
	b.Tags = map[string]string{"why": evil}
	b.Results = []api.CheckResult{{Machine: "alpha", Hashes: map[string]string{"out": "sha256:aa"}}, {Machine: "beta", Hashes: map[string]string{"out": "bb"}, Differs: []string{"bin/" + evil}}}
	failure := &api.Failure{Culprit: api.CulpritLink, Phase: api.Sending, Machine: "alpha", Message: "lost " + evil}
	event := func(seconds int, attempt int, machine string, state api.State, f *api.Failure) api.Event {
		return api.Event{Time: at.Add(time.Duration(seconds) * time.Second), Attempt: attempt, Machine: machine, State: state, Failure: f}
	}
	story := api.BuildStory{Build: b, Events: []api.Event{
		event(0, 0, "", api.Queued, nil),
		event(1, 1, "alpha", api.Placed, nil), event(2, 1, "alpha", api.Sending, nil), event(12, 1, "alpha", api.Queued, failure),
		// A running build has the failure of the attempt before, until it ends well.
		event(20, 2, "beta", api.Placed, failure), event(21, 2, "beta", api.Sending, failure), event(25, 2, "beta", api.Building, failure),
		event(85, 2, "beta", api.Fetching, failure), event(88, 2, "beta", api.Succeeded, nil),
	}}
	for i := range 25 {
		story.WantedBy = append(story.WantedBy, oneBuild(fmt.Sprintf("bbbb%04d", i), "release", api.Waiting))
	}
	s.answer("GET /v1/builds/{id}", story)
	s.answer("GET /v1/builds/{id}/why", api.Why{WaitsFor: []api.Build{oneBuild("cccc3333", "gcc", api.Building)}})
	got := s.run("", "builds", "show", "aaaa")
	for _, want := range []string{
		"build        aaaa1111-2222\n", `hardware     Fast evil\x1b[2J\r\x07, 8 cores, 16.0 GiB, Linux 6.6`,
		"ago)\n", "waits for    cccc3333 gcc, which is building\n", "wanted by    bbbb0000 release, which is waiting\n", "wanted by    and 5 more\n",
		"log          4.00 KiB: lighter builds log aaaa1111-2222\n", "2 machines differ", "alpha: out is sha256:aa\n", `beta: differs: bin/evil\x1b`,
		"1        alpha    1.0s    10s      -         -         link: lost evil",
		"2        beta     1.0s    4.0s     1m00s     3.0s      succeeded\n",
		"  building on beta (attempt 2)\n",
	} {
		got.want(t, command.ExitDone, want, "")
	}
	if asked := s.requests("GET /v1/builds/aaaa1111-2222/why"); len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
}
