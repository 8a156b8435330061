package testkit

import (
	"slices"
	"strings"
	"testing"
)

func TestCheckLeaksQuiet(t *testing.T) {
	CheckLeaks(t)
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-stop
	}()
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
}

func TestLeakedSince(t *testing.T) {
	before := goroutines()
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-stop
	}()
	leaked := leakedSince(before)
	if !slices.ContainsFunc(leaked, func(stack string) bool { return strings.Contains(stack, "TestLeakedSince") }) {
		t.Errorf("the goroutine of this test was not found in %q", leaked)
	}
	close(stop)
	<-ended
}
