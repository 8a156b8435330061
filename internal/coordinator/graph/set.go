// Package graph has what a graph of some millions of edges needs that is kept in memory and changes
// all the time. It knows nothing of what the nodes are.
package graph

import (
	"iter"
	"slices"
)

// Set is a set of nodes: those that one needs, or those that need it. Most have some dozens, and a
// few have nearly all others, so a small set is a list. The zero value is empty. It is not safe for
// concurrent use.
type Set[T comparable] struct {
	few      []T            // all, as long as there are at most maxFew
	many     map[T]struct{} // all, once there were more; else nil
	removals uint
}

const maxFew = 64

// WithRoom returns an empty set with room for so many nodes, if they are few.
func WithRoom[T comparable](n int) Set[T] { return Set[T]{few: make([]T, 0, min(n, maxFew))} }

// Size returns how many there are.
func (s *Set[T]) Size() int { return len(s.few) + len(s.many) }

// Has reports whether a node is in the set.
func (s *Set[T]) Has(t T) bool {
	if s.many == nil {
		return slices.Contains(s.few, t)
	}
	_, ok := s.many[t]
	return ok
}

// Add adds a node.
func (s *Set[T]) Add(t T) {
	switch {
	case s.many != nil:
		s.many[t] = struct{}{}
	case slices.Contains(s.few, t):
	case len(s.few) < maxFew:
		s.few = append(s.few, t)
	default:
		s.many = make(map[T]struct{}, 2*maxFew)
		for _, old := range s.few {
			s.many[old] = struct{}{}
		}
		s.many[t] = struct{}{}
		s.few = nil
	}
}

// Remove removes a node.
func (s *Set[T]) Remove(t T) {
	s.removals++
	if s.many != nil {
		delete(s.many, t)
		return
	}
	if i := slices.Index(s.few, t); i >= 0 {
		last := len(s.few) - 1
		s.few[i], s.few[last] = s.few[last], *new(T)
		s.few = s.few[:last]
	}
}

// All yields the nodes in any order. As with a map, the set may be changed meanwhile: what
// is removed before its turn is not yielded.
func (s *Set[T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		if s.many != nil {
			for t := range s.many {
				if !yield(t) {
					return
				}
			}
			return
		}
		var list [maxFew]T
		before := s.removals
		for _, t := range list[:copy(list[:], s.few)] {
			if s.removals != before && !s.Has(t) {
				continue
			}
			if !yield(t) {
				return
			}
		}
	}
}
