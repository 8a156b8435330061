package graph

import "iter"

// Sort orders nodes so that each comes before those that it needs. circular are the nodes that need
// each other in a circle, or are needed by such nodes.
func Sort[T comparable](nodes []T, needs func(T) iter.Seq[T]) (sorted, circular []T) {
	needed := make(map[T]int, len(nodes)) // by how many of the others
	for _, t := range nodes {
		needed[t] = 0
	}
	count := func(t T, n int) (free []T) {
		for in := range needs(t) {
			if _, ours := needed[in]; !ours {
				continue
			}
			if needed[in] += n; needed[in] == 0 {
				free = append(free, in)
			}
		}
		return free
	}
	for t := range needed {
		count(t, 1)
	}
	var free []T
	for _, t := range nodes {
		if needed[t] == 0 {
			free = append(free, t)
		}
	}
	for len(free) > 0 {
		t := free[len(free)-1]
		free = append(free[:len(free)-1], count(t, -1)...)
		sorted = append(sorted, t)
		delete(needed, t)
	}
	for _, t := range nodes {
		if needed[t] > 0 {
			circular = append(circular, t)
		}
	}
	return sorted, circular
}

// Reached yields the nodes that are reached from one, which is none of them, the nearest first.
func Reached[T comparable](from T, next func(T) iter.Seq[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		seen := map[T]bool{from: true}
		for queue := []T{from}; len(queue) > 0; queue = queue[1:] {
			for t := range next(queue[0]) {
				if seen[t] {
					continue
				}
				seen[t] = true
				queue = append(queue, t)
				if !yield(t) {
					return
				}
			}
		}
	}
}

// Outermost yields the nodes that are reached from some, each after those that are reached from itself.
func Outermost[T comparable](from []T, next func(T) iter.Seq[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		walked, given := make(map[T]bool), make(map[T]bool)
		var walk func(T) bool
		walk = func(t T) bool {
			if walked[t] {
				return true
			}
			walked[t] = true
			for n := range next(t) {
				if !walk(n) {
					return false
				}
				if given[n] {
					continue
				}
				given[n] = true
				if !yield(n) {
					return false
				}
			}
			return true
		}
		for _, t := range from {
			if !walk(t) {
				return
			}
		}
	}
}
