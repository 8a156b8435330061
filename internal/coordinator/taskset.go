package coordinator

import (
	"iter"
	"slices"
)

// taskSet is a set of tasks: those that a task needs, or those that need it. A long queue has
// millions of such edges. Most tasks have some dozens, and a few have nearly all others, so a
// small set is a list. The zero value is empty. It belongs to the loop.
type taskSet struct {
	few      []*task            // all, as long as there are at most maxFew
	many     map[*task]struct{} // all, once there were more; else nil
	removals uint
}

const maxFew = 64

func (s *taskSet) size() int { return len(s.few) + len(s.many) }

func (s *taskSet) has(t *task) bool {
	if s.many == nil {
		return slices.Contains(s.few, t)
	}
	_, ok := s.many[t]
	return ok
}

func (s *taskSet) add(t *task) {
	switch {
	case s.many != nil:
		s.many[t] = struct{}{}
	case slices.Contains(s.few, t):
	case len(s.few) < maxFew:
		s.few = append(s.few, t)
	default:
		s.many = make(map[*task]struct{}, 2*maxFew)
		for _, old := range s.few {
			s.many[old] = struct{}{}
		}
		s.many[t] = struct{}{}
		s.few = nil
	}
}

func (s *taskSet) remove(t *task) {
	s.removals++
	if s.many != nil {
		delete(s.many, t)
		return
	}
	if i := slices.Index(s.few, t); i >= 0 {
		last := len(s.few) - 1
		s.few[i], s.few[last] = s.few[last], nil
		s.few = s.few[:last]
	}
}

// all yields the tasks in any order. As with a map, the set may be changed meanwhile: what
// is removed before its turn is not yielded.
func (s *taskSet) all() iter.Seq[*task] {
	return func(yield func(*task) bool) {
		if s.many != nil {
			for t := range s.many {
				if !yield(t) {
					return
				}
			}
			return
		}
		var list [maxFew]*task
		before := s.removals
		for _, t := range list[:copy(list[:], s.few)] {
			if s.removals != before && !s.has(t) {
				continue
			}
			if !yield(t) {
				return
			}
		}
	}
}
