package cli

// nearest returns the one of names that a person who typed given most likely
// meant, or "" if none is near: a name that starts with it, or one at most a
// third of its length away, counted in letters changed, lost, added or swapped.
func nearest(given string, names []string) string {
	best, bestDistance := "", max(1, len(given)/3)+1
	for _, name := range names {
		if len(given) >= 2 && len(name) > len(given) && name[:len(given)] == given {
			return name
		}
		if d := distance(given, name); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance is the Damerau-Levenshtein distance with adjacent swaps, in bytes.
func distance(a, b string) int {
	previous2, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], previous2[j-2]+1)
			}
		}
		previous2, previous, current = previous, current, previous2
	}
	return previous[len(b)]
}
