package display

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/store"
)

// maxShownBuilds bounds lists of builds inside a story.
const maxShownBuilds = 20

// Story writes all that is known of one build: its record, its attempts, who waits for it, and
// its events. why may be nil. A width of 0 means no limit.
func Story(w io.Writer, story *api.BuildStory, why *api.Why, now time.Time, width int) error {
	t := &storyText{now: now, width: width}
	t.record(&story.Build)
	t.timing(&story.Build)
	if why != nil {
		t.fieldIf(why.ExpectedStart != nil, "to begin", "%s", Expected(why.ExpectedStart, now))
	}
	t.fieldIf(story.Build.ExpectedEnd != nil, "to be done", "%s", ExpectedWithWhy(story.Build.ExpectedEnd, now))
	switch {
	case why != nil && why.MemoryReason != "":
		t.field("memory", "%s", why.MemoryReason)
	case story.Build.ReservedMemory > 0:
		t.field("memory", "%s reserved", quantity.Bytes(story.Build.ReservedMemory))
	}
	t.request(&story.Build.Request)
	t.outputs(story)
	t.check(&story.Build)
	if why != nil {
		t.builds("waits for", why.WaitsFor, 0)
	}
	if story.Cause != nil {
		t.builds("because of", []api.Build{*story.Cause}, 0)
	}
	t.builds("wanted by", story.WantedBy, story.WantedByCount)
	t.attempts(story)
	t.events(story)
	_, err := io.WriteString(w, t.String())
	return err
}

// storyText is the text of a story as it grows.
type storyText struct {
	strings.Builder
	now   time.Time
	width int // of the terminal; 0 means no limit
}

// field writes a line with a name and a value, if there is a value.
func (t *storyText) field(name, format string, args ...any) {
	fmt.Fprintf(t, "%-12s %s\n", name, human.Printable(fmt.Sprintf(format, args...)))
}

func (t *storyText) fieldIf(is bool, name, format string, args ...any) {
	if is {
		t.field(name, format, args...)
	}
}

// when writes a time as dates and as people say it.
func (t *storyText) when(name string, at time.Time) {
	t.field(name, "%s (%s)", human.Stamp(at), human.Ago(at, t.now))
}

func (t *storyText) record(b *api.Build) {
	t.field("build", "%s", b.ID)
	t.field("derivation", "%s", b.Derivation)
	t.field("system", "%s", strings.Join(append([]string{b.System}, b.Features...), ", "))
	t.field("state", "%s", b.State)
	t.fieldIf(Reason(b) != "", "why", "%s", Reason(b))
	t.fieldIf(b.Machine != "", "machine", "%s, attempt %d", b.Machine, b.Attempt)
	if h := b.Hardware; h != nil {
		t.field("hardware", "%s", hardwareText(h))
	}
	t.fieldIf(b.Parent != "", "for", "build %s", b.Parent)
	t.fieldIf(b.Shares != "", "shares", "the attempts of build %s", b.Shares)
}

func submitterText(s *api.Submitter) string {
	if s.For != nil {
		return s.String() + ", for " + s.For.String() + ", through guix-daemon"
	}
	return s.String()
}

func hardwareText(h *api.Hardware) string {
	var parts []string
	for _, p := range []struct {
		is   bool
		text string
	}{
		{h.CPU != "", h.CPU},
		{h.Cores > 0, human.Count(h.Cores, "core")},
		{h.Memory > 0, quantity.Bytes(h.Memory)},
		{h.Kernel != "", h.Kernel},
	} {
		if p.is {
			parts = append(parts, p.text)
		}
	}
	return strings.Join(parts, ", ")
}

func (t *storyText) timing(b *api.Build) {
	t.when("submitted", b.Submitted)
	if b.Submitter != nil {
		t.field("submitter", "%s", submitterText(b.Submitter))
	}
	t.fieldIf(b.Share != "", "counts for", "%s", b.Share)
	if b.Started != nil {
		t.when("started", *b.Started)
	}
	if b.Stopped != nil {
		t.when("stopped", *b.Stopped)
	}
	t.fieldIf(b.BuildTime > 0, "built in", "%s", quantity.Duration(b.BuildTime.Duration()))
	t.measured(b.Measured)
	t.fieldIf(b.SentBytes+b.FetchBytes > 0, "traffic", "%s sent, %s fetched", quantity.Bytes(b.SentBytes), quantity.Bytes(b.FetchBytes))
}

