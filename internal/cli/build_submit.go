package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/store"
)

// submission is what became of the requests of one run of "lighter build".
type submission struct {
	client  submitClient
	builds  []*api.Build    // to be waited for
	kept    map[string]bool // ids of these, and of builds for whose sake requests were skipped
	skipped int
	refused error // the first refusal, if that ends everything
}

// SubmitAll submits one portion. An interrupt does not break it off, so that it is known
// what there is to cancel; no other portion follows after one, nor after a refusal.
func (s *submission) SubmitAll(ctx context.Context, requests []api.Request) ([]api.Submitted, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if s.refused != nil {
		return nil, s.refused
	}
	return s.client.SubmitAll(context.WithoutCancel(ctx), requests)
}

// submit asks for the builds and returns those that the coordinator took. That it
// refused one ends everything, and cancels the others, unless --keep-going. So does an
// interrupt.
func (b *buildAction) submit(ctx context.Context, inv *invocation, client *apiclient.Client, f folders) (_ []*api.Build, err error) {
	signaled, stop := cancelOnSignal(ctx, inv.Signals)
	defer stop()
	finder := &derivationFinder{folders: f, onlyJSON: b.jsonInput}
	s := &submission{client: client, kept: make(map[string]bool)}
	progress := newProgress(inv, b.quiet)
	reader := &requestReader{base: b.base, submission: b.submission, derivation: finder.find}
	submitter := &submitter{
		client: s, patience: coordinatorGrace,
		each: func(r *api.Request, a *api.Submitted) error {
			b.answered(inv, s, r, a)
			progress.add()
			return nil
		},
		waiting: func(error) { progress.say("the coordinator went away; waiting for it to come back") },
	}
	count, err := submitter.run(signaled, b.checked(reader.all(signaled, inv.args, inv.In)))
	progress.close()
	if more := s.skipped - maxSkippedLines; more > 0 && !b.quiet {
		fmt.Fprintf(inv.Err, "skipped   %s more\n", human.Number(more))
	}
	if s.refused != nil {
		err = s.refused
	}
	switch {
	case s.refused != nil, errors.Is(err, errInterrupted):
		return nil, errors.Join(err, cancelBuilds(ctx, client, s.builds), finder.close())
	case err != nil && count.Sum() > 0:
		// These go on: who submits again can name the submission, or skip them.
		err = fmt.Errorf("after %s: %w", count, err)
		fallthrough
	case err != nil:
		return nil, errors.Join(err, finder.close())
	}
	if err := finder.close(); err != nil {
		return nil, err
	}
	if b.supersede != "" {
		err = b.cancelSuperseded(signaled, inv, client, s.kept)
	}
	return s.builds, err
}

// answered takes the answer to one request.
func (b *buildAction) answered(inv *invocation, s *submission, r *api.Request, a *api.Submitted) {
	if a.Build != nil {
		s.kept[a.Build.ID] = true
	}
	switch {
	case a.Skipped != "":
		if s.skipped++; s.skipped <= maxSkippedLines && !b.quiet {
			fmt.Fprintln(inv.Err, skippedLine(r.Derivation, a))
		}
	case a.Build != nil:
		s.builds = append(s.builds, a.Build)
	default:
		err := fmt.Errorf("%s: %w", r.Derivation, &api.Error{Code: a.Code, Message: a.Error})
		if b.keepGoing {
			b.refused++
			fmt.Fprintf(inv.Err, "lighter: %s\n", errorText(err))
		} else if s.refused == nil {
			s.refused = err
		}
	}
}

// maxSkippedLines bounds how many skipped requests are named.
const maxSkippedLines = 20

func skippedLine(drv store.Path, a *api.Submitted) string {
	line := "skipped   " + human.Printable(api.DerivationName(drv)) + ": " + human.Printable(a.Skipped)
	if a.Build != nil {
		line += " (build " + human.Printable(short(a.Build.ID)) + ")"
	}
	return line
}

