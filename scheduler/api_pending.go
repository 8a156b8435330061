package scheduler

import "time"

// Assign decides one round.
func Assign(in Input) Plan { return Plan{} }

// Explain says of each machine whether it can take the build now, and why not.
// The build need not be in the queue; missing may be nil.
func Explain(b *Build, all []Machine, missing func(b *Build, machine string) int64) []Verdict {
	return nil
}

// Queue holds the ready builds by class and urgency. It is not safe for concurrent use.
type Queue struct{}

// NewQueue returns an empty queue.
func NewQueue() *Queue { return &Queue{} }

// Push adds a build, or replaces the one with the same ID.
func (q *Queue) Push(b Build) {}

// Remove takes a build out and reports whether it was there.
func (q *Queue) Remove(id string) bool { return false }

// Get returns a build of the queue.
func (q *Queue) Get(id string) (Build, bool) { return Build{}, false }

// Len returns the number of builds.
func (q *Queue) Len() int { return 0 }

// Apply takes the plan's assigned builds out, and notes how long the deferred ones may wait.
func (q *Queue) Apply(p Plan) {}

// Sample is one measured build.
type Sample struct {
	Duration time.Duration
	Speed    float64 // of the machine
}

// ExpectedDuration estimates, at speed 1, from samples, most recent first; 0 if there are none.
func ExpectedDuration(samples []Sample) time.Duration { return 0 }

// Remaining estimates how much longer a build runs that has run for elapsed.
func Remaining(expected, elapsed time.Duration) time.Duration { return 0 }

// SpeedEstimate corrects a machine's configured speed by what is measured.
type SpeedEstimate struct {
	Log     float64 `json:"log"`     // mean logarithm of measured over configured speed
	Samples int     `json:"samples"` // so many, at most the bound of its memory
}

// Observe adds a build that was expected to take so long at speed 1, and took so long.
func (s *SpeedEstimate) Observe(configured float64, expected, actual time.Duration) {}

// Speed returns the corrected speed.
func (s *SpeedEstimate) Speed(configured float64) float64 { return configured }

// Ranks returns for each node of a graph the longest path to its end, the node
// included; dependents(i) lists the nodes that need node i. A cycle is an error.
func Ranks(expected []time.Duration, dependents func(i int) []int) ([]time.Duration, error) {
	return nil, nil
}
