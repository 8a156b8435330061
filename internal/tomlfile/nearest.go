package tomlfile

// Nearest returns the known word that a person most likely meant, or "" if none is
// near: at most a third of its letters wrong, missing, too many or swapped.
func Nearest(word string, known []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, candidate := range known {
		if d := EditDistance(word, candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	if bestDistance >= len(word) {
		return ""
	}
	return best
}

// EditDistance counts the bytes to insert, delete, replace or swap with their
// neighbour to get from a to b (optimal string alignment).
func EditDistance(a, b string) int {
	const longest = 100 // the words known have less
	if len(a) > longest || len(b) > longest {
		return longest
	}
	two, one, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		two, one, row = one, row, two
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(one[j+1]+1, row[j]+1, one[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], two[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
