package web

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/internal/web/logview"
	"lighter/internal/web/picture"
	"lighter/scheduler/estimate"
)

// BuildPage is all that is known of one build.
type BuildPage struct {
	Build *api.Build `json:"build"`
	// Summary says in plain words where it stands.
	Summary string `json:"summary"`
	// Why says what it waits for; nil if it does not wait.
	Why      *api.Why           `json:"why,omitempty"`
	Attempts []*display.Attempt `json:"attempts"`
	// WantedBy has builds that need this one, the nearest first, some of WantedByCount.
	WantedBy      []api.Build  `json:"wantedBy,omitempty"`
	WantedByCount int          `json:"wantedByCount,omitempty"`
	Outputs       []api.Output `json:"outputs,omitempty"`
	// Cause is the build that failed itself, of one that failed because of that.
	Cause *api.Build `json:"cause,omitempty"`
	// LogEnd has the last lines of the log of a build that failed.
	LogEnd []string `json:"logEnd,omitempty"`
	// Package is the name without version, of which Past has the newest builds for the same system, the newest first.
	Package string        `json:"package"`
	Past    []PastBuild   `json:"past"`
	Median  api.Seconds   `json:"median,omitempty"`  // time of those of them that succeeded
	Usual   *api.Estimate `json:"usual,omitempty"`   // what such builds will probably take
	Events  []api.Event   `json:"events"`            // the newest last, at most 200
	Earlier int           `json:"earlier,omitempty"` // how many events there are before these
	// Commands are what one may want to type next.
	Commands []Command `json:"commands"`

	waits    []display.Phase // when no machine had it
	timeLine template.HTML
}

// PastBuild is a build of the same package that has ended.
type PastBuild struct {
	Build   string      `json:"build"`
	Name    string      `json:"name"`
	State   api.State   `json:"state"`
	Machine string      `json:"machine,omitempty"`
	Stopped time.Time   `json:"stopped"`
	Took    api.Seconds `json:"took,omitempty"`   // of the builder
	Memory  int64       `json:"memory,omitempty"` // bytes at the peak
}

// Bounds of what is on the page.
const (
	maxNeighbours = 20 // builds that it waits for, that wait for it, that come before it
	maxVerdicts   = 60 // machines
	maxTries      = 64 // attempts
	maxEvents     = 200
	maxPast       = 20
	pastLooked    = 200 // builds whose names begin as the package's
	logEndBytes   = 4 << 10
	logEndLines   = 15
	maxQuoted     = 240 // characters of a line of a log that is quoted
)

// loadBuild is the page of a build. What else is known of it is asked for at the same time.
func (s *Server) loadBuild(r *http.Request) (any, error) {
	b, err := s.buildOf(r, "")
	if err != nil {
		return nil, err
	}
	m := &BuildPage{Past: []PastBuild{}}
	m.Package, _ = estimate.SplitName(api.DerivationName(b.Derivation))
	asking, ctx := errgroup.WithContext(r.Context())
	ask := func(do func(context.Context, *apiclient.Client) error) {
		asking.Go(func() error { return s.ask(ctx, do) })
	}
	ask(func(ctx context.Context, c *apiclient.Client) error {
		story, err := c.Story(ctx, b.ID)
		if err != nil {
			return gone(b.ID, err)
		}
		m.take(story)
		return nil
	})
	if !b.State.Final() {
		ask(func(ctx context.Context, c *apiclient.Client) (err error) {
			if m.Why, err = c.Why(ctx, b.ID); err == nil {
				m.Why.Build = api.Build{} // it is in the story
			}
			return err
		})
	}
	if b.State.FailedItself() {
		ask(func(ctx context.Context, c *apiclient.Client) error { return m.readLogEnd(ctx, c, b.ID) })
	}
	ask(func(ctx context.Context, c *apiclient.Client) error { return m.readPast(ctx, c, b) })
	ask(func(ctx context.Context, c *apiclient.Client) error { return m.readUsual(ctx, c, b) })
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	m.Summary, m.Commands = summary(m), commands(m)
	m.timeLine = m.draw(s.now())
	return m, nil
}

// take takes over what a story says.
func (m *BuildPage) take(story *api.BuildStory) {
	m.Build, m.WantedByCount, m.Outputs, m.Cause = &story.Build, story.WantedByCount, story.Outputs, story.Cause
	m.WantedBy = story.WantedBy[:min(len(story.WantedBy), maxNeighbours)]
	m.Attempts, m.waits = display.Attempts(story.Events), display.Waits(story.Events)
	m.Attempts = m.Attempts[max(0, len(m.Attempts)-maxTries):]
	m.Earlier = max(0, len(story.Events)-maxEvents)
	m.Events = story.Events[m.Earlier:]
}