// measured says what a build used of its machine.
func (t *storyText) measured(m *store.Measured) {
	if m == nil {
		return
	}
	t.fieldIf(m.CPU > 0, "CPU time", "%s", quantity.Duration(api.Seconds(m.CPU).Duration()))
	peak := quantity.Bytes(m.PeakMemory)
	if m.MemoryLimit > 0 {
		peak += ", of " + quantity.Bytes(m.MemoryLimit) + " that it could have"
	}
	if m.KilledForMemory {
		peak += "; killed for want of it"
	}
	t.fieldIf(m.PeakMemory > 0, "peak memory", "%s", peak)
	t.fieldIf(m.PeakMemory <= 0 && m.KilledForMemory, "memory", "killed for want of it")
	t.fieldIf(m.Disk > 0, "disk", "%s", quantity.Bytes(m.Disk))
	t.fieldIf(m.Unmeasured != "", "not measured", "%s", m.Unmeasured)
}

func (t *storyText) request(r *api.Request) {
	t.fieldIf(r.Priority != 0, "priority", "%d", r.Priority)
	t.fieldIf(r.Timeout > 0, "timeout", "%s", quantity.Duration(r.Timeout.Duration()))
	t.fieldIf(r.MaxSilentTime > 0, "max silent", "%s", quantity.Duration(r.MaxSilentTime.Duration()))
	t.fieldIf(r.Memory > 0, "wants", "%s of memory", quantity.Bytes(r.Memory))
	for _, name := range slices.Sorted(maps.Keys(r.Tokens)) {
		t.field("token", "%s=%d", name, r.Tokens[name])
	}
	t.fieldIf(r.Retries > 0, "retries", "%d", r.Retries)
	t.fieldIf(r.Check > 0, "check", "on %s", human.Count(r.Check, "machine"))
	t.fieldIf(len(r.On) > 0, "only on", "%s", strings.Join(r.On, ", "))
	t.fieldIf(len(r.Skip) > 0, "never on", "%s", strings.Join(r.Skip, ", "))
	for _, k := range slices.Sorted(maps.Keys(r.Tags)) {
		t.field("tag", "%s=%s", k, r.Tags[k])
	}
}

func (t *storyText) outputs(story *api.BuildStory) {
	b := &story.Build
	known := make(map[string]string)
	for _, o := range story.Outputs {
		if o.Home {
			known[o.Name] = fmt.Sprintf(", %s, sha256:%s", quantity.Bytes(o.Size), o.Hash)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.OutputPaths)) {
		t.field("output", "%s %s%s", name, b.OutputPaths[name], known[name])
	}
	t.fieldIf(b.OutputSize > 0, "output size", "%s", quantity.Bytes(b.OutputSize))
	t.fieldIf(b.OutputsOn != "", "kept on", "%s, as nobody asked for the outputs here", b.OutputsOn)
	t.fieldIf(b.LogSize > 0, "log", "%s: lighter builds log %s", quantity.Bytes(b.LogSize), b.ID)
	if b.Failure != nil && b.Failure.KeptIn != "" {
		t.field("kept in", "%s on %s", b.Failure.KeptIn, b.Failure.Machine)
	}
}

func (t *storyText) check(b *api.Build) {
	if len(b.Results) == 0 {
		return
	}
	fmt.Fprintf(t, "\n%s\n", strings.Join(ComparisonLines(b), "\n"))
}

// builds writes a list of other builds, of which there may be more than it has.
func (t *storyText) builds(name string, list []api.Build, count int) {
	for i := range list[:min(len(list), maxShownBuilds)] {
		b := &list[i]
		t.field(name, "%s %s, which is %s", ShortID(b.ID), Name(b), b.State)
	}
	if more := max(len(list), count) - min(len(list), maxShownBuilds); more > 0 {
		t.field(name, "and %s more", human.Number(more))
	}
}

// attempts writes the table of attempts, with how long each was in which phase.
func (t *storyText) attempts(story *api.BuildStory) {
	list := Attempts(story.Events)
	if len(list) == 0 {
		return
	}
	table := Table{Heading: []string{"ATTEMPT", "MACHINE", "PLACED", "SENDING", "BUILDING", "FETCHING", "OUTCOME"}}
	for _, a := range list {
		cells := []string{strconv.Itoa(a.Number), a.Machine}
		for _, s := range []api.State{api.Placed, api.Sending, api.Building, api.Fetching} {
			p := a.Phase(s)
			cells = append(cells, human.Known(p != nil, quantity.Duration(p.Length(t.now))))
		}
		table.Add(append(cells, a.Outcome)...)
	}
	t.WriteString("\n")
	_ = table.Write(t, t.width) // a Builder takes everything
}

func (t *storyText) events(story *api.BuildStory) {
	if len(story.Events) > 0 {
		t.WriteString("\n")
	}
	for i := range story.Events {
		t.WriteString(eventLine(&story.Events[i], story.Build.Submitted) + "\n")
	}
}
