package top

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"

	"lighter/internal/api"
)

func TestOneScreen(t *testing.T) {
	b := newBench(t, farm())
	for _, size := range [][2]int{{80, 24}, {200, 50}, {120, 30}, {40, 12}, {20, 3}, {1, 1}} {
		b.tell(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
	}
	for _, size := range [][2]int{{80, 24}, {200, 50}} {
		b.tell(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		b.want("2 running (1 overdue), 3 queued, 4 waiting, 1 failed today", "12:00:00", "overdue 1h30m", "9 builds to be done in 10 to 30 minutes",
			`beta is down: refused evil\x1b[2J`, "1>RUNNING 2", "> gcc-14", "hello-2.12", "2 MACHINES 2", "alpha", "3 QUEUE 1", "4 FAILED LATELY 1",
			"broken-1", "12", "5 TRANSFERS 1", "6 LATELY 0", "? keys", "q leave")
	}
}

func TestMovingSortingFiltering(t *testing.T) {
	s := farm()
	for i := range 30 {
		x := build("lib-"+string(rune('a'+i%26)), api.Sending)
		x.Machine, x.Attempt = "alpha", i+1
		s.Running = append(s.Running, x)
	}
	b := newBench(t, s)
	b.press("down")
	b.want("> hello-2.12")
	// The row stays the one at which the person was, wherever it goes.
	b.press("s")
	b.want("RUNNING", "> hello-2.12", "↑")
	b.press("G")
	b.wantNot("gcc-14  ")
	b.press("g")
	b.want("> gcc-14")
	b.press("/", "HELLO")
	b.want("only rows with: HELLO", "RUNNING 1/32 with HELLO", "> hello-2.12")
	b.wantNot("gcc-14")
	b.press("enter", "esc")
	b.want("gcc-14")
	b.press("/", "no such", "enter")
	b.want("nothing has that")
	b.press("esc", "2")
	b.want("> beta") // the one in trouble
	b.press("j")
	b.want("2>MACHINES", "> alpha", "Enter open  d drain  u resume")
	b.press("z")
	b.wantNot("RUNNING 3", "QUEUE")
	b.press("esc", "tab")
	b.want("3>QUEUE", "RUNNING")
	b.press("q")
	if !b.quit {
		t.Error("q does not leave")
	}
}

func TestBuildsPage(t *testing.T) {
	b := newBench(t, farm())
	x := b.state.Running[0]
	story := api.BuildStory{Build: x, Events: []api.Event{{Seq: 1, Kind: api.KindSubmitted, State: api.Queued, Time: *at(-60), Reason: evil}}}
	b.answer("GET /v1/builds/hello-2.12", story)
	b.answer("GET /v1/builds/hello-2.12/why", api.Why{Build: x, Expected: 60, Machines: []api.MachineVerdict{{Machine: evil, OK: true}}})
	var log strings.Builder
	for range 50 {
		log.WriteString("compiling\n")
	}
	log.WriteString("main.c:3: Error: \x1b[2J\x1b[31mred\x07\n")
	for range 50 {
		log.WriteString("more\n")
	}
	log.WriteString("an end without a line's")
	b.mux.HandleFunc("GET /v1/builds/hello-2.12/log", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("tail") == "" && (r.URL.Query().Get("follow") != "1" || r.URL.Query().Get("lines") != "10000") {
			t.Errorf("asked for the log with %s", r.URL.RawQuery)
		}
		_, _ = w.Write([]byte(log.String()))
	})
	b.press("down", "enter")
	b.want("hello-2.12", "[story]", "state        building", `queued: evil\x1b`)
	b.press("w")
	b.want("[why]", "is building on alpha for 5m", "usually takes 1m", "an end without a line's", "can take it now")
	b.press("l")
	b.want("[log]", "complete", "an end without a line's")
	b.press("/", "error", "enter")
	b.want(`main.c:3: Error: red\x07`)
	b.press("n", "N", "G")
	b.want("an end without a line's")
	b.press("/", "nowhere", "enter")
	b.want("nothing has nowhere")
	b.press("q")
	b.want("RUNNING 2")
	b.press("l")
	b.want("[log]")
	b.tell(&logPart{asked: b.asked0() - 1, lines: []string{"of another log"}})
	b.wantNot("of another log")
}

// asked0 is the number of the log that was asked for last.
func (b *bench) asked0() int { return b.model.asked }

func TestMachinesAndQueues(t *testing.T) {
	b := newBench(t, farm())
	b.answer("GET /v1/builds", api.BuildList{Builds: []api.Build{build("next-1", api.Queued)}, Next: "x"})
	b.press("2", "down", "enter")
	b.want("slots        1 of 2 taken", "load         0.50 on 4 cores", "tag          disk=ssd\ntag          owner=evil\\x1b[2J\\r\\x07\\u202e\ntag          rack=2", "BUILDS THERE 2", "hello-2.12", "broken-1")
	b.press("q", "3", "enter")
	b.want("queue of x86_64-linux, the newest 1", "> next-1", "queued")
	b.press("q", "!")
	b.want("what is in the way", "beta is down", "1 thing in the way")
	b.answer("GET /v1/blocking", api.Blocking{Builds: []api.Blocker{{Build: build("slow-1", api.Queued), Holds: 40}}, Failures: []api.Blocker{{Build: b.state.Failures[0], Holds: 3}}})
	b.press("q", "B")
	b.want("what holds up most other builds", "HOLDS UP↓", "> slow-1", "40", "broken-1", "15")
	b.press("q", "?")
	b.want("Moving", "Opening")
}

func TestSteering(t *testing.T) {
	s := farm()
	s.Caller = &api.Caller{UID: 0, Operates: true}
	b := newBench(t, s)
	b.answer("GET /v1/builds/hello-2.12", api.BuildStory{Build: s.Running[0], WantedByCount: 7})
	b.answer("GET /v1/builds/broken-1", api.BuildStory{Build: s.Failures[0], WantedByCount: 12})
	b.answer("POST /v1/cancel", api.Selected{Count: 1, StandIns: 1})
	b.answer("POST /v1/retry", api.Selected{Count: 13})
	b.answer("POST /v1/priority", api.Selected{Count: 2})
	b.answer("POST /v1/machines/alpha/drain", api.MachineStatus{Name: "alpha", Draining: true, Running: 1})
	b.answer("POST /v1/pause", struct{}{})

	b.press("down", "c")
	b.want("Cancel hello-2.12 (hello-2.", "stopped on alpha, where it has been built", "7 builds need it", "y cancel it", "a it and all that need it", "any other key: no")
	b.press("x")
	b.want("nothing was changed")
	b.press("c", "y")
	b.want("1 build canceled; 1 build made anew, as others need them")
	b.press("c", "a", "p", "-5x", "enter")
	b.want(`"-5x" is not a priority`)
	b.press("p", "-5", "enter")
	b.want("2 builds given priority -5")
	b.press("4", "c")
	b.want("is over already: failed")
	b.press("r")
	b.want("Try broken-1", "12 builds that were not made because of it")
	b.press("y")
	b.want("13 builds to be tried again")
	b.press("2", "down", "u")
	b.want("alpha is neither drained nor in quarantine")
	b.press("d")
	b.want("drain alpha? It finishes 1 build and gets no new ones.")
	b.press("new disk", "backspace", "backspace", "c", "enter")
	b.want("alpha is draining")
	b.press("P", "esc", "P", "move", "enter")
	b.want("paused; what runs goes on")
	want := strings.Join([]string{
		`POST /v1/cancel {"ids":["hello-2.12"]}`, `POST /v1/cancel {"ids":["hello-2.12"],"withDependents":true}`, `POST /v1/priority {"ids":["hello-2.12"],"priority":-5}`,
		`POST /v1/retry {"ids":["broken-1"],"withDependents":true}`, `POST /v1/machines/alpha/drain {"reason":"new dic"}`, `POST /v1/pause {"reason":"move"}`,
	}, "\n")
	if got := b.posted(); got != want {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}
}

// TestRights has somebody who does not operate.
func TestRights(t *testing.T) {
	b := newBench(t, farm())
	b.want("you may change only your own builds")
	b.answer("GET /v1/builds/hello-2.12", api.BuildStory{Build: b.state.Running[0]})
	b.answer("GET /v1/builds/gcc-14", api.BuildStory{Build: b.state.Running[1]})
	b.press("c")
	b.want("gcc-14: it is root's, and only members of lighter may change builds of others")
	b.press("down", "c")
	b.want("Cancel hello-2.12")
	b.press("n", "P")
	b.want("only members of lighter may pause")
	b.press("2", "d")
	b.want("only members of lighter may drain")
	b.press("c")
	b.want("c is for builds")
	b.press("1", "d")
	b.want("d is for machines")
	if got := b.posted(); got != "" {
		t.Errorf("asked %s", got)
	}
}

func TestAway(t *testing.T) {
	b := newBench(t, farm())
	b.tell(statusMsg{err: errors.New("connection refused")})
	b.want("the coordinator went away, and what you see is old", "hello-2.12")
	b.tell(statusMsg{status: farm()})
	b.wantNot("went away")
}

func TestWhatHappens(t *testing.T) {
	b := newBench(t, farm())
	b.tell(eventsMsg{
		{Seq: 1, Build: "hello-2.12", State: api.Building, Attempt: 1, Time: *at(-1)},
		{Seq: 2, Build: "ended", Derivation: "/gnu/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-ended-1.drv", State: api.Succeeded, Attempt: 1, Machine: "alpha", Time: *at(-1)},
		{Seq: 3, Machine: "beta", Kind: api.KindMachineLost, Reason: evil, Time: *at(0)},
	})
	b.want("6 LATELY 2", "ended-1", "succeeded on alpha", "beta", "machine-lost")
	var many eventsMsg
	for i := range 5000 {
		many = append(many, api.Event{Seq: uint64(i), Machine: "m", Time: noon})
	}
	b.tell(many)
	if len(b.events) != maxEvents {
		t.Errorf("%d events are kept, want %d", len(b.events), maxEvents)
	}
}

// TestEndlessLog has a builder that writes more than memory holds, in one line and in many.
func TestEndlessLog(t *testing.T) {
	var l logText
	w := &logWriter{send: func(lines []string, rest string) { l.add(&logPart{lines: lines, rest: rest}) }}
	piece := []byte(strings.Repeat("x", 1<<16))
	for range 100 {
		_, _ = w.Write(piece)
	}
	if len(l.lines) != 1 || len(l.lines[0]) != maxLogLine {
		t.Errorf("%d lines, the first of %d bytes", len(l.lines), len(l.lines[0]))
	}
	_, _ = w.Write([]byte("\n"))
	piece = []byte(strings.Repeat(strings.Repeat("y", 100)+"\n", 1000))
	for range 100 {
		_, _ = w.Write(piece)
		sum := 0
		for _, line := range l.lines {
			sum += len(line)
		}
		if len(l.lines) > maxLogLines || sum > maxLogBytes || sum != l.bytes {
			t.Fatalf("%d lines, %d bytes, counted as %d", len(l.lines), sum, l.bytes)
		}
	}
	x := build("b", api.Building)
	if !l.cut || !strings.Contains(l.state(&x), "only its end is here: lighter builds log b") {
		t.Errorf("it says %q", l.state(&x))
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		want       []int
		here, room int
		sum        int
	}{
		{[]int{10, 4, 2}, 0, 30, 16},
		{[]int{10, 4, 2}, 0, 10, 10},
		{[]int{100, 100, 100}, 2, 20, 20},
		{[]int{5, 5, 5}, -1, 2, 2},
	} {
		sum := 0
		got := share(c.want, c.here, c.room)
		for _, n := range got {
			sum += n
		}
		if sum != c.sum {
			t.Errorf("%v of %d: %v, want %d in all", c.want, c.room, got, c.sum)
		}
	}
}
