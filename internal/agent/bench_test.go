package agent

import (
	"fmt"
	"io"
	"log/slog"
	"testing"

	"lighter/internal/agentapi"
)

// BenchmarkBuild is the whole life of a build that takes no time, over a pipe: what an
// agent and its client add to what the store does.
func BenchmarkBuild(b *testing.B) {
	s := newFakeStore(b)
	r := start(b, s, func(o *Options) { o.Logger = slog.New(slog.DiscardHandler) })
	req := request(b, 1, "a", "log=hello nothing")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprint("b", i)
		if status, err := r.client.PutBuild(b.Context(), &agentapi.Asked{ID: id}, req); err != nil || status.State == agentapi.Failed {
			b.Fatal(status, err)
		}
		if status, err := r.client.Log(b.Context(), &agentapi.Asked{ID: id}, 0, io.Discard); err != nil || status.State != agentapi.Succeeded {
			b.Fatal(status, err)
		}
		if err := r.client.DeleteBuild(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}
