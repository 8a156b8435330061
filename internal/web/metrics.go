package web

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"lighter/internal/api/apiclient"
)

// serveMetrics answers with the coordinator's figures and the page's own, for Prometheus.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	a, err := s.bodies.get(r, false, s.now, func(r *http.Request) (*answer, error) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		var body bytes.Buffer
		if err := s.ask(ctx, func(ctx context.Context, c *apiclient.Client) error { return c.Metrics(ctx, &body) }); err != nil {
			return nil, err
		}
		state := s.feed.State()
		for _, gauge := range []struct {
			name, help string
			value      uint64
		}{
			{"streams", "Streams of events that are open.", uint64(state.Streams)}, // #nosec G115 -- not negative
			{"last_event", "Number of the newest event that was read.", state.Last},
			{"kept_event_bytes", "Bytes of events that are kept for streams.", uint64(state.Kept)}, // #nosec G115 -- not negative
		} {
			fmt.Fprintf(&body, "# HELP lighter_web_%s %s\n# TYPE lighter_web_%s gauge\nlighter_web_%s %d\n", gauge.name, gauge.help, gauge.name, gauge.name, gauge.value)
		}
		return newAnswer("text/plain; version=0.0.4; charset=utf-8", body.Bytes()), nil
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	a.serve(w, r)
}
