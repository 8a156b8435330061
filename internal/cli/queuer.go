package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/dataservice"
	"lighter/internal/human"
	"lighter/internal/submission"
	"lighter/store"
)

// platform is what a package is built on and for.
type platform struct{ system, target string }

func (p platform) String() string {
	if p.target == "" {
		return p.system
	}
	return p.system + " for " + p.target
}

// revisionSource is what of a data service queueing needs.
type revisionSource interface {
	Revisions(ctx context.Context, repository int, branch string, limit int) ([]dataservice.Revision, error)
	Derivations(ctx context.Context, commit, system, target string) iter.Seq2[[]dataservice.Derivation, error]
}

// queueCoordinator is what of the coordinator's client it needs.
type queueCoordinator interface {
	submission.Client
	CancelAll(ctx context.Context, s *api.Selection) (*api.Selected, error)
	Machines(ctx context.Context) ([]api.MachineStatus, error)
}

// queuer brings revisions from a data service to a coordinator.
type queuer struct {
	service     revisionSource
	coordinator queueCoordinator
	commits     *processedCommits
	log         *slog.Logger

	repository int
	branches   []string
	platforms  []platform // none are the systems of the coordinator's machines
	revisions  int
	base       api.Request
	latestOnly bool
	supersede  bool
	patience   time.Duration                // with a coordinator that is away
	print      func(dataservice.Derivation) // where it is not nil, nothing is submitted
	vain       map[string]int               // rounds in which a commit was tried and not done
}

// maxVain is in how many rounds a revision is tried that can't be done: that service or
// coordinator are away doesn't count.
const maxVain = 5

// round does all revisions that are new. What can't be done is in the error; the rest is
// done all the same.
func (q *queuer) round(ctx context.Context) error {
	platforms, err := q.wanted(ctx)
	if err != nil {
		return err
	}
	var all []error
	for _, branch := range q.branches {
		err := q.branch(ctx, branch, platforms)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		all = append(all, err)
		if err != nil && isAwayFromQueue(err) {
			break
		}
	}
	return errors.Join(all...)
}

// awayError is that the coordinator did not come back.
type awayError struct{ error }

func (e awayError) Unwrap() error { return e.error }

func isAwayFromQueue(err error) bool { return errors.As(err, new(awayError)) }

// patiently calls the coordinator, and waits for one that is away.
func (q *queuer) patiently(ctx context.Context, do func() error) error {
	err := apiclient.WhileAway(ctx, q.patience, q.saysItWaits, do)
	if err != nil && ctx.Err() == nil && apiclient.Away(err) {
		return awayError{err}
	}
	return err
}

func (q *queuer) saysItWaits(err error) {
	q.log.Warn("the coordinator is away; waiting for it", "err", err, "atMost", q.patience)
}

