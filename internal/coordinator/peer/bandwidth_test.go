package peer

import (
	"testing"
	"time"
)

// TestBandwidth measures a link of 1 MB/s, whatever streams share it.
func TestBandwidth(t *testing.T) {
	const second = 1_000_000
	type step struct {
		at     float64 // seconds
		start  bool
		failed bool
		moved  int // since the step before
	}
	for _, tt := range []struct {
		name  string
		steps []step
		want  float64
	}{
		{"one stream", []step{{at: 0, start: true}, {at: 2, moved: 2 * second}}, second},
		{"four at once", []step{
			{at: 0, start: true},
			{at: 0, start: true},
			{at: 0, start: true},
			{at: 0, start: true},
			{at: 4, moved: 4 * second},
			{at: 4},
			{at: 4},
			{at: 4},
		}, second},
		{"one after the other, always two", []step{
			{at: 0, start: true},
			{at: 0.5, start: true, moved: second / 2},
			{at: 1, moved: second / 2},
			{at: 1, start: true},
			{at: 2.5, moved: 3 * second / 2},
			{at: 3, moved: second / 2},
		}, second},
		{"nothing moves between them", []step{
			{at: 0, start: true}, {at: 1, moved: second}, {at: 100, start: true}, {at: 101, moved: second},
		}, second},
		{"too little", []step{{at: 0, start: true}, {at: 1, moved: 1000}}, 0},
		{"it breaks", []step{{at: 0, start: true}, {at: 300, moved: second, failed: true}}, 0},
		{"one breaks beside another", []step{
			{at: 0, start: true}, {at: 0, start: true}, {at: 300, moved: second, failed: true}, {at: 302, moved: 2 * second},
		}, second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b Bandwidth
			began := time.Unix(0, 0)
			for _, s := range tt.steps {
				now := began.Add(time.Duration(s.at * float64(time.Second)))
				b.Moved(s.moved)
				if s.start {
					b.Start(now)
				} else {
					b.End(now, !s.failed)
				}
			}
			if got := b.Value(); got != tt.want || b.TakeChanged() != (got > 0) || b.TakeChanged() {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if b.streams != 0 {
				t.Errorf("%d streams are left", b.streams)
			}
		})
	}
}
