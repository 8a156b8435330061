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
