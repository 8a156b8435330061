package tally

import "github.com/prometheus/client_golang/prometheus"

// NewLatency returns the histogram of the time from when a build could be placed to when
// it was.
func NewLatency() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "lighter_scheduling_latency_seconds",
		Help:    "Time from when a build could be placed to when it was.",
		Buckets: []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800, 7200},
	})
}
