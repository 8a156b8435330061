package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/cli/human"
)

// shortID is as much of a build's id as people need.
const shortID = 8

// writeBuilds writes the table of "builds list".
func writeBuilds(inv *invocation, list []api.Build, now time.Time) error {
	t := table{heading: []string{"ID", "STATE", "NAME", "MACHINE", "SUBMITTED", "TOOK", "WHY"}}
	for i := range list {
		b := &list[i]
		id := b.ID
		if len(id) > shortID {
			id = id[:shortID]
		}
		t.add(id, string(b.State), display.Name(b), known(b.Machine != "", b.Machine), human.Ago(b.Submitted, now),
			known(tookTime(b, now) > 0, human.Duration(tookTime(b, now))), buildReason(b))
	}
	return t.write(inv.Out, outputWidth(inv.Out))
}

// tookTime is how long the build has been on a machine, or was.
func tookTime(b *api.Build, now time.Time) time.Duration {
	switch {
	case b.Started == nil:
		return 0
	case b.Stopped != nil:
		return b.Stopped.Sub(*b.Started)
	case b.State.Running():
		return now.Sub(*b.Started)
	}
	return 0
}

func buildReason(b *api.Build) string {
	switch b.State {
	case api.Failed, api.TimedOut:
		return display.FailureText(b)
	case api.Succeeded:
		return ""
	}
	return b.Reason
}

// writeStory writes all that is known of one build: its record, then its events.
func writeStory(w io.Writer, b *api.Build, events []api.Event, now time.Time) error {
	var s strings.Builder
	field := func(name, format string, args ...any) {
		fmt.Fprintf(&s, "%-12s %s\n", name, human.Printable(fmt.Sprintf(format, args...)))
	}
	field("build", "%s", b.ID)
	field("derivation", "%s", b.Derivation)
	field("system", "%s", strings.Join(append([]string{b.System}, b.Features...), ", "))
	field("state", "%s", b.State)
	if reason := buildReason(b); reason != "" {
		field("why", "%s", reason)
	}
	field("submitted", "%s (%s)", b.Submitted.Local().Format(time.DateTime), human.Ago(b.Submitted, now))
	if b.Machine != "" {
		field("machine", "%s, attempt %d", b.Machine, b.Attempt)
	}
	if b.BuildTime > 0 {
		field("built in", "%s", human.Duration(b.BuildTime.Duration()))
	}
	if b.SentBytes+b.FetchBytes > 0 {
		field("traffic", "%s sent, %s fetched", human.Bytes(b.SentBytes), human.Bytes(b.FetchBytes))
	}
	if b.Priority != 0 {
		field("priority", "%d", b.Priority)
	}
	for _, k := range slices.Sorted(maps.Keys(b.Tags)) {
		field("tag", "%s=%s", k, b.Tags[k])
	}
	if b.Parent != "" {
		field("for", "build %s", b.Parent)
	}
	for _, name := range slices.Sorted(maps.Keys(b.OutputPaths)) {
		field("output", "%s %s", name, b.OutputPaths[name])
	}
	if b.LogSize > 0 {
		field("log", "%s: lighter builds log %s", human.Bytes(b.LogSize), b.ID)
	}
	if b.Failure != nil && b.Failure.KeptIn != "" {
		field("kept in", "%s on %s", b.Failure.KeptIn, b.Failure.Machine)
	}
	if len(events) > 0 {
		s.WriteString("\n")
	}
	for i := range events {
		s.WriteString(eventLine(&events[i], b.Submitted) + "\n")
	}
	_, err := io.WriteString(w, s.String())
	return err
}

// eventLine is one line of a build's history; times count from its submission.
func eventLine(ev *api.Event, from time.Time) string {
	return fmt.Sprintf("%9s  %s", "+"+human.Duration(max(0, ev.Time.Sub(from))), eventText(ev))
}

// eventText says what happened, without when and to which build.
func eventText(ev *api.Event) string {
	text := string(ev.State)
	if ev.Machine != "" {
		text += " on " + ev.Machine
	}
	if ev.Attempt > 1 {
		text += fmt.Sprintf(" (attempt %d)", ev.Attempt)
	}
	switch {
	case ev.Failure != nil:
		text += ": " + ev.Failure.Error()
	case ev.Reason != "":
		text += ": " + ev.Reason
	}
	return human.Printable(strings.TrimSpace(text))
}

// writeStatus writes the page of "lighter status".
func writeStatus(inv *invocation, s *api.Status, now time.Time) error {
	w := inv.Out
	fmt.Fprintf(w, "coordinator %s, process %d, started %s\n", human.Printable(s.Version), s.PID, human.Ago(s.Started, now))
	var counts []string
	for _, state := range api.States() {
		if n := s.Counts[state]; n > 0 {
			counts = append(counts, human.Number(n)+" "+string(state))
		}
	}
	if len(counts) == 0 {
		counts = []string{"none yet"}
	}
	fmt.Fprintf(w, "builds: %s\n\n", strings.Join(counts, ", "))
	if err := writeMachineStatus(inv, s.Machines, now); err != nil {
		return err
	}
	if len(s.Running) == 0 && len(s.Transfers) == 0 {
		return nil
	}
	m := display.NewModel(now)
	for i := range s.Running {
		m.Want(&s.Running[i], s.Running[i].Submitted)
	}
	m.SetStatus(&api.Status{Transfers: s.Transfers})
	width := outputWidth(w)
	if width == 0 {
		width = 1 << 12
	}
	lines := m.Lines(now, width, len(s.Running)+len(s.Transfers)+2, inv.style(w))
	fmt.Fprintf(w, "\n%s\n", strings.Join(lines[:len(lines)-1], "\n"))
	return nil
}