// readLogEnd reads the last lines of the log, if there is one.
func (m *BuildPage) readLogEnd(ctx context.Context, c *apiclient.Client, id string) error {
	end, err := c.LogTail(ctx, id, logEndBytes)
	if errors.Is(err, api.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := logview.Split(end, 0, 1, len(end) < logEndBytes, len(end))
	for _, line := range lines[max(0, len(lines)-logEndLines):] {
		m.LogEnd = append(m.LogEnd, human.Truncate(line.Plain(), maxQuoted))
	}
	return nil
}

// readPast finds the newest builds of the same package that have ended.
func (m *BuildPage) readPast(ctx context.Context, c *apiclient.Client, b *api.Build) error {
	list, err := c.Builds(ctx, apiclient.BuildFilter{Limit: pastLooked, Filter: api.Filter{
		Name: m.Package + "-*", System: b.System, States: []api.State{api.Succeeded, api.Failed, api.TimedOut},
	}})
	if err != nil {
		return err
	}
	var took []api.Seconds
	for i := range list.Builds {
		p := &list.Builds[i]
		if base, _ := estimate.SplitName(api.DerivationName(p.Derivation)); base != m.Package || p.Started == nil || p.Stopped == nil || len(m.Past) == maxPast {
			continue
		}
		past := PastBuild{Build: p.ID, Name: display.Name(p), State: p.State, Machine: p.Machine, Stopped: *p.Stopped, Took: p.BuildTime}
		if past.Took == 0 {
			past.Took = api.Seconds(p.Stopped.Sub(*p.Started).Seconds())
		}
		if p.Measured != nil {
			past.Memory = p.Measured.PeakMemory
		}
		if p.State == api.Succeeded {
			took = append(took, past.Took)
		}
		m.Past = append(m.Past, past)
	}
	if slices.Sort(took); len(took) > 0 {
		m.Median = took[len(took)/2]
	}
	return nil
}

// readUsual finds what builds of the package usually take.
func (m *BuildPage) readUsual(ctx context.Context, c *apiclient.Client, b *api.Build) error {
	list, err := c.Estimates(ctx, literal(m.Package))
	if err != nil {
		return err
	}
	for i := range list.Estimates {
		if e := &list.Estimates[i]; e.Kind == "package" && e.System == b.System && e.Samples > 0 {
			m.Usual = e
		}
	}
	return nil
}

// literal is a pattern of path.Match that a text alone matches.
func literal(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(text)
}

// summary says in a sentence or two where a build stands.
func summary(m *BuildPage) string {
	b := m.Build
	on := ""
	if b.Machine != "" {
		on = " on " + b.Machine
	}
	switch b.State {
	case api.Queued:
		text := "It is ready, and waits for a machine."
		if m.Why != nil && m.Why.Place > 0 {
			text = fmt.Sprintf("It is ready, and waits for a machine: it is number %s of those that do.", human.Number(m.Why.Place))
		}
		return text
	case api.Waiting:
		return "It waits for other builds, whose outputs it needs."
	case api.Placed, api.Sending:
		return "What it needs is being sent to " + b.Machine + "."
	case api.Building:
		return "It is being built" + on + "."
	case api.Fetching:
		return "It was built" + on + "; its outputs are on their way."
	case api.Succeeded:
		if b.Attempt == 0 {
			return "There was nothing to build: its outputs were there already."
		}
		return "It was built" + on + "."
	case api.Failed:
		return "It failed" + on + ": " + display.FailureText(b) + "."
	case api.TimedOut:
		return "It took too long" + on + ": " + display.FailureText(b) + "."
	case api.DependencyFailed:
		return "It was not built: " + display.FailureText(b) + "."
	case api.Canceled:
		return "It was canceled" + reasonAfter(b.Reason)
	}
	return string(b.State) + "."
}

// reasonAfter is a reason that goes on with a sentence, which it ends.
func reasonAfter(reason string) string {
	reason = human.Line(strings.TrimPrefix(reason, "canceled"))
	if reason == "" {
		return "."
	}
	return strings.TrimSuffix(reason, ".") + "."
}

// draw draws the time line of the attempts; empty if there are none.
func (m *BuildPage) draw(now time.Time) template.HTML {
	if len(m.Attempts) == 0 {
		return ""
	}
	until := now
	if m.Build.Stopped != nil {
		until = *m.Build.Stopped
	}
	waits := picture.Row{Label: "waiting"}
	for _, p := range m.waits {
		waits.Spans = append(waits.Spans, picture.Span{From: p.From, To: instantOf(p.To), State: p.State, Title: string(p.State) + " for " + quantity.Elapsed(p.Length(until))})
	}
	rows := []picture.Row{waits}
	for _, a := range m.Attempts {
		row := picture.Row{Label: "attempt " + strconv.Itoa(a.Number) + " on " + a.Machine}
		for _, p := range a.Phases {
			span := picture.Span{From: p.From, To: instantOf(p.To), State: p.State, Title: string(p.State)}
			if a.End != nil && (span.To.IsZero() || span.To.Equal(*a.End)) && a.State.FailedItself() {
				span.State = a.State
			}
			span.Title += " for " + quantity.Elapsed(p.Length(until))
			row.Spans = append(row.Spans, span)
		}
		rows = append(rows, row)
	}
	return picture.Attempts(picture.Frame{
		Title: "Attempts at " + display.Name(m.Build), Description: "The table below has the same in numbers.",
		Since: m.Build.Submitted.UTC(), Until: until.UTC(),
	}, rows)
}

// For the template.

// TimeLine is a picture of the attempts.
func (m *BuildPage) TimeLine() template.HTML { return m.timeLine }

// Comparison says what each machine of a check made.
func (m *BuildPage) Comparison() []string {
	if m.Build.Check == 0 {
		return nil
	}
	return display.ComparisonLines(m.Build)
}

// Verdicts has of each machine whether it could take the build now, those that could first, at most maxVerdicts.
func (m *BuildPage) Verdicts() []api.MachineVerdict {
	list := slices.Clone(m.Why.Machines)
	slices.SortStableFunc(list, func(a, b api.MachineVerdict) int {
		switch {
		case a.OK == b.OK:
			return 0
		case a.OK:
			return -1
		}
		return 1
	})
	return list[:min(len(list), maxVerdicts)]
}

// WaitsFor and Ahead are bounded, and so many more there are.
func (m *BuildPage) WaitsFor() []api.Build {
	return m.Why.WaitsFor[:min(len(m.Why.WaitsFor), maxNeighbours)]
}

func (m *BuildPage) Ahead() []api.Build { return m.Why.Ahead[:min(len(m.Why.Ahead), maxNeighbours)] }

// HasLog reports whether there may be a log.
func (m *BuildPage) HasLog() bool { return m.Build.Attempt > 0 || m.Build.Check > 0 }

// Phases are those of which the table of attempts has columns.
func (m *BuildPage) Phases() []api.State {
	return []api.State{api.Placed, api.Sending, api.Building, api.Fetching}
}

// PhaseTime says how long an attempt was in a state; "–" if it never was.
func (m *BuildPage) PhaseTime(a *display.Attempt, state api.State, now time.Time) string {
	p := a.Phase(state)
	if p == nil {
		return "–"
	}
	return quantity.Duration(p.Length(now))
}

// Outcome says why an attempt ended, in a line; empty if its state says it.
func (m *BuildPage) Outcome(a *display.Attempt) string {
	switch {
	case a.Failure != nil:
		return display.Reason(&api.Build{State: api.Failed, Failure: a.Failure})
	case a.Outcome != string(a.State):
		return human.Line(a.Outcome)
	}
	return ""
}

// Command is something to copy.
type Command struct {
	What string `json:"what"`
	Text string `json:"text"`
}

// commands has what one may want to type next.
func commands(m *BuildPage) []Command {
	b := m.Build
	drv := human.ShellWord(string(b.Derivation))
	list := []Command{{"All of this, in a terminal", "lighter builds show " + b.ID}}
	if m.HasLog() {
		list = append(list, Command{"Its log", "lighter builds log " + b.ID})
	}
	switch {
	case !b.State.Final():
		list = append(list, Command{"Why it is where it is", "lighter builds why " + b.ID}, Command{"Wait for its end", "lighter builds wait " + b.ID})
	case b.State == api.Succeeded:
		list = append(list, Command{"Build it once more and compare", "guix build --check " + drv}, Command{"The same on two machines", "lighter build --check=2 " + drv})
	default:
		list = append(list, Command{"Try again", "lighter builds retry " + b.ID}, Command{"Try it on this computer, and keep what is left", "guix build --no-offload --keep-failed " + drv})
	}
	return list
}
