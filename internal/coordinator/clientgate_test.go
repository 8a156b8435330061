package coordinator

import (
	"strings"
	"testing"

	"lighter/internal/api"
)

// TestReasonsAreBounded has each operation that takes a reason refuse one that is too long,
// or that has control characters, and change nothing.
func TestReasonsAreBounded(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	ctx := t.Context()
	id := f.submit(f.drv("one", "hold"))[0]
	<-f.agents["m1"].held
	selection := func(reason string) *api.Selection { return &api.Selection{IDs: []string{id}, Reason: reason} }
	for _, op := range []struct {
		name string
		do   func(reason string) error
	}{
		{"cancel", func(r string) error { _, err := client.CancelAll(ctx, selection(r)); return err }},
		{"retry", func(r string) error { _, err := client.Retry(ctx, selection(r)); return err }},
		{"priority", func(r string) error { _, err := client.Prioritise(ctx, selection(r)); return err }},
		{"pause", func(r string) error { return client.Pause(ctx, r) }},
		{"drain", func(r string) error { _, err := client.Drain(ctx, "m1", r); return err }},
	} {
		for reason, want := range map[string]string{
			strings.Repeat("x", api.MaxNote+1): "at most 1024",
			strings.Repeat("x", 200<<10):       "at most 1024",
			"a\nb":                             "control character",
			"\x1b]0;x\a":                       "control character",
		} {
			if err := op.do(reason); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s with a reason of %d bytes: got %v, want %q", op.name, len(reason), err, want)
			}
		}
	}
	if b := f.awaitState(id, api.Building); b.Priority != 0 {
		t.Errorf("the build has priority %d", b.Priority)
	}
	if _, err := client.CancelAll(ctx, selection(strings.Repeat("x", api.MaxNote))); err != nil {
		t.Errorf("a reason as long as may be: %v", err)
	}
	f.idle()
}
