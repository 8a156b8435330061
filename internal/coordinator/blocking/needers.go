package blocking

import "context"

// words is how many times 64 tasks are looked at together.
const words = 4

// set has a bit for each of the tasks that are looked at together.
type set [words]uint64

// needers returns for each of some tasks how many builds need it, directly or not. inputs has what each task
// needs, by place, and builds how many builds want it. What needs itself in a circle counts for nothing.
//
// All tasks are gone through once for each 256 of those that are asked about, inputs first: a task has the bits of all that
// it needs.
func needers(ctx context.Context, inputs [][]int32, builds []int, of []int32) ([]int, error) {
	order := sorted(inputs)
	counts := make([]int, 0, len(of))
	own, needed := make([]set, len(inputs)), make([]set, len(inputs))
	for first := 0; first < len(of); first += 64 * words {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		some := of[first:min(first+64*words, len(of))]
		clear(own)
		for place, t := range some {
			own[t][place/64] |= 1 << (place % 64)
		}
		var sums [words]sum
		for _, t := range order {
			var all set
			for _, in := range inputs[t] {
				for w, word := range needed[in] {
					all[w] |= word
				}
			}
			for w, word := range all {
				sums[w].add(word, builds[t])
				needed[t][w] = word | own[t][w]
			}
		}
		for place := range some {
			counts = append(counts, sums[place/64].of(place%64))
		}
	}
	return counts, nil
}

// sum counts for 64 places at the same time: bit i of their counts is in word i.
type sum [48]uint64

// add adds n for each place whose bit is set.
func (s *sum) add(word uint64, n int) {
	for low := 0; n > 0; n, low = n>>1, low+1 {
		if n&1 == 0 {
			continue
		}
		for i, carry := low, word; carry != 0 && i < len(s); i++ {
			s[i], carry = s[i]^carry, s[i]&carry
		}
	}
}

// of returns the count of a place.
func (s *sum) of(place int) (n int) {
	for i, word := range s {
		n |= int(word>>place&1) << i // #nosec G115 -- a bit
	}
	return n
}

// sorted orders tasks so that each comes after those that it needs. It leaves out what needs itself in a circle, and
// what needs that.
func sorted(inputs [][]int32) []int32 {
	left := make([]int, len(inputs)) // inputs that are not in order yet
	dependants := make([][]int32, len(inputs))
	order := make([]int32, 0, len(inputs))
	for i, needs := range inputs {
		t := int32(i) // #nosec G115 -- tasks are in memory
		left[t] = len(needs)
		for _, in := range needs {
			dependants[in] = append(dependants[in], t)
		}
		if len(needs) == 0 {
			order = append(order, t)
		}
	}
	for next := 0; next < len(order); next++ {
		for _, d := range dependants[order[next]] {
			if left[d]--; left[d] == 0 {
				order = append(order, d)
			}
		}
	}
	return order
}
