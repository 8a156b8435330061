package local

import (
	"fmt"
	"testing"
)

func TestBuild(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "hello", script: "echo building; echo hi > $out"}
	if got := r.mustBuild(t, s); got != "building\n" {
		t.Errorf("log: %q", got)
	}
	if got := contents(t, s, r.out("out"), ""); got != "hi\n" {
		t.Errorf("contents: %q", got)
	}
	wantClean(t, s)
}

func BenchmarkTrivialBuild(b *testing.B) {
	needBuilds(b)
	s := openTestStore(b)
	n := 0
	for b.Loop() {
		n++
		r := &recipe{name: "hello", script: "echo hi > $out", env: map[string]string{"n": fmt.Sprint(n)}}
		r.mustBuild(b, s)
	}
}
