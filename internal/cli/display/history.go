package display

import (
	"fmt"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/quantity"
)

// ShortID returns as much of a build's id as people need.
func ShortID(id string) string { return id[:min(8, len(id))] }

// Took is how long the build has been on a machine, or was.
func Took(b *api.Build, now time.Time) time.Duration {
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

// eventLine is one line of a build's history; times count from its submission.
func eventLine(ev *api.Event, from time.Time) string {
	return fmt.Sprintf("%9s  %s", "+"+quantity.Duration(max(0, ev.Time.Sub(from))), EventText(ev))
}

// EventText says what happened, without when and to which build.
func EventText(ev *api.Event) string {
	text := string(ev.State)
	if ev.Kind != "" && ev.Kind != api.KindSubmitted {
		text = strings.TrimSpace(string(ev.Kind) + " " + text)
	}
	if ev.Machine != "" {
		text += " on " + ev.Machine
	}
	if ev.Attempt > 1 {
		text += fmt.Sprintf(" (attempt %d)", ev.Attempt)
	}
	switch {
	case ev.Failure != nil && !ev.State.Running(): // else it is that of an attempt before
		text += ": " + FailureText(&api.Build{Failure: ev.Failure})
	case ev.Reason != "":
		text += ": " + headline(ev.Reason)
	}
	return human.Line(text)
}
