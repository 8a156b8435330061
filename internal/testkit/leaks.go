package testkit

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"time"
)

// leakWait bounds how long CheckLeaks waits for goroutines to end.
const leakWait = 5 * time.Second

// CheckLeaks fails the test if, when it and the clean-ups that it registers after
// this call are over, goroutines run that did not run before. They get a few
// seconds to end. It is not for parallel tests, which have each other's goroutines.
func CheckLeaks(t testing.TB) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		deadline := time.Now().Add(leakWait)
		for pause := time.Millisecond; ; pause *= 2 {
			leaked := leakedSince(before)
			if len(leaked) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d goroutines were left running:\n%s", len(leaked), strings.Join(leaked, "\n\n"))
				return
			}
			time.Sleep(min(pause, 100*time.Millisecond))
		}
	})
}

func leakedSince(before map[string]string) []string {
	var leaked []string
	for id, stack := range goroutines() {
		if _, old := before[id]; !old && !ownedByRuntime(stack) {
			leaked = append(leaked, stack)
		}
	}
	return leaked
}

// ownedByRuntime says of goroutines that start once in a process and stay.
func ownedByRuntime(stack string) bool {
	for _, function := range []string{
		"testing.tRunner(", "testing.(*T).", "testing.(*M).", "testing.runFuzz",
		"os/signal.loop(", "os/signal.signal_recv(", "runtime.ensureSigM",
	} {
		if strings.Contains(stack, "\n"+function) {
			return true
		}
	}
	return false
}

// goroutines returns the stacks of all other goroutines by "goroutine N".
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := make(map[string]string)
	for i, stack := range bytes.Split(buf, []byte("\n\n")) {
		if i == 0 {
			continue // the one that is running this
		}
		id, _, _ := strings.Cut(string(stack), " [")
		all[id] = strings.TrimSpace(string(stack))
	}
	return all
}
