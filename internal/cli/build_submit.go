package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/cli/human"
	"lighter/store"
)

// submit asks for the builds and returns those that the coordinator took. That it
// refused one ends everything, and cancels the others, unless --keep-going. So does an
// interrupt.
func (b *buildAction) submit(ctx context.Context, inv *invocation, client *apiclient.Client, f folders) ([]*api.Build, error) {
	signaled, stop := cancelOnSignal(ctx, inv.Signals)
	defer stop()
	input := &inputReader{inv: inv, folders: f, base: &b.base, onlyJSON: b.jsonInput, supersede: b.supersede != ""}
	requests, err := input.read(signaled)
	if err != nil {
		return nil, err
	}
	if b.base.ID != "" && len(requests) > 1 {
		return nil, usageErrorf("%s: --id is for one derivation, got %d", inv.flags.Name(), len(requests))
	}
	progress := newProgress(inv, b.quiet, len(requests))
	answers, err := submitChunks(signaled, client, requests, progress.show)
	progress.close()
	builds, refused := b.sort(inv, requests, answers)
	if refused == nil {
		refused = err
	}
	if refused != nil && (err == nil || errors.Is(err, errInterrupted)) {
		// Builds that stay although their submission broke off can be submitted again.
		return nil, errors.Join(refused, cancelBuilds(ctx, client, builds))
	}
	if refused != nil {
		return nil, refused
	}
	if b.supersede == "" {
		return builds, nil
	}
	if b.refused > 0 {
		fmt.Fprintln(inv.Err, "lighter: nothing is superseded, since not all was taken")
		return builds, nil
	}
	return builds, b.cancelSuperseded(signaled, inv, client, answers)
}

// sort returns the builds that are to be waited for, and why the first request was
// refused, if one was and that ends everything.
func (b *buildAction) sort(inv *invocation, requests []api.Request, answers []api.Submitted) (builds []*api.Build, refused error) {
	skipped := 0
	for i := range answers {
		a := &answers[i]
		switch {
		case a.Skipped != "":
			if skipped++; skipped <= maxSkippedLines && !b.quiet {
				fmt.Fprintln(inv.Err, skippedLine(requests[i].Derivation, a))
			}
		case a.Build != nil:
			builds = append(builds, a.Build)
		default:
			err := fmt.Errorf("%s: %w", requests[i].Derivation, &api.Error{Code: a.Code, Message: a.Error})
			if b.keepGoing && len(requests) > 1 {
				b.refused++
				fmt.Fprintf(inv.Err, "lighter: %s\n", errorText(err))
			} else if refused == nil {
				refused = err
			}
		}
	}
	if more := skipped - maxSkippedLines; more > 0 && !b.quiet {
		fmt.Fprintf(inv.Err, "skipped   %s more\n", human.Number(more))
	}
	return builds, refused
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

// submitChunks submits requests in pieces of api.MaxSubmit, each of which is durable
// before the next one goes, and returns what became of each request that was sent. It
// gives each request an id, so that a piece can be sent again after the coordinator went
// away: what it has already stays as it is.
func submitChunks(ctx context.Context, client *apiclient.Client, requests []api.Request, progress func(done int)) ([]api.Submitted, error) {
	var answers []api.Submitted
	for i := range requests {
		if requests[i].ID == "" {
			requests[i].ID = uuid.NewString()
		}
	}
	for len(answers) < len(requests) {
		progress(len(answers))
		part := requests[len(answers):min(len(answers)+api.MaxSubmit, len(requests))]
		if ctx.Err() != nil {
			return answers, context.Cause(ctx)
		}
		// An interrupt does not break a piece off, so that it is known what to cancel.
		got, err := submitChunk(context.WithoutCancel(ctx), client, part)
		if err != nil && len(requests) > len(part) {
			err = fmt.Errorf("after %s of %s requests: %w", human.Number(len(answers)), human.Number(len(requests)), err)
		}
		if err != nil {
			return answers, err
		}
		answers = append(answers, got...)
	}
	progress(len(answers))
	return answers, nil
}

// submitChunk submits one piece; a coordinator that goes away meanwhile has
// coordinatorGrace to come back.
func submitChunk(ctx context.Context, client *apiclient.Client, part []api.Request) ([]api.Submitted, error) {
	const firstDelay, lastDelay = 100 * time.Millisecond, 2 * time.Second
	started := time.Now()
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		answers, err := client.SubmitAll(ctx, part)
		var refused *api.Error
		if err == nil || errors.As(err, &refused) && !errors.Is(err, api.ErrUnavailable) || time.Since(started) > coordinatorGrace {
			return answers, err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
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
func (b *buildAction) cancelSuperseded(ctx context.Context, inv *invocation, client *apiclient.Client, answers []api.Submitted) error {
	kept := make(map[string]bool)
	for i := range answers {
		if answers[i].Build != nil {
			kept[answers[i].Build.ID] = true
		}
	}
	filter := &api.Filter{States: openStates(), Tags: map[string]string{b.supersede: b.base.Tags[b.supersede]}}
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
	_, err := eachPage(ctx, client, filter, 0, func(page []api.Build) error {
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

// progress says how far a long submission is, on one line of a terminal or on one line a
// piece elsewhere.
type progress struct {
	total  int
	w      io.Writer // nil shows nothing
	screen *display.Screen
}

func newProgress(inv *invocation, quiet bool, total int) *progress {
	p := &progress{total: total}
	if quiet || total <= api.MaxSubmit {
		return p
	}
	p.w = inv.Err
	if t := inv.canDraw(inv.Err); t != nil {
		p.screen = display.NewScreen(t, func() (int, int) { return terminalSize(t) })
	}
	return p
}

func (p *progress) show(done int) {
	if p.w == nil {
		return
	}
	line := fmt.Sprintf("submitted %s of %s", human.Number(done), human.Number(p.total))
	if p.screen != nil {
		_ = p.screen.Draw(nil, []string{line}) // a terminal that is gone has no use for an error
	} else if done > 0 {
		fmt.Fprintln(p.w, line)
	}
}

func (p *progress) close() {
	if p.screen != nil {
		_ = p.screen.Close(nil)
	}
}
