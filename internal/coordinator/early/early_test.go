package early

import "testing"

func TestSlow(t *testing.T) {
	for _, tt := range []struct {
		rate   float64
		others []float64
		want   bool
	}{
		{0, nil, false},
		{0, []float64{100e6}, false},
		{9e6, nil, true},
		{11e6, nil, false},
		{11e6, []float64{11e6, 0, 0}, false},
		{50e6, []float64{50e6, 1000e6, 1000e6, 0}, true},
		{50e6, []float64{50e6, 1000e6, 60e6}, false}, // the other one is far faster
	} {
		if got := Slow(tt.rate, tt.others); got != tt.want {
			t.Errorf("%g among %v: got %v", tt.rate, tt.others, got)
		}
	}
}

func TestLine(t *testing.T) {
	var l Line[string]
	sizes := map[string]int64{"huge": 10 * maxBytes, "small1": 1, "small2": 1, "small3": 1, "small4": 1, "large": maxBytes, "small5": 1}
	size := func(x string) (int64, bool) { n, ok := sizes[x]; return n, ok }
	next := func(want string) {
		t.Helper()
		if got, ok := l.Next(size); got != want || ok != (want != "") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	next("")
	for _, x := range []string{"gone", "huge", "huge", "small1", "small2", "small3", "small4", "large", "small5"} {
		l.Add(x)
	}
	next("huge")
	next("") // more bytes than there may be
	l.Add("huge")
	l.Over("huge")
	next("small1")
	next("small2")
	next("small3")
	next("small4")
	next("")
	l.Over("small1")
	next("")
	l.Over("small2")
	l.Over("small3")
	l.Over("small4")
	l.Over("small4")
	next("large")
	l.Over("large")
	next("small5")
	l.Over("small5")
	next("")
	if l.bytes != 0 || len(l.underWay) != 0 {
		t.Errorf("%d bytes of %v are left", l.bytes, l.underWay)
	}
}
