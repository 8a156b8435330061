package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// maxSelected bounds the ids that an answer to a selection lists.
const maxSelected = 10_000

// portion is how many builds of a selection are changed at a time: meanwhile the loop does
// other things, and the client may change its mind.
const portion = 1000

func readSelection(r *http.Request) (*api.Selection, error) {
	s := &api.Selection{}
	var ids []string
	err := readLists(r, s, idList(maxCancel, &ids))
	s.IDs = ids
	switch {
	case err != nil:
		return nil, err
	case len(s.IDs) > 0 && s.Filter != nil:
		return nil, api.BadRequest("a selection has ids or a filter, not both")
	case len(s.IDs) == 0 && s.Filter == nil:
		return nil, api.BadRequest("a selection has ids or a filter")
	case s.Filter != nil && s.Filter.Empty():
		return nil, api.BadRequest("the filter selects all builds ever made; say at least which states")
	}
	if s.Filter != nil {
		if err := s.Filter.Check(); err != nil {
			return nil, api.BadRequest("%s", err)
		}
	}
	return s, checkReason(s.Reason)
}

// selecting is one change of the builds of a selection.
type selecting struct {
	s      *Server
	ctx    context.Context
	who    caller
	what   string // is done with builds, in words
	result api.Selected
	// change changes builds by their ids, and returns those for which that was so.
	change func(ctx context.Context, ids []string) ([]string, error)
}

// newSelecting reads who wants a selection of builds changed, and which.
func (s *Server) newSelecting(r *http.Request, what string) (*selecting, *api.Selection, error) {
	who, err := s.caller(r.Context())
	if err != nil {
		return nil, nil, err
	}
	selection, err := readSelection(r)
	return &selecting{s: s, ctx: r.Context(), who: who, what: what, result: api.Selected{IDs: []string{}}}, selection, err
}

// all changes the builds of a selection, a portion at a time. A filter selects, of the given
// states alone, those that it names, or all if it names none.
func (p *selecting) all(s *api.Selection, states []api.State) error {
	if s.Filter == nil {
		ids, err := p.named(s.IDs)
		if err != nil {
			return err
		}
		for part := range slices.Chunk(ids, portion) {
			if err := p.some(part); err != nil {
				return err
			}
		}
		return nil
	}
	filter := *s.Filter
	if len(filter.States) > 0 {
		states = slices.DeleteFunc(slices.Clone(filter.States), func(s api.State) bool { return !slices.Contains(states, s) })
		if len(states) == 0 {
			return nil
		}
	}
	filter.States = states
	return p.matching(&filter, func(*api.Build) bool { return true })
}

// named returns the builds that are named, if the caller may change all of them.
func (p *selecting) named(names []string) ([]string, error) {
	ids := make([]string, len(names))
	for i, name := range names {
		b, err := p.s.c.Build(p.ctx, name)
		if err != nil {
			return nil, err
		}
		if !p.who.mayChange(b) {
			return nil, p.who.refuse(fmt.Sprintf("%s build %s, which is %s", p.what, b.ID, whose(b)))
		}
		ids[i] = b.ID
	}
	return ids, nil
}

// matching changes the builds that a filter and a condition select, and counts those that
// the caller may not change.
func (p *selecting) matching(filter *api.Filter, ok func(*api.Build) bool) error {
	after := ""
	for {
		var ids []string
		n := 0
		for b, err := range p.s.ledger.Builds(p.ctx, ledger.Filter{Filter: *filter, After: after, Limit: portion}) {
			if err != nil {
				return err
			}
			n++
			after = b.ID
			switch {
			case !ok(b):
			case p.who.mayChange(b):
				ids = append(ids, b.ID)
			default:
				p.result.Others++
			}
		}
		if len(ids) > 0 {
			if err := p.some(ids); err != nil {
				return err
			}
		}
		if n < portion {
			return nil
		}
	}
}

// some changes a portion of builds.
func (p *selecting) some(ids []string) error {
	done, err := p.change(p.ctx, ids)
	if err != nil {
		return err
	}
	p.result.Count += len(done)
	p.result.IDs = append(p.result.IDs, done[:min(len(done), maxSelected-len(p.result.IDs))]...)
	return nil
}

