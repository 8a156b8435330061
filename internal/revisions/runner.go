// Package revisions has the packages of new revisions of Guix built: a [Runner] asks a data
// service for the revisions of branches and their derivations, submits those of the revisions
// that are new, tries again what could not be done, and gives up what never can. Which
// revisions are done is in a file, see [Commits].
package revisions

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/backoff"
	"lighter/internal/dataservice"
	"lighter/internal/human"
	"lighter/internal/submission"
	"lighter/store"
)

// Platform is what a package is built on, and for which target it is cross-built, if any.
type Platform struct{ System, Target string }

func (p Platform) String() string {
	if p.Target == "" {
		return p.System
	}
	return p.System + " for " + p.Target
}

// Service is what of a data service a Runner needs; a dataservice.Client has it.
type Service interface {
	Revisions(ctx context.Context, repository int, branch string, limit int) ([]dataservice.Revision, error)
	Derivations(ctx context.Context, commit, system, target string) iter.Seq2[[]dataservice.Derivation, error]
}

// Coordinator is what of the coordinator's client it needs.
type Coordinator interface {
	submission.Client
	CancelAll(ctx context.Context, s *api.Selection) (*api.Selected, error)
	Machines(ctx context.Context) ([]api.MachineStatus, error)
}

// Tags are those that builds get without being asked for; "target" only cross-builds.
var Tags = []string{"branch", "commit", "system", "target"}

// Runner brings revisions from a data service to a coordinator. It is used by one goroutine.
type Runner struct {
	Service     Service
	Coordinator Coordinator
	Commits     *Commits // that are done
	Log         *slog.Logger

	Repository int         // by its number at the service
	Branches   []string    // by name
	Platforms  []Platform  // none are the systems of the coordinator's machines
	Newest     int         // how many revisions of a branch are looked at
	Base       api.Request // what holds for all builds
	LatestOnly bool        // of what is not done, take the newest revision alone
	// Supersede cancels the unfinished builds of a branch's older revisions, and implies
	// LatestOnly and that no build is made where the outputs are there.
	Supersede bool
	Patience  time.Duration                // with a coordinator that is away
	Print     func(dataservice.Derivation) // where it is not nil, nothing is submitted

	vain map[string]int // rounds in which a commit was tried and not done
}

// Run makes a round at each interval until the context ends, whose cause it returns. What
// could not be done is logged, and tried in the next round.
func (q *Runner) Run(ctx context.Context, interval time.Duration) error {
	for {
		if err := q.Round(ctx); err != nil && ctx.Err() == nil {
			q.Log.Error("not everything was done; it is tried again", "err", err, "in", interval)
		}
		if err := backoff.Wait(ctx, interval); err != nil {
			return err
		}
	}
}

// maxVain is in how many rounds a revision is tried that can't be done: that service or
// coordinator are away doesn't count.
const maxVain = 5

// Round does all revisions that are new. What can't be done is in the error; the rest is
// done all the same.
func (q *Runner) Round(ctx context.Context) error {
	if q.vain == nil {
		q.vain = make(map[string]int)
	}
	platforms, err := q.wanted(ctx)
	if err != nil {
		return err
	}
	var all []error
	for _, branch := range q.Branches {
		err := q.branch(ctx, branch, platforms)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		all = append(all, err)
		if err != nil && isAway(err) {
			break
		}
	}
	return errors.Join(all...)
}

// awayError is that the coordinator did not come back.
type awayError struct{ error }

func (e awayError) Unwrap() error { return e.error }

func isAway(err error) bool { return errors.As(err, new(awayError)) }

// orAway makes an awayError of an error that says so.
func orAway(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && apiclient.Away(err) {
		return awayError{err}
	}
	return err
}

// patiently calls the coordinator, and waits for one that is away.
func (q *Runner) patiently(ctx context.Context, do func() error) error {
	return orAway(ctx, apiclient.WhileAway(ctx, q.Patience, q.saysItWaits, do))
}

func (q *Runner) saysItWaits(err error) {
	q.Log.Warn("the coordinator is away; waiting for it", "err", err, "atMost", q.Patience)
}

