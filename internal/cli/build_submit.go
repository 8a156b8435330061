package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/submission"
	"lighter/store"
)

// submissionAnswers are what the coordinator said to the requests of one run of "lighter build".
type submissionAnswers struct {
	builds  []*api.Build    // to be waited for
	kept    map[string]bool // ids of these, and of builds because of which requests were skipped
	skipped int
	refused error // the first refusal, if that ends everything
}

// submit asks for the builds and returns those that the coordinator took. That it
// refused one ends everything, and cancels the others, unless --keep-going. So does an
// interrupt.
func (b *buildAction) submit(ctx context.Context, inv *command.Invocation, client *apiclient.Client, f head.Folders) (_ []*api.Build, err error) {
	signaled, stop := inv.CancelOnSignal(ctx)
	defer stop()
	finder := &derivationFinder{folders: f, onlyJSON: b.jsonInput}
	defer func() { err = errors.Join(err, finder.close()) }()
	got := &submissionAnswers{kept: make(map[string]bool)}
	progress := &progress{show: b.live(inv)}
	reader := &submission.Reader{Base: b.base, Submission: b.submission, Supersede: b.supersede, Derivation: finder.find}
	submitter := &submission.Submitter{
		Client: client, Patience: base.CoordinatorGrace,
		Each: func(r *api.Request, a *api.Submitted) error {
			progress.add()
			return b.answered(inv, got, r, a)
		},
		Waiting: func(error) { progress.say("the coordinator went away; waiting for it to come back") },
	}
	count, err := submitter.Run(signaled, reader.All(signaled, inv.Args, inv.In))
	progress.show.Close()
	if more := got.skipped - maxSkippedLines; more > 0 && !b.quiet {
		fmt.Fprintf(inv.Err, "skipped   %s more\n", human.Number(more))
	}
	switch {
	case got.refused != nil, errors.Is(err, command.ErrInterrupted):
		var ids []string
		for _, one := range got.builds {
			ids = append(ids, one.ID)
		}
		_, failed := submission.Cancel(ctx, client, ids, "")
		return nil, errors.Join(err, failed)
	case err != nil && count.Sum() > 0:
		// These go on: who submits again can name the submission, or skip them.
		return nil, fmt.Errorf("after %s: %w", count, err)
	case err != nil:
		return nil, err
	case count.Sum() == 0:
		return nil, inv.UsageErrorf("standard input names no derivation")
	case b.supersede != "":
		err = b.cancelSuperseded(signaled, inv, client, got.kept)
	}
	return got.builds, err
}

// answered takes the answer to one request. Its error is a refusal that ends everything.
func (b *buildAction) answered(inv *command.Invocation, got *submissionAnswers, r *api.Request, a *api.Submitted) error {
	if a.Build != nil {
		got.kept[a.Build.ID] = true
	}
	switch {
	case a.Skipped != "":
		if got.skipped++; got.skipped <= maxSkippedLines && !b.quiet {
			fmt.Fprintln(inv.Err, skippedLine(r.Derivation, a))
		}
	case a.Build != nil:
		got.builds = append(got.builds, a.Build)
	default:
		err := fmt.Errorf("%s: %w", r.Derivation, &api.Error{Code: a.Code, Message: a.Error})
		if !b.keepGoing {
			if got.refused == nil {
				got.refused = err
			}
			return err
		}
		b.refused++
		fmt.Fprintf(inv.Err, "lighter: %s\n", command.ErrorText(err))
	}
	return nil
}

// cancelSuperseded cancels the unfinished builds that this submission supersedes. Those
// that it was told are there already stay.
func (b *buildAction) cancelSuperseded(ctx context.Context, inv *command.Invocation, client *apiclient.Client, kept map[string]bool) error {
	if b.refused > 0 {
		fmt.Fprintln(inv.Err, "lighter: nothing is superseded, since some requests were refused")
		return nil
	}
	n, err := submission.CancelSuperseded(ctx, client, b.supersede, b.base.Tags, kept)
	if n > 0 && !b.quiet {
		fmt.Fprintf(inv.Err, "canceled  %s that this supersedes\n", human.Count(n, "build"))
	}
	return err
}

// maxSkippedLines bounds how many skipped requests are named.
const maxSkippedLines = 20

func skippedLine(drv store.Path, a *api.Submitted) string {
	line := "skipped   " + human.Printable(api.DerivationName(drv)) + ": " + human.Printable(a.Skipped)
	if a.Build != nil {
		line += " (build " + human.Printable(display.ShortID(a.Build.ID)) + ")"
	}
	return line
}

// progress says how far a long submission is, on one line of a terminal, or on a line now
// and then elsewhere.
type progress struct {
	show  *display.Live
	done  int
	shown time.Time
}

// shortSubmission is how many requests are submitted without a word.
const shortSubmission = 1000

// add counts one request.
func (p *progress) add() {
	p.done++
	text := "submitted " + human.Number(p.done)
	switch {
	case p.done <= shortSubmission:
	case p.show.Drawn() && time.Since(p.shown) > display.FrameInterval:
		p.shown = time.Now()
		p.show.Frame(func(int, int) []string { return []string{text} })
	case !p.show.Drawn() && p.done%api.MaxSubmit == 0:
		p.show.Lines(text)
	}
}

// say writes a line that stays.
func (p *progress) say(text string) {
	p.show.Lines(text)
	p.show.Frame(func(int, int) []string { return nil })
}
