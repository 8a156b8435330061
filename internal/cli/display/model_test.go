package display_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/store"
)

var start = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func build(id, name string, state api.State, parent string) *api.Build {
	return &api.Build{
		Request:   api.Request{ID: id, Derivation: store.Path("/gnu/store/" + strings.Repeat("0", 32) + "-" + name + ".drv")},
		State:     state,
		Parent:    parent,
		Submitted: start,
	}
}

func on(machine string, b *api.Build) *api.Build {
	b.Machine, b.Attempt = machine, 1
	return b
}

// graph has a release that waits, a build, a transfer to and one from a machine.
func graph() *display.Model {
	m := display.NewModel(start)
	m.Want(build("1", "release-1.0", api.Waiting, ""), start)
	building := on("alpha", build("2", "archive-nar", api.Building, "1"))
	at := start.Add(2 * time.Second)
	building.Started = &at
	m.Put(building, start)
	m.Put(on("beta", build("3", "statistics", api.Sending, "1")), start.Add(10*time.Second))
	m.Put(on("gamma.example.org", build("4", "checksums", api.Fetching, "1")), start.Add(11*time.Second))
	m.SetStatus(&api.Status{Transfers: []api.Transfer{
		{Machine: "beta", Direction: "send", Build: "3", Items: 2, Bytes: 1 << 20, Total: 3 << 20, Started: start.Add(10 * time.Second)},
		{Machine: "gamma.example.org", Direction: "fetch", Build: "4", Items: 1, Bytes: 5 << 20, Started: start.Add(11 * time.Second)},
		{Machine: "alpha", Direction: "send", Build: "somebody else's", Bytes: 1},
	}})
	return m
}

