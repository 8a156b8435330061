package stage

import "testing"

// TestStages looks at the table itself: each stage can be reached, and has an end.
func TestStages(t *testing.T) {
	reached := map[Stage]bool{Undecided: true}
	for work := []Stage{Undecided}; len(work) > 0; {
		from := work[0]
		work = work[1:]
		for _, to := range stages[from].next {
			if !reached[to] {
				reached[to] = true
				work = append(work, to)
			}
		}
	}
	for s := range stages {
		if s := Stage(s); !reached[s] || len(s.String()) == 0 {
			t.Errorf("stage %d %q: reached %v", s, s, reached[s])
		} else if (s == Over) != (len(stages[s].next) == 0) {
			t.Errorf("%s leads to %v", s, stages[s].next)
		}
	}
}
