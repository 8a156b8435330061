// Package intake makes builds of requests: it reads their derivations, leaves out what need not be
// built, and stores the builds in the ledger before anybody is told of them. What becomes of
// them then is the coordinator's business.
package intake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/store"
)

// Options are what an Intake works with. A field is required unless it says otherwise.
type Options struct {
	Ledger *ledger.Ledger
	Head   *headstore.Store
	// Fetch brings items home from substitute servers, with all that they refer to; nil if it
	// can't be done. SubstituteURLs are the servers for derivations that are not at home, if a
	// request names none.
	Fetch          func(ctx context.Context, urls []string, paths []store.Path) error
	SubstituteURLs []string
	// Elsewhere says where a derivation may be that is not at home, and what to do then; empty
	// where nothing is known. nil knows nothing.
	Elsewhere func(store.Path) string
	// Published reports whether an item is published, so that it need not be built; nil if none
	// is.
	Published func(context.Context, store.Path) bool
	// Timeout and MaxSilentTime bound builds whose requests do not say; 0 is no limit.
	Timeout, MaxSilentTime time.Duration
	Now                    func() time.Time
	// Share names for whom a build counts.
	Share func(*api.Build) string
	// AsError returns the answer for an error.
	AsError func(error) *api.Error
	// Add is called with new builds once they are durable.
	Add func([]api.Build)
}

// Intake is described in the package comment. Its methods may be called by any goroutine.
type Intake struct {
	Options
	skipping sync.Mutex // held while requests are stored that depend on earlier ones
}

// New returns an Intake.
func New(opts Options) *Intake { return &Intake{Options: opts} }

// readers is how many derivations are read at the same time for one call of Take.
const readers = 8

// Take takes requests from somebody who may make them; the submitter may be nil. Each request
// becomes a build that is durable in the ledger when Take returns, or is answered with an error;
// the answers are in the order of the requests. A request with the id of an existing build is
// answered with that build if it names the same derivation, so a client may ask again.
func (in *Intake) Take(ctx context.Context, requests []api.Request, submitter *api.Submitter) ([]api.Submitted, error) {
	for i := 1; i < len(requests); i++ {
		requests[i].Tags = SameTags(requests[i].Tags, requests[i-1].Tags)
	}
	answers := make([]api.Submitted, len(requests))
	var group errgroup.Group
	group.SetLimit(readers)
	for i := range requests {
		group.Go(func() error {
			answers[i] = in.answer(in.prepare(ctx, &requests[i], submitter))
			return nil
		})
	}
	_ = group.Wait() // each error is an answer
	seen := make(map[string]bool, len(answers))
	for i := range answers {
		if b := answers[i].Build; b != nil {
			if seen[b.ID] {
				answers[i] = api.Refused(api.BadRequest("id %s appears twice", b.ID))
				continue
			}
			seen[b.ID] = true
		}
	}
	if err := in.takeInputs(ctx, answers); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(requests, func(r api.Request) bool { return r.SkipIfSubmitted }) {
		return answers, in.storeUnlessSubmitted(ctx, answers)
	}
	return answers, in.store(ctx, answers)
}

// SameTags returns before, the tags of another build, if they equal tags: those of waiting builds
// stay in memory, and are not changed, so one copy will do.
func SameTags(tags, before map[string]string) map[string]string {
	if maps.Equal(tags, before) {
		return before
	}
	return tags
}

// answer returns an answer, or the answer to an error.
func (in *Intake) answer(a api.Submitted, err error) api.Submitted {
	if err != nil {
		return api.Refused(in.AsError(err))
	}
	return a
}

// prepare makes the build of a request, unless nothing need be built.
func (in *Intake) prepare(ctx context.Context, r *api.Request, submitter *api.Submitter) (a api.Submitted, err error) {
	if err := api.CheckRequest(r, in.Head.Dir()); err != nil {
		return a, err
	}
	n, err := in.nodeOf(ctx, r)
	if errors.Is(err, store.ErrNotValid) {
		return a, in.notHere(r.Derivation)
	}
	if err != nil {
		return a, api.BadRequest("%s", err)
	}
	wanted, err := n.OutputPaths(r.Outputs)
	if err != nil {
		return a, api.BadRequest("%s", err)
	}
	if r.SkipIfBuilt {
		if a.Skipped, err = in.built(ctx, wanted); err != nil || a.Skipped != "" {
			return a, err
		}
	}
	b := in.newBuild(r, n, submitter)
	if !b.Offload { // guix-daemon has limits of its own
		b.Timeout = cmp.Or(b.Timeout, api.Seconds(in.Timeout.Seconds()))
		b.MaxSilentTime = cmp.Or(b.MaxSilentTime, api.Seconds(in.MaxSilentTime.Seconds()))
	}
	return api.Submitted{Build: b}, nil
}