// cancelBuilds cancels builds, in pieces.
func cancelBuilds(ctx context.Context, client *apiclient.Client, builds []*api.Build) error {
	var ids []string
	for _, b := range builds {
		ids = append(ids, b.ID)
	}
	_, err := cancelIDs(ctx, client, ids, "")
	return err
}

func cancelIDs(ctx context.Context, client *apiclient.Client, ids []string, reason string) (canceled int, err error) {
	for len(ids) > 0 {
		n := min(len(ids), api.MaxSubmit)
		done, err := client.CancelAll(ctx, &api.Selection{IDs: ids[:n], Reason: reason})
		if err != nil {
			return canceled, fmt.Errorf("cancel builds: %w", err)
		}
		canceled += done.Count
		ids = ids[n:]
	}
	return canceled, nil
}

// cancelSuperseded cancels the unfinished builds that have this submission's value of
// the tag that supersedes, and not all of its other tags. Builds that this submission was
// told are there already stay.
func (b *buildAction) cancelSuperseded(ctx context.Context, inv *invocation, client *apiclient.Client, kept map[string]bool) error {
	if b.refused > 0 {
		fmt.Fprintln(inv.Err, "lighter: nothing is superseded, since not all was taken")
		return nil
	}
	filter := &api.Filter{States: api.OpenStates(), Tags: map[string]string{b.supersede: b.base.Tags[b.supersede]}}
	var others []string
	for k := range b.base.Tags {
		if k != b.supersede {
			others = append(others, k)
		}
	}
	if len(others) == 1 { // more would spare builds that have only some of them
		filter.NotTags = map[string]string{others[0]: b.base.Tags[others[0]]}
	}
	var ids []string
	_, err := client.EachPage(ctx, filter, 0, func(page []api.Build) error {
		for i := range page {
			// A build that was made for another goes with it.
			if old := &page[i]; old.Parent == "" && !kept[old.ID] && !hasTags(old, b.base.Tags) {
				ids = append(ids, old.ID)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for superseded builds: %w", err)
	}
	n, err := cancelIDs(ctx, client, ids, fmt.Sprintf("superseded in %s=%s", b.supersede, b.base.Tags[b.supersede]))
	if n > 0 && !b.quiet {
		fmt.Fprintf(inv.Err, "canceled  %s that this supersedes\n", human.Count(n, "build"))
	}
	return err
}

// hasTags reports whether a build has all of these tags.
func hasTags(b *api.Build, tags map[string]string) bool {
	for k, v := range tags {
		if found, ok := b.Tags[k]; !ok || found != v {
			return false
		}
	}
	return true
}

// progress says how far a long submission is, on one line of a terminal, or on a line now
// and then elsewhere.
type progress struct {
	w      io.Writer
	quiet  bool
	screen *display.Screen // nil where it can't be drawn on
	done   int
	shown  time.Time
}

func newProgress(inv *invocation, quiet bool) *progress {
	p := &progress{w: inv.Err, quiet: quiet}
	if t := inv.canDraw(inv.Err); t != nil && !quiet {
		p.screen = display.NewScreen(t, func() (int, int) { return terminalSize(t) })
	}
	return p
}

// shortSubmission is how many requests are submitted without a word.
const shortSubmission = 1000

// add counts one request.
func (p *progress) add() {
	p.done++
	switch {
	case p.quiet || p.done <= shortSubmission:
	case p.screen != nil && time.Since(p.shown) > frameInterval:
		p.shown = time.Now()
		// A terminal that is gone has no use for an error.
		_ = p.screen.Draw(nil, []string{"submitted " + human.Number(p.done)})
	case p.screen == nil && p.done%api.MaxSubmit == 0:
		fmt.Fprintln(p.w, "submitted", human.Number(p.done))
	}
}

// say writes a line that stays.
func (p *progress) say(text string) {
	switch {
	case p.quiet:
	case p.screen != nil:
		_ = p.screen.Draw([]string{text}, nil)
	default:
		fmt.Fprintln(p.w, text)
	}
}

func (p *progress) close() {
	if p.screen != nil {
		_ = p.screen.Close(nil)
	}
}
