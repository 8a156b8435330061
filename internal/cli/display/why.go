package display

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// Why returns lines that say where a build stands, and why: what it waits for, whose turn it is, what
// each machine says. lastLine is the end of its log, as LogTail has it; it may be empty.
func Why(why *api.Why, lastLine []string, now time.Time) []string {
	var lines []string
	add := func(format string, args ...any) {
		lines = append(lines, human.Printable(fmt.Sprintf(format, args...)))
	}
	add("%s %s", Name(&why.Build), whySentence(why, now))
	lines = append(lines, lastLine...)
	if e := why.ExpectedStart; e != nil {
		add("  to begin %s", Expected(e, now))
	}
	if e := why.Build.ExpectedEnd; e != nil {
		add("  to be done %s", ExpectedWithWhy(e, now))
	}
	if why.MemoryReason != "" && !why.Build.State.Final() {
		add("  memory: %s", why.MemoryReason)
	}
	for _, name := range slices.Sorted(maps.Keys(why.Tokens)) {
		add("  tokens: %d %s", why.Tokens[name], name)
	}
	for i := range why.WaitsFor {
		b := &why.WaitsFor[i]
		add("  waits for %s %s, which is %s", ShortID(b.ID), Name(b), b.State)
	}
	for i := range why.Ahead {
		b := &why.Ahead[i]
		add("  comes after %s %s", ShortID(b.ID), Name(b))
	}
	if more := why.Place - 1 - len(why.Ahead); why.Place > 0 && more > 0 {
		add("  and after %s more", human.Number(more))
	}
	for _, line := range turnLines(why) {
		add("  %s", line)
	}
	for i := range why.Machines {
		add("  %s", why.Machines[i].String())
	}
	for i := range why.Attempts {
		add("  tried before: %s", why.Attempts[i].Error())
	}
	return lines
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
		text := fmt.Sprintf("%s: used %s of slot time, of which %s (%s) are due to it", who, quantity.Elapsed(s.Used.Duration()), quantity.Elapsed(s.Due.Duration()), Part(s))
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
		return "was not built" + when + ": it " + FailureText(b)
	case b.State == api.Canceled:
		return "was canceled" + when + ": " + Reason(b)
	}
	text := "failed" + on + when + ": " + FailureText(b)
	if b.Dependents > 0 {
		text += " (" + NeededBy(b.Dependents) + ")"
	}
	return text
}