func (s *Server) postCancelOne(w http.ResponseWriter, r *http.Request) error {
	who, err := s.caller(r.Context())
	if err != nil {
		return err
	}
	b, err := s.build(r)
	if err != nil {
		return err
	}
	if !who.mayChange(b) {
		return who.refuse(fmt.Sprintf("cancel build %s, which is %s", b.ID, whose(b)))
	}
	ids, standIns, err := s.c.Cancel(r.Context(), []string{b.ID}, "canceled by "+who.name())
	if err != nil {
		return err
	}
	return answer(w, api.Selected{IDs: ids, Count: len(ids), StandIns: standIns})
}

func (s *Server) postCancel(w http.ResponseWriter, r *http.Request) error {
	p, selection, err := s.newSelecting(r, "cancel")
	if err != nil {
		return err
	}
	reason := p.who.did("canceled by "+p.who.name(), selection.Reason)
	p.change = func(ctx context.Context, ids []string) ([]string, error) {
		if selection.WithDependents {
			var err error
			if ids, err = p.withDependents(ids); err != nil {
				return nil, err
			}
		}
		canceled, standIns, err := s.c.Cancel(ctx, ids, reason)
		p.result.StandIns += standIns
		return canceled, err
	}
	if err := p.all(selection, ledger.NonFinal()); err != nil {
		return err
	}
	return answer(w, p.result)
}

// withDependents adds the builds that wait for builds, directly or not, before them: so
// those are canceled, and do not fail. It leaves out those that the caller may not change.
func (p *selecting) withDependents(ids []string) ([]string, error) {
	all, others, err := p.s.c.Dependents(p.ctx, ids, p.who.mayChange)
	p.result.Others += others
	return unique(append(all, ids...)), err
}

// unique leaves out duplicates.
func unique(ids []string) []string {
	seen := make(map[string]bool, len(ids))
	return slices.DeleteFunc(ids, func(id string) bool {
		twice := seen[id]
		seen[id] = true
		return twice
	})
}

func (s *Server) postRetry(w http.ResponseWriter, r *http.Request) error {
	p, selection, err := s.newSelecting(r, "retry")
	if err != nil {
		return err
	}
	states := []api.State{api.Failed, api.TimedOut, api.DependencyFailed}
	if selection.Filter != nil && slices.Contains(selection.Filter.States, api.Canceled) {
		states = append(states, api.Canceled) // only where that is said: they were canceled on purpose
	}
	reason := p.who.did(p.who.name()+" has it tried again", selection.Reason)
	failed := make(map[store.Path]bool)
	p.change = func(ctx context.Context, ids []string) ([]string, error) {
		if selection.WithDependents {
			if err := s.derivationsOf(ctx, ids, failed); err != nil {
				return nil, err
			}
		}
		return s.c.Retry(ctx, ids, reason)
	}
	if err := p.all(selection, states); err != nil {
		return err
	}
	if len(failed) > 0 {
		selection.WithDependents = false
		err := p.matching(&api.Filter{States: []api.State{api.DependencyFailed}}, func(b *api.Build) bool {
			return b.Failure != nil && failed[b.Failure.Input]
		})
		if err != nil {
			return err
		}
	}
	return answer(w, p.result)
}

// derivationsOf adds the derivations of builds to a set of limited size.
func (s *Server) derivationsOf(ctx context.Context, ids []string, set map[store.Path]bool) error {
	for _, id := range ids {
		b, err := s.ledger.Build(ctx, id)
		if err != nil {
			return err
		}
		set[b.Derivation] = true
	}
	if len(set) > maxCancel {
		return api.BadRequest("builds of more than %d derivations are too many with their dependents; what was retried until now stays retried", maxCancel)
	}
	return nil
}

func (s *Server) postPriority(w http.ResponseWriter, r *http.Request) error {
	p, selection, err := s.newSelecting(r, "prioritise")
	if err != nil {
		return err
	}
	if selection.Priority < -api.MaxPriority || selection.Priority > api.MaxPriority {
		return api.BadRequest("priority %d is not in %d to %d", selection.Priority, -api.MaxPriority, api.MaxPriority)
	}
	if err := p.who.mayHavePriority(selection.Priority); err != nil {
		return err
	}
	reason := p.who.did(fmt.Sprintf("%s set the priority to %d", p.who.name(), selection.Priority), selection.Reason)
	p.change = func(ctx context.Context, ids []string) ([]string, error) {
		return s.c.Prioritise(ctx, ids, selection.Priority, reason)
	}
	if err := p.all(selection, ledger.NonFinal()); err != nil {
		return err
	}
	return answer(w, p.result)
}
