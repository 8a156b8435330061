package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// writeWhy shows where a build stands.
func writeWhy(ctx context.Context, inv *command.Invocation, client *apiclient.Client, why *api.Why) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s\n", human.Printable(display.Name(&why.Build)), human.Printable(whySentence(why, time.Now())))
	if why.Build.State == api.Building {
		// Without an answer it is left out: the log may not have begun.
		if log, err := client.LogTail(ctx, why.Build.ID, lastLineBytes); err == nil {
			for _, line := range display.LogTail(log, 1) {
				s.WriteString(line + "\n")
			}
		}
	}
	if e := why.ExpectedStart; e != nil {
		fmt.Fprintf(&s, "  to begin %s\n", display.Expected(e, time.Now()))
	}
	if e := why.Build.ExpectedEnd; e != nil {
		fmt.Fprintf(&s, "  to be done %s\n", human.Printable(display.ExpectedWithWhy(e, time.Now())))
	}
	if why.MemoryReason != "" && !why.Build.State.Final() {
		fmt.Fprintf(&s, "  memory: %s\n", human.Printable(why.MemoryReason))
	}
	for _, name := range slices.Sorted(maps.Keys(why.Tokens)) {
		fmt.Fprintf(&s, "  tokens: %s\n", human.Printable(fmt.Sprintf("%d %s", why.Tokens[name], name)))
	}
	for i := range why.WaitsFor {
		b := &why.WaitsFor[i]
		fmt.Fprintf(&s, "  waits for %s %s, which is %s\n", display.ShortID(b.ID), human.Printable(display.Name(b)), b.State)
	}
	for i := range why.Ahead {
		b := &why.Ahead[i]
		fmt.Fprintf(&s, "  comes after %s %s\n", display.ShortID(b.ID), human.Printable(display.Name(b)))
	}
	if more := why.Place - 1 - len(why.Ahead); why.Place > 0 && more > 0 {
		fmt.Fprintf(&s, "  and after %s more\n", human.Number(more))
	}
	for _, line := range turnLines(why) {
		fmt.Fprintf(&s, "  %s\n", human.Printable(line))
	}
	for i := range why.Machines {
		fmt.Fprintf(&s, "  %s\n", human.Printable(why.Machines[i].String()))
	}
	for i := range why.Attempts {
		fmt.Fprintf(&s, "  tried before: %s\n", human.Printable(why.Attempts[i].Error()))
	}
	_, err := inv.Out.Write([]byte(s.String()))
	return err
}

// maxTurns is how many of those who ask are shown besides the one for whom the build is.
const maxTurns = 5

// turnLines says whose turn it is, and what those who want machines have used.
func turnLines(why *api.Why) (lines []string) {
	more := 0
	for i := range why.Shares {
		s := &why.Shares[i]
		who := s.Name
		switch own := s.Name == why.Build.Share; {
		case i >= maxTurns && !own:
			more++
			continue
		case i == 0:
			who = "it is the turn of " + who
		}
		if s.Name == why.Build.Share {
			who += ", for whom this is"
		}
		text := fmt.Sprintf("%s: used %s of slot time, of which %s (%s) are due to it", who, quantity.Elapsed(s.Used.Duration()), quantity.Elapsed(s.Due.Duration()), display.Part(s))
		if s.Before > 0 {
			text += "; " + human.Number(s.Before) + " of its builds come first"
		}
		lines = append(lines, text)
	}
	if more > 0 {
		lines = append(lines, human.Number(more)+" more want machines")
	}
	return lines
}

// lastLineBytes is how much of a log's end is read for its last line.
const lastLineBytes = 4 << 10

// whySentence says where a build stands, after its name.
func whySentence(why *api.Why, now time.Time) string {
	b := &why.Build
	on := ""
	if b.Machine != "" {
		on = " on " + b.Machine
	}
	reason := why.Summary
	if reason != "" {
		reason = ": " + reason
	}
	switch {
	case b.State.Final():
		return endSentence(b, on, now)
	case b.State == api.Building && b.Started != nil:
		text := fmt.Sprintf("is building%s for %s", on, quantity.Elapsed(now.Sub(*b.Started)))
		if why.Expected > 0 {
			text += ", and usually takes " + quantity.Elapsed(why.Expected.Duration())
		}
		return text + reason
	case why.Place > 0:
		return fmt.Sprintf("is %s, at place %s of the queue%s", b.State, human.Number(why.Place), reason)
	case b.State.Running():
		return fmt.Sprintf("is %s%s%s", b.State, on, reason)
	}
	return fmt.Sprintf("is %s%s", b.State, reason)
}

// endSentence says how a build ended.
func endSentence(b *api.Build, on string, now time.Time) string {
	when := ""
	if b.Stopped != nil {
		when = " " + human.Ago(*b.Stopped, now)
	}
	switch {
	case b.State == api.Succeeded && b.Attempt == 0:
		return "was there already" + when
	case b.State == api.Succeeded && b.BuildTime > 0:
		return "was built" + on + when + ", in " + quantity.Duration(b.BuildTime.Duration())
	case b.State == api.Succeeded:
		return "was built" + on + when
	case b.State == api.DependencyFailed:
		return "was not built" + when + ": it " + display.FailureText(b)
	case b.State == api.Canceled:
		return "was canceled" + when + ": " + display.Reason(b)
	}
	text := "failed" + on + when + ": " + display.FailureText(b)
	if b.Dependents > 0 {
		text += " (" + display.NeededBy(b.Dependents) + ")"
	}
	return text
}
