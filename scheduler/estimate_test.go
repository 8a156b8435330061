package scheduler

import (
	"math"
	"testing"
	"time"
)

func TestRemaining(t *testing.T) {
	for _, tt := range []struct{ expected, elapsed, want time.Duration }{
		{100, 0, 100},
		{100, 60, 40},
		{100, 80, 20},
		{100, 100, 25},
		{100, 1000, 250},
		{0, 0, 0},
	} {
		if got := Remaining(tt.expected, tt.elapsed); got != tt.want {
			t.Errorf("expected %d, elapsed %d: got %d, want %d", tt.expected, tt.elapsed, got, tt.want)
		}
	}
}

func TestSpeedEstimate(t *testing.T) {
	var s SpeedEstimate
	if got := s.Speed(2); got != 2 {
		t.Errorf("nothing measured: got %v", got)
	}
	s.Observe(2, time.Minute, 10*time.Millisecond) // too short to mean anything
	s.Observe(0, time.Minute, time.Minute)
	if s.Samples != 0 {
		t.Errorf("senseless samples count: %+v", s)
	}
	for range 100 {
		s.Observe(2, time.Minute, time.Minute) // it is really of speed 1
	}
	if got := s.Speed(2); math.Abs(got-1) > 0.15 {
		t.Errorf("after 100 builds: got %v, want about 1", got)
	}
	before := s.Speed(2)
	s.Observe(2, time.Minute, 1000*time.Hour) // one outlier is bounded
	if got := s.Speed(2); got < before*0.9 {
		t.Errorf("one outlier changes %v to %v", before, got)
	}
	for range 100 {
		s.Observe(2, time.Minute, 20*time.Second) // a new processor
	}
	if got := s.Speed(2); math.Abs(got-3) > 0.3 {
		t.Errorf("after the change: got %v, want about 3", got)
	}
}
