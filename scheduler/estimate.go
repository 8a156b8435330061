package scheduler

import (
	"math"
	"time"
)

// Remaining returns how much longer a build holds its slot that was expected to
// hold it for a time, and has for elapsed. A build that is overdue is expected to
// go on for a quarter of the time that it took so far: so no build waits for the
// slot of one that hangs.
func Remaining(expected, elapsed time.Duration) time.Duration {
	return max(expected-elapsed, elapsed/4)
}

// SpeedEstimate corrects a machine's configured speed by what is measured. The zero
// value knows nothing. It can be stored.
type SpeedEstimate struct {
	Log     float64 // mean of log(measured speed / configured speed)
	Samples int     // how many, at most speedMemory
}

const (
	// speedMemory bounds the number of samples that the mean remembers.
	speedMemory = 30
	// speedPrior is how many samples the configured speed counts for.
	speedPrior = 4
	// maxSpeedError bounds what one sample can say: a factor of 8 either way.
	maxSpeedError = 8
	// minSpeedSample is the shortest build that says something about speed.
	minSpeedSample = time.Second
)

// Observe adds a build that was expected to take that long at speed 1 and took so
// long on the machine.
func (s *SpeedEstimate) Observe(configured float64, expected, actual time.Duration) {
	if expected < minSpeedSample || actual < minSpeedSample || !(configured > 0) {
		return
	}
	limit := math.Log(maxSpeedError)
	sample := math.Log(expected.Seconds() / actual.Seconds() / configured)
	s.Samples = min(s.Samples+1, speedMemory)
	s.Log += (max(-limit, min(limit, sample)) - s.Log) / float64(s.Samples)
}

// Speed returns the corrected speed.
func (s *SpeedEstimate) Speed(configured float64) float64 {
	n := float64(s.Samples)
	return configured * math.Exp(s.Log*n/(n+speedPrior))
}
