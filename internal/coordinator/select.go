package coordinator

import (
	"context"
	"net/http"
	"slices"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// maxSelected bounds the ids that an answer to a selection lists.
const maxSelected = 10_000

func readSelection(r *http.Request) (*api.Selection, error) {
	s := &api.Selection{}
	if err := readJSON(r, s); err != nil {
		return nil, err
	}
	switch {
	case len(s.IDs) > 0 && s.Filter != nil:
		return nil, badRequest("a selection has ids or a filter, not both")
	case len(s.IDs) == 0 && s.Filter == nil:
		return nil, badRequest("a selection has ids or a filter")
	case len(s.IDs) > maxCancel:
		return nil, badRequest("%d ids, at most %d are taken", len(s.IDs), maxCancel)
	case s.Filter != nil && s.Filter.Empty():
		return nil, badRequest("the filter selects all builds that there ever were; say at least which states")
	}
	if s.Filter != nil {
		if err := s.Filter.Check(); err != nil {
			return nil, badRequest("%s", err)
		}
	}
	return s, checkReason(s.Reason)
}

// selected returns the builds of a selection. A filter selects, of the given states alone,
// those that it names, or all if it names none.
func (c *Coordinator) selected(ctx context.Context, s *api.Selection, states []api.State) ([]string, error) {
	if s.Filter == nil {
		ids := make([]string, len(s.IDs))
		for i, id := range s.IDs {
			b, err := c.findBuild(ctx, id)
			if err != nil {
				return nil, err
			}
			ids[i] = b.ID
		}
		return ids, nil
	}
	filter := *s.Filter
	if len(filter.States) > 0 {
		states = slices.DeleteFunc(slices.Clone(filter.States), func(s api.State) bool { return !slices.Contains(states, s) })
		if len(states) == 0 {
			return nil, nil
		}
	}
	filter.States = states
	var ids []string
	for b, err := range c.ledger.Builds(ctx, ledger.Filter{Filter: filter}) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, b.ID)
	}
	return ids, nil
}

func answerSelected(w http.ResponseWriter, ids []string) error {
	s := api.Selected{IDs: ids, Count: len(ids)}
	if s.IDs == nil {
		s.IDs = []string{}
	}
	s.IDs = s.IDs[:min(len(s.IDs), maxSelected)]
	return answer(w, s)
}

func (c *Coordinator) postCancelOne(w http.ResponseWriter, r *http.Request) error {
	b, err := c.build(r)
	if err != nil {
		return err
	}
	ids, err := c.Cancel(r.Context(), []string{b.ID}, "")
	if err != nil {
		return err
	}
	return answerSelected(w, ids)
}

func (c *Coordinator) postCancel(w http.ResponseWriter, r *http.Request) error {
	s, err := readSelection(r)
	if err != nil {
		return err
	}
	ids, err := c.selected(r.Context(), s, ledger.NonFinal())
	if err != nil {
		return err
	}
	if s.WithDependents {
		if ids, err = c.withDependents(r.Context(), ids); err != nil {
			return err
		}
	}
	if ids, err = c.Cancel(r.Context(), ids, s.Reason); err != nil {
		return err
	}
	return answerSelected(w, ids)
}

// withDependents adds the builds that wait for builds, directly or not, before them: so
// those are canceled, and do not fail.
func (c *Coordinator) withDependents(ctx context.Context, ids []string) ([]string, error) {
	var all []string
	err := c.do(ctx, func() {
		seen := make(map[*task]bool)
		var add func(t *task)
		add = func(t *task) {
			if seen[t] {
				return
			}
			seen[t] = true
			for d := range t.dependants.all() {
				add(d)
				for _, r := range d.builds {
					all = append(all, r.ID)
				}
			}
		}
		for _, id := range ids {
			if r := c.builds[id]; r != nil {
				add(r.task)
			}
		}
	})
	return unique(append(all, ids...)), err
}

// unique leaves out what is there a second time.
func unique(ids []string) []string {
	seen := make(map[string]bool, len(ids))
	return slices.DeleteFunc(ids, func(id string) bool {
		twice := seen[id]
		seen[id] = true
		return twice
	})
}

func (c *Coordinator) postRetry(w http.ResponseWriter, r *http.Request) error {
	s, err := readSelection(r)
	if err != nil {
		return err
	}
	states := []api.State{api.Failed, api.TimedOut}
	if s.Filter != nil && slices.Contains(s.Filter.States, api.Canceled) {
		states = append(states, api.Canceled) // only where that is said: somebody wanted it so
	}
	ctx := r.Context()
	ids, err := c.selected(ctx, s, states)
	if err != nil {
		return err
	}
	if s.WithDependents && len(ids) > 0 {
		failed := make(map[store.Path]bool)
		for _, id := range ids {
			b, err := c.ledger.Build(ctx, id)
			if err != nil {
				return err
			}
			failed[b.Derivation] = true
		}
		dependents, err := c.dependentsOfFailed(ctx, failed)
		if err != nil {
			return err
		}
		ids = unique(append(ids, dependents...))
	}
	reason := s.Reason
	if reason == "" {
		reason = "a client has it tried again"
	}
	if ids, err = c.Retry(ctx, ids, reason); err != nil {
		return err
	}
	return answerSelected(w, ids)
}

func (c *Coordinator) postPriority(w http.ResponseWriter, r *http.Request) error {
	s, err := readSelection(r)
	if err != nil {
		return err
	}
	if s.Priority < -api.MaxPriority || s.Priority > api.MaxPriority {
		return badRequest("priority %d is not in %d to %d", s.Priority, -api.MaxPriority, api.MaxPriority)
	}
	ids, err := c.selected(r.Context(), s, ledger.NonFinal())
	if err != nil {
		return err
	}
	if ids, err = c.Prioritise(r.Context(), ids, s.Priority, s.Reason); err != nil {
		return err
	}
	return answerSelected(w, ids)
}
