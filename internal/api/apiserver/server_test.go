package apiserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"lighter/internal/hookapi"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMetricsAreDocumented holds the table of docs/metrics.md against the families.
func TestMetricsAreDocumented(t *testing.T) {
	var b strings.Builder
	for _, f := range families {
		kind := map[prometheus.ValueType]string{prometheus.GaugeValue: "gauge", prometheus.CounterValue: "counter"}[f.kind]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, kind, strings.Join(f.labels, ", "), f.help)
	}
	doc, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil || !strings.Contains(string(doc), b.String()) {
		t.Errorf("docs/metrics.md lacks this table (%v):\n%s", err, b.String())
	}
}

// TestTooManyConversations: one more with a build hook is refused in words.
func TestTooManyConversations(t *testing.T) {
	s := &Server{memory: newMemory()}
	s.conversations.Store(maxConversations)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, hookapi.Path, nil)
	r.Header.Set("Upgrade", hookapi.Protocol)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "8192 build hooks talk to the coordinator already") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if n := s.conversations.Load(); n != maxConversations {
		t.Errorf("%d conversations are counted", n)
	}
}