// notHere is the answer to a request of a derivation that is not at home.
func (in *Intake) notHere(p store.Path) *api.Error {
	text := p.String() + " is not in the head's store"
	if in.Elsewhere != nil {
		if hint := in.Elsewhere(p); hint != "" {
			text += ": " + hint
		}
	}
	return &api.Error{Status: http.StatusUnprocessableEntity, Code: api.CodeNotValid, Message: text}
}

// nodeOf returns the derivation of a request. One that is not at home is fetched from the
// substitute servers that the request, or the configuration, names.
func (in *Intake) nodeOf(ctx context.Context, r *api.Request) (*headstore.Node, error) {
	n, err := in.Head.Node(ctx, r.Derivation)
	if err == nil { // it may be remembered, and have been deleted since
		_, err = in.Head.Info(ctx, r.Derivation)
	}
	if !errors.Is(err, store.ErrNotValid) {
		return n, err
	}
	urls := r.DerivationSubstituteURLs
	if len(urls) == 0 {
		urls = in.SubstituteURLs
	}
	if len(urls) == 0 || in.Fetch == nil {
		return nil, err
	}
	if err := in.Fetch(ctx, urls, []store.Path{r.Derivation}); err != nil {
		return nil, fmt.Errorf("derivation %s is not in the store, and could not be fetched: %w", r.Derivation, err)
	}
	return in.Head.Node(ctx, r.Derivation)
}

// newBuild makes the build of a valid request.
func (in *Intake) newBuild(r *api.Request, n *headstore.Node, submitter *api.Submitter) *api.Build {
	b := &api.Build{
		Request: *r, System: n.System, Features: n.Features, OutputPaths: n.OutputMap(),
		State: api.Queued, Submitted: in.Now(), Submitter: submitter,
	}
	if b.ID == "" {
		b.ID = uuid.NewString()
	}
	if in.Share != nil {
		b.Share = in.Share(b)
	}
	return b
}

// store makes the builds in answers durable, and adds the new ones to the coordinator. An id that
// the ledger has is answered with its build, and a build that the ledger refuses with the reason.
func (in *Intake) store(ctx context.Context, answers []api.Submitted) error {
	var which []int // of the answers have a build to be made
	for i := range answers {
		if answers[i].Build != nil && answers[i].Skipped == "" {
			which = append(which, i)
		}
	}
	for len(which) > 0 {
		changes := make([]ledger.Change, len(which))
		for n, i := range which {
			changes[n] = ledger.Change{Build: answers[i].Build, Create: true}
		}
		_, err := in.Ledger.Apply(ctx, changes, true)
		var refused *ledger.RefusedError
		switch {
		case errors.Is(err, ledger.ErrTooLarge):
			return api.BadRequest("%s", err)
		case errors.As(err, &refused): // the others are stored in another try
			for _, one := range slices.Backward(refused.Refusals) {
				i := which[one.Index]
				answers[i] = in.answer(in.refused(ctx, answers[i].Build, one.Err))
				which = slices.Delete(which, one.Index, one.Index+1)
			}
			continue
		case err != nil:
			return err
		}
		break
	}
	fresh := make([]api.Build, len(which))
	for n, i := range which {
		fresh[n] = *answers[i].Build
	}
	in.Add(fresh)
	return nil
}

// refused answers a request whose build the ledger refused: with the build that has its id already,
// if that is the reason.
func (in *Intake) refused(ctx context.Context, b *api.Build, err error) (a api.Submitted, _ error) {
	if !errors.Is(err, ledger.ErrExists) {
		return a, api.BadRequest("%s", err)
	}
	old, err := in.Ledger.Build(ctx, b.ID)
	if err != nil {
		return a, err
	}
	if old.Derivation != b.Derivation {
		return a, &api.Error{
			Status: http.StatusConflict, Code: api.CodeConflict,
			Message: fmt.Sprintf("id %s is the id of a build of %s", b.ID, old.Derivation),
		}
	}
	return api.Submitted{Build: old}, nil
}