// wanted returns what to build for.
func (q *queuer) wanted(ctx context.Context) ([]platform, error) {
	if len(q.platforms) > 0 {
		return q.platforms, nil
	}
	var list []api.MachineStatus
	err := q.patiently(ctx, func() (err error) {
		list, err = q.coordinator.Machines(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	var all []platform
	for i := range list {
		for _, s := range list[i].Systems {
			if p := (platform{system: s}); !slices.Contains(all, p) {
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
func (q *queuer) branch(ctx context.Context, branch string, platforms []platform) error {
	list, err := q.service.Revisions(ctx, q.repository, branch, q.revisions)
	if err != nil {
		return fmt.Errorf("branch %s: %w", branch, err)
	}
	if len(list) == 0 {
		q.log.Warn("the data service knows no revisions of the branch; is its name right?", "branch", branch, "repository", q.repository)
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
		if isAwayFromQueue(err) || serviceIsAway(err) {
			break // so it would be for the others
		}
		if q.vain[r.Commit]++; q.vain[r.Commit] == maxVain {
			q.log.Error("a revision is given up until the next start", "branch", branch, "commit", r.Commit, "tries", maxVain, "err", err)
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
func (q *queuer) pending(newestFirst []dataservice.Revision) []dataservice.Revision {
	var all []dataservice.Revision
	for _, r := range newestFirst {
		if !r.Available {
			continue
		}
		if !q.commits.has(r.Commit) {
			all = append(all, r)
		}
		if q.latestOnly {
			break
		}
	}
	slices.Reverse(all)
	return all
}

// errNoDerivations is that a revision has nothing to build.
var errNoDerivations = errors.New("the data service has no package derivations of it")

// revision does one revision: all its derivations are acknowledged when it returns nil.
func (q *queuer) revision(ctx context.Context, branch string, r dataservice.Revision, platforms []platform) error {
	log := q.log.With("branch", branch, "commit", r.Commit)
	log.Info("revision", "date", human.Printable(r.Date))
	one := &queuedRevision{q: q, log: log, branch: branch, commit: r.Commit, seen: make(map[store.Path]bool)}
	for _, p := range platforms {
		if err := one.platform(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	switch {
	case len(one.seen) == 0:
		return fmt.Errorf("%w for %v", errNoDerivations, platforms)
	case q.print != nil:
		return nil
	case one.refused != nil:
		return fmt.Errorf("%d of %d derivations were refused, the first: %w", one.count.Refused, one.count.Sum(), one.refused)
	}
	if q.supersede {
		if err := one.supersedeOlder(ctx, platforms); err != nil {
			return err
		}
	}
	if err := q.commits.add(r.Commit); err != nil {
		return err
	}
	log.Info("revision is done", "builds", one.count.String())
	return nil
}

// queuedRevision is a revision on its way.
type queuedRevision struct {
	q              *queuer
	log            *slog.Logger
	branch, commit string
	seen           map[store.Path]bool
	count          submission.Count
	refused        error // the first
	warned         int   // lines in the log about refusals
}

// platform submits the derivations for one platform, a page at a time.
func (o *queuedRevision) platform(ctx context.Context, p platform) error {
	tags := o.q.tagsFor(o.branch, o.commit, p)
	before, count := len(o.seen), o.count
	for page, err := range o.q.service.Derivations(ctx, o.commit, p.system, p.target) {
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
func (o *queuedRevision) requests(page []dataservice.Derivation, tags map[string]string) []api.Request {
	requests := make([]api.Request, 0, len(page))
	for _, d := range page {
		if o.seen[d.Path] {
			continue
		}
		o.seen[d.Path] = true
		if o.q.print != nil {
			o.q.print(d)
			continue
		}
		r := o.q.base
		r.Derivation, r.Tags = d.Path, tags
		r.ID = submission.BuildID("guix-data-service\x00"+o.branch+"\x00"+o.commit, d.Path)
		requests = append(requests, r)
	}
	return requests
}

func (o *queuedRevision) submit(ctx context.Context, part []api.Request) error {
	s := &submission.Submitter{Client: o.q.coordinator, Patience: o.q.patience, Waiting: o.q.saysItWaits, Each: o.answered}
	n, err := s.Submit(ctx, part)
	o.count.Add(n)
	if err != nil && ctx.Err() == nil && apiclient.Away(err) {
		return awayError{err}
	}
	return err
}

// maxRefusalsLogged is how many refused derivations of a revision get a line each.
const maxRefusalsLogged = 10

func (o *queuedRevision) answered(r *api.Request, a *api.Submitted) error {
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
func (o *queuedRevision) supersedeOlder(ctx context.Context, platforms []platform) error {
	for _, p := range platforms {
		f := &api.Filter{States: api.OpenStates(), Tags: o.q.tagsFor(o.branch, o.commit, p), NotTags: map[string]string{"commit": o.commit}}
		f.Tags["commit"] = "" // there is one, whichever it is
		if p.target == "" {
			f.NotTags["target"] = ""
		}
		var canceled *api.Selected
		err := o.q.patiently(ctx, func() (err error) {
			canceled, err = o.q.coordinator.CancelAll(ctx, &api.Selection{Filter: f, Reason: "superseded by revision " + o.commit})
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
