package display

import (
	"fmt"
	"regexp"
	"strings"

	"lighter/internal/api"
	"lighter/internal/human"
)

// FailureText returns one line that says why a build failed, without what its log ends with. Store
// items go by their names in it: at the start of a line their paths hide all else.
func FailureText(b *api.Build) string {
	f := b.Failure
	switch {
	case f == nil && b.Reason != "":
		return headline(b.Reason)
	case f == nil:
		return "the reason is not known"
	case f.OfDependency() && f.Input != "":
		return "needs " + human.Printable(api.DerivationName(f.Input)) + ", which failed"
	case f.Culprit == api.CulpritDerivation || f.Kind == api.KindUnable || f.Message == "":
		return headline(f.Message)
	}
	return fmt.Sprintf("the %s failed while %s: %s", human.Printable(string(f.Culprit)), human.Printable(string(f.Phase)), headline(f.Message))
}

// lastLines comes before what a builder wrote last, in the message of its failure.
const lastLines = "; its last lines were:"

var (
	storeFolder  = regexp.MustCompile(`(/[A-Za-z0-9._+-]+)+/[0-9abcdfghijklmnpqrsvwxyz]{32}-`)
	aboutBuild   = regexp.MustCompile("^(build [^ :]+: )+")
	aboutBuilder = regexp.MustCompile("^builder for `[^']*' ")
)

// headline is a message in one line, as FailureText has it.
func headline(message string) string {
	message, _, _ = strings.Cut(message, lastLines)
	message = storeFolder.ReplaceAllString(message, "")
	message = aboutBuild.ReplaceAllString(message, "")
	return human.Line(aboutBuilder.ReplaceAllString(message, "the builder "))
}

// Reason returns one line that says why a build is in its state, or "", as short as a column
// wants it: with the last line of the log where that is known.
func Reason(b *api.Build) string {
	switch {
	case b.State == api.Succeeded:
		return ""
	case !b.State.FailedItself() && b.State != api.DependencyFailed:
		return headline(b.Reason)
	}
	text := strings.TrimPrefix(FailureText(b), "the builder failed with ")
	text = strings.Replace(text, "the builder failed to produce the output path ", "no output ", 1)
	if b.Failure == nil {
		return text
	}
	if _, lines, ok := strings.Cut(b.Failure.Message, lastLines); ok {
		// A line for people may have them in one.
		all := strings.Split(strings.ReplaceAll(strings.TrimSpace(lines), " | ", "\n"), "\n")
		text += ": " + human.Line(all[len(all)-1])
	}
	return text
}