func TestLines(t *testing.T) {
	now := start.Add(12 * time.Second)
	for name, c := range map[string]struct {
		width, height int
		want          []string
	}{
		"wide": {100, 24, []string{
			"  archive-nar  alpha              building  10s",
			"  statistics   beta               sending    2s  1.00 of 3.00 MiB, 512 KiB/s",
			"  checksums    gamma.example.org  fetching   1s  5.00 MiB, 5.00 MiB/s",
			"0 of 4 builds done, 3 running, 1 waiting, 1.00 MiB sent, 5.00 MiB fetched, 12s",
		}},
		"narrow": {40, 24, []string{
			"  archive-nar  alpha       building  10s",
			"  statistics   beta        sending    2s",
			"  checksums    gamma….org  fetching   1s",
			"0/4 done, 3 running, 1 waiting, 12s",
		}},
		"low": {100, 3, []string{
			"  archive-nar  alpha  building  10s",
			"  and 2 more",
			"0 of 4 builds done, 3 running, 1 waiting, 1.00 MiB sent, 5.00 MiB fetched, 12s",
		}},
		"one row": {20, 1, []string{"0/4 done, 3 running…"}},
	} {
		if diff := cmp.Diff(c.want, graph().Lines(now, c.width, c.height, display.Style{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestLinesFitEveryTerminal(t *testing.T) {
	m := graph()
	odd := on("m\x1b[2J\u202e日本語", build("5", strings.Repeat("long-", 40), api.Building, "1"))
	m.Put(odd, start)
	m.SetNote("canceling \x1b]0;evil\x07; again to leave")
	for width := 1; width < 220; width++ {
		for _, height := range []int{1, 2, 3, 5, 50} {
			lines := m.Lines(start.Add(time.Minute), width, height, display.Style{})
			if len(lines) > height {
				t.Fatalf("%d lines on %d rows", len(lines), height)
			}
			for _, l := range lines {
				if human.Width(l) > width || human.Printable(l) != l {
					t.Fatalf("width %d: line %q has width %d", width, l, human.Width(l))
				}
			}
		}
	}
}

func TestColoursDoNotChangeTheText(t *testing.T) {
	now := start.Add(time.Minute)
	plain := graph().Lines(now, 70, 24, display.Style{})
	coloured := graph().Lines(now, 70, 24, display.Style{Colour: true})
	for i, l := range coloured {
		if got := human.LogLine(l); got != plain[i] {
			t.Errorf("got %q, want %q", got, plain[i])
		}
	}
}

func TestModelFollowsEvents(t *testing.T) {
	m := graph()
	if m.Put(build("9", "other", api.Queued, "somebody else's"), start) {
		t.Error("took a build that is not ours")
	}
	if !m.Knows("9") || m.Has("9") {
		t.Error("does not remember that a build is not ours")
	}
	for i, id := range []string{"2", "3", "4", "1"} {
		if m.Done() {
			t.Fatalf("done before %s", id)
		}
		m.Apply(&api.Event{Build: id, State: api.Succeeded, Machine: "alpha", Attempt: 1, Time: start.Add(time.Duration(i) * time.Second)})
	}
	m.Apply(&api.Event{Build: "1", State: api.Building, Time: start}) // too late to matter
	if !m.Done() {
		t.Error("not done although everything succeeded")
	}
	full := on("alpha", build("2", "archive-nar", api.Succeeded, "1"))
	full.SentBytes, full.FetchBytes = 1<<20, 2<<20
	m.Put(full, start)
	m.Put(full, start)
	m.SetStatus(&api.Status{})
	if got, want := m.Summary(start.Add(63*time.Second)), "4 of 4 builds done, 1.00 MiB sent, 2.00 MiB fetched, 1m03s"; got != want {
		t.Errorf("Summary = %q, want %q", got, want)
	}
}

func TestModelSaysWhyNothingRuns(t *testing.T) {
	m := display.NewModel(start)
	b := build("1", "kernel", api.Queued, "")
	b.Reason = "no machine has the feature kvm"
	m.Want(b, start)
	m.SetStatus(&api.Status{Machines: []api.MachineStatus{{Name: "alpha", State: "down", Error: "connection refused"}}})
	want := []string{
		"  no machine has the feature kvm",
		"  alpha is down: connection refused",
		"0 of 1 build done, 1 waiting, 3s",
	}
	if diff := cmp.Diff(want, m.Lines(start.Add(3*time.Second), 80, 24, display.Style{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestOutcome(t *testing.T) {
	succeeded := on("alpha", build("1", "hello", api.Succeeded, ""))
	succeeded.BuildTime, succeeded.OutputSize = 3.25, 3<<20
	failed := on("beta", build("2", "hello", api.Failed, ""))
	failed.Failure = &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "the builder exited with 1\n"}
	link := on("beta", build("2", "hello", api.Failed, ""))
	link.Failure = &api.Failure{Culprit: api.CulpritLink, Phase: api.Sending, Message: "connection reset"}
	checked := build("4", "hello", api.Succeeded, "")
	checked.Check = 3
	dependency := build("3", "hello", api.DependencyFailed, "")
	dependency.Failure = &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Waiting, Kind: api.KindDependency, Input: build("", "lib", "", "").Derivation}
	for name, c := range map[string]struct {
		build *api.Build
		want  string
	}{
		"succeeded":   {succeeded, "built     hello on alpha in 3.2s, 3.00 MiB"},
		"there":       {build("1", "hello", api.Succeeded, ""), "built     hello (was there already)"},
		"checked":     {checked, "built     hello on 3 machines, with the same result"},
		"failed":      {failed, `failed    hello on beta: the builder exited with 1`},
		"link":        {link, "failed    hello on beta: the link failed while sending: connection reset"},
		"dependency":  {dependency, "not built hello: needs lib, which failed"},
		"unknown":     {build("1", "hello", api.TimedOut, ""), "timed out hello: the reason is not known"},
		"canceled":    {build("1", "hello", api.Canceled, ""), "canceled  hello"},
		"not the end": {build("1", "hello", api.Building, ""), ""},
	} {
		if got := display.Outcome(c.build, display.Style{}); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestLogTail(t *testing.T) {
	log := ""
	for i := range 20 {
		log += fmt.Sprintf("line %d\r\n", i)
	}
	want := []string{"  │ line 18", "  │ line 19", `  │ end\x07`}
	if diff := cmp.Diff(want, display.LogTail([]byte(log+"end\x07\n\n"), 3)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := display.LogTail([]byte("\n\n"), 3); got != nil {
		t.Errorf("LogTail of nothing = %q", got)
	}
}

// TestDone covers the ways in which a wanted build gets to its end.
func TestDone(t *testing.T) {
	m := display.NewModel(start)
	m.Want(build("1", "a", api.Queued, ""), start)
	m.Want(build("1", "a", api.Queued, ""), start) // again
	m.Want(build("2", "b", api.Succeeded, ""), start)
	m.Put(build("3", "child", api.Queued, "1"), start)
	m.Want(build("4", "d", api.Queued, ""), start)
	m.Apply(&api.Event{Build: "3", State: api.Failed}) // a child's end is no end
	if m.Done() || !m.Asked("1") || m.Asked("3") {
		t.Errorf("done %v, asked for 1: %v, for 3: %v", m.Done(), m.Asked("1"), m.Asked("3"))
	}
	m.Apply(&api.Event{Build: "1", State: api.Canceled})
	m.Apply(&api.Event{Build: "1", State: api.Canceled})
	m.Put(build("1", "a", api.Canceled, ""), start)
	if m.Done() {
		t.Error("done although one is queued")
	}
	m.Put(build("4", "d", api.Succeeded, ""), start)
	if !m.Done() || len(m.Wanted()) != 3 {
		t.Errorf("not done: %v", m.Wanted())
	}
	m.Want(build("3", "child", api.Failed, "1"), start) // known, and over
	m.Want(build("5", "e", api.Building, ""), start)
	if m.Done() || !m.Asked("3") {
		t.Error("done although one builds")
	}
}
