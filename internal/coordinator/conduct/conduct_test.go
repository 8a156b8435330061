package conduct

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lighter/store"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func drv(i int) store.Path {
	return store.Path(fmt.Sprintf("/gnu/store/%032d-x.drv", i))
}

func TestRest(t *testing.T) {
	var r Record
	for i := range RestAfter - 1 {
		for range 2 { // the same again does not count
			if rest := r.Mishap(drv(i), "it burns", noon); rest != 0 || r.Resting(noon) != "" {
				t.Fatalf("after %d: rests for %s", i+1, rest)
			}
		}
	}
	for i, want := range []time.Duration{firstRest, 2 * firstRest, 4 * firstRest} {
		if rest := r.Mishap(drv(100+i), "it burns", noon); rest != want {
			t.Errorf("rests for %s, want %s", rest, want)
		}
	}
	if why := r.Resting(noon); !strings.HasPrefix(why, "resting until 12:00:04: 5 builds in a row") || !strings.HasSuffix(why, ": it burns") {
		t.Errorf("it is %q", why)
	}
	if r.Resting(r.RestUntil()) != "" {
		t.Error("it rests at the end of the rest")
	}
	for i := range 2 * maxMishaps {
		if rest := r.Mishap(drv(1000+i), "", noon); rest > maxRest {
			t.Errorf("rests for %s", rest)
		}
	}
	if len(r.mishaps) > maxMishaps {
		t.Errorf("%d mishaps are remembered", len(r.mishaps))
	}
	if r.Succeeded(); r.Resting(noon) != "" || r.Mishap(drv(1), "", noon) != 0 {
		t.Error("what was held against it outlives a success")
	}
}

func TestForgive(t *testing.T) {
	var r Record
	for i := range RestAfter {
		r.Mishap(drv(i), "", noon)
	}
	if r.Forgive(drv(99)) || r.Resting(noon) == "" {
		t.Error("another derivation is forgiven")
	}
	if !r.Forgive(drv(0)) || r.Resting(noon) != "" {
		t.Error("it still rests")
	}
	r.Fault("it lied", noon)
	r.Mishap(drv(7), "", noon.Add(-time.Hour))
	r.Fault("it lied", noon)
	if r.Forgive(drv(7)) || r.Resting(noon) == "" {
		t.Error("a fault was forgiven with a derivation")
	}
}

func TestSuccesses(t *testing.T) {
	var r Record
	for i := 1; i <= 2*forgiveAfter; i++ {
		if got := r.Succeeded(); got != (i%forgiveAfter == 0) {
			t.Errorf("success %d: %v", i, got)
		}
	}
}

func TestQuarantine(t *testing.T) {
	s := Standing{Disagreed: 5}
	until := noon.Add(time.Hour)
	if !s.Quarantine("bad memory", until) || s.Quarantine("again", until.Add(time.Hour)) || s.Quarantined != "bad memory" {
		t.Errorf("got %+v", s)
	}
	if s.Expire(until.Add(-1)) || !s.Expire(until) || s.Quarantined != "" || s.Disagreed != 2 || s.Expire(until) {
		t.Errorf("got %+v", s)
	}
	s.Quarantine("bad memory", until)
	if s.Free(); s != (Standing{}) {
		t.Errorf("got %+v", s)
	}
	early, late := noon, noon.Add(time.Minute)
	a := Standing{Disagreed: 1, LastGC: &early}
	b := Standing{Disagreed: 3, LastGC: &late, Lost: true, Quarantined: "x", QuarantinedUntil: &until}
	if a.And(b) != b || b.And(a) != b {
		t.Errorf("got %+v and %+v", a.And(b), b.And(a))
	}
}

func TestNews(t *testing.T) {
	var n News
	told := 0
	for i := range 3 * NewsBurst {
		n.Add(fmt.Sprint(i))
		if _, _, ok := n.Due(noon); ok {
			told++
		}
	}
	if told != NewsBurst {
		t.Errorf("told %d", told)
	}
	if text, leftOut, ok := n.Due(noon.Add(newsInterval)); !ok || text != fmt.Sprint(3*NewsBurst-1) || leftOut != 2*NewsBurst-1 {
		t.Errorf("got %q, %d, %v", text, leftOut, ok)
	}
	if _, _, ok := n.Due(noon.Add(time.Hour)); ok {
		t.Error("nothing is told")
	}
}