// wanted returns what to build for.
func (q *Runner) wanted(ctx context.Context) ([]Platform, error) {
	if len(q.Platforms) > 0 {
		return q.Platforms, nil
	}
	var list []api.MachineStatus
	err := q.patiently(ctx, func() (err error) {
		list, err = q.Coordinator.Machines(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	var all []Platform
	for i := range list {
		for _, s := range list[i].Systems {
			if p := (Platform{System: s}); !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the coordinator has no machines, so what to build for must be said: --system")
	}
	return all, nil
}

// branch does the new revisions of one branch, the oldest first.
func (q *Runner) branch(ctx context.Context, branch string, platforms []Platform) error {
	list, err := q.Service.Revisions(ctx, q.Repository, branch, q.Newest)
	if err != nil {
		return fmt.Errorf("branch %s: %w", branch, err)
	}
	if len(list) == 0 {
		q.Log.Warn("the data service knows no revisions of the branch; is its name right?", "branch", branch, "repository", q.Repository)
	}
	var all []error
	for _, r := range q.pending(list) {
		if q.vain[r.Commit] >= maxVain {
			continue
		}
		err := q.revision(ctx, branch, r, platforms)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		all = append(all, fmt.Errorf("branch %s, revision %s: %w", branch, r.Commit, err))
		if isAway(err) || serviceIsAway(err) {
			break // so it would be for the others
		}
		if q.vain[r.Commit]++; q.vain[r.Commit] == maxVain {
			q.Log.Error("a revision is given up until the next start", "branch", branch, "commit", r.Commit, "tries", maxVain, "err", err)
		}
	}
	return errors.Join(all...)
}

// serviceIsAway reports whether the data service did not answer, or with an error of its own.
func serviceIsAway(err error) bool {
	var e *dataservice.Error
	return errors.As(err, &e) && (e.Status == 0 || e.Status >= 500 || e.Status == http.StatusTooManyRequests)
}

// pending returns what there is to do of a branch's revisions, the oldest first.
func (q *Runner) pending(newestFirst []dataservice.Revision) []dataservice.Revision {
	var all []dataservice.Revision
	for _, r := range newestFirst {
		if !r.Available {
			continue
		}
		if !q.Commits.has(r.Commit) {
			all = append(all, r)
		}
		if q.LatestOnly || q.Supersede {
			break
		}
	}
	slices.Reverse(all)
	return all
}

// errNoDerivations is that a revision has nothing to build.
var errNoDerivations = errors.New("the data service has no package derivations of it")

// revision does one revision: all its derivations are acknowledged when it returns nil.
func (q *Runner) revision(ctx context.Context, branch string, r dataservice.Revision, platforms []Platform) error {
	log := q.Log.With("branch", branch, "commit", r.Commit)
	log.Info("revision", "date", human.Printable(r.Date))
	one := &revision{q: q, log: log, branch: branch, commit: r.Commit, seen: make(map[store.Path]bool)}
	for _, p := range platforms {
		if err := one.platform(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	switch {
	case len(one.seen) == 0:
		return fmt.Errorf("%w for %v", errNoDerivations, platforms)
	case q.Print != nil:
		return nil
	case one.refused != nil:
		return fmt.Errorf("%d of %d derivations were refused, the first: %w", one.count.Refused, one.count.Sum(), one.refused)
	}
	if q.Supersede {
		if err := one.supersedeOlder(ctx, platforms); err != nil {
			return err
		}
	}
	if err := q.Commits.add(r.Commit); err != nil {
		return err
	}
	log.Info("revision is done", "builds", one.count.String())
	return nil
}

// revision is a revision on its way.
type revision struct {
	q              *Runner
	log            *slog.Logger
	branch, commit string
	seen           map[store.Path]bool
	count          submission.Count
	refused        error // the first
	warned         int   // lines in the log about refusals
}

// platform submits the derivations for one platform, a page at a time.
func (o *revision) platform(ctx context.Context, p Platform) error {
	tags := o.q.tagsFor(o.branch, o.commit, p)
	before, count := len(o.seen), o.count
	for page, err := range o.q.Service.Derivations(ctx, o.commit, p.System, p.Target) {
		if err != nil {
			return err
		}
		for part := range slices.Chunk(o.requests(page, tags), api.MaxSubmit) {
			if err := o.submit(ctx, part); err != nil {
				return err
			}
		}
		o.log.Debug("page", "platform", p.String(), "derivations", len(page), "sofar", len(o.seen)-before)
	}
	n := len(o.seen) - before
	if n == 0 {
		o.log.Warn("the data service has no package derivations", "platform", p.String())
		return nil
	}
	o.log.Info("platform is done", "platform", p.String(), "derivations", n, "builds", o.count.Minus(count).String())
	return nil
}

// requests makes a request of each derivation that was not there before.
func (o *revision) requests(page []dataservice.Derivation, tags map[string]string) []api.Request {
	requests := make([]api.Request, 0, len(page))
	for _, d := range page {
		if o.seen[d.Path] {
			continue
		}
		o.seen[d.Path] = true
		if o.q.Print != nil {
			o.q.Print(d)
			continue
		}
		r := o.q.Base
		r.Derivation, r.Tags = d.Path, tags
		// Where older revisions are superseded, a build of one would be canceled though a newer
		// revision counts on it. So each gets its own; the coordinator builds a derivation once
		// for all of them.
		r.SkipIfBuilt, r.SkipIfSubmitted = r.SkipIfBuilt || o.q.Supersede, !o.q.Supersede
		r.ID = submission.BuildID("guix-data-service\x00"+o.branch+"\x00"+o.commit, d.Path)
		requests = append(requests, r)
	}
	return requests
}

func (o *revision) submit(ctx context.Context, part []api.Request) error {
	s := &submission.Submitter{Client: o.q.Coordinator, Patience: o.q.Patience, Waiting: o.q.saysItWaits, Each: o.answered}
	n, err := s.Submit(ctx, part)
	o.count.Add(n)
	return orAway(ctx, err)
}

// maxRefusalsLogged is how many refused derivations of a revision get a line each.
const maxRefusalsLogged = 10

func (o *revision) answered(r *api.Request, a *api.Submitted) error {
	if a.Build != nil || a.Skipped != "" {
		return nil
	}
	err := fmt.Errorf("%s: %w", r.Derivation, &api.Error{Code: a.Code, Message: a.Error})
	if o.refused == nil {
		o.refused = err
	}
	if o.warned++; o.warned <= maxRefusalsLogged {
		o.log.Warn("a derivation was refused", "err", err)
	}
	return nil
}

// supersedeOlder cancels what is not final of the builds for other revisions of the
// branch that this or an earlier run asked for with the same tags.
func (o *revision) supersedeOlder(ctx context.Context, platforms []Platform) error {
	for _, p := range platforms {
		f := &api.Filter{States: api.OpenStates(), Tags: o.q.tagsFor(o.branch, o.commit, p), NotTags: map[string]string{"commit": o.commit}}
		f.Tags["commit"] = "" // there is one, whichever it is
		if p.Target == "" {
			f.NotTags["target"] = ""
		}
		var canceled *api.Selected
		err := o.q.patiently(ctx, func() (err error) {
			canceled, err = o.q.Coordinator.CancelAll(ctx, &api.Selection{Filter: f, Reason: "superseded by revision " + o.commit})
			return err
		})
		if err != nil {
			return fmt.Errorf("cancel what %s supersedes: %w", o.commit, err)
		}
		if canceled.Count > 0 {
			o.log.Info("older revisions are superseded", "platform", p.String(), "canceled", canceled.Count)
		}
	}
	return nil
}

// tagsFor returns the tags of the builds of a revision for a platform.
func (q *Runner) tagsFor(branch, commit string, p Platform) map[string]string {
	tags := maps.Clone(q.Base.Tags)
	if tags == nil {
		tags = make(map[string]string)
	}
	tags["branch"], tags["commit"], tags["system"] = branch, commit, p.System
	if p.Target != "" {
		tags["target"] = p.Target
	}
	return tags
}
