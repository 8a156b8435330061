package coordinator

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"lighter/hooks"
	"lighter/internal/api"
)

// sampled returns the values of all samples in a text of Prometheus, by name and labels, read
// by its own parser. What its own linter has to say is an error.
func sampled(t *testing.T, text string) map[string]float64 {
	t.Helper()
	problems, err := testutil.GatherAndLint(textGatherer(text))
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "lighter_go_") { // those are not ours
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	families, err2 := textGatherer(text).Gather()
	if err := errors.Join(err, err2); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, families...)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, s := range samples {
		if key := s.Metric.String(); !strings.HasPrefix(key, "lighter_") {
			t.Errorf("%s does not start with lighter_", key)
		} else {
			values[key] = float64(s.Value)
		}
	}
	return values
}

// textGatherer is a text of Prometheus.
type textGatherer string

func (text textGatherer) Gather() ([]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	byName, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	return slices.Collect(maps.Values(byName)), err
}

func TestMetrics(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	f := newFarm(t, func(c *Config) {
		c.StoreFolder, c.StateFolder = t.TempDir(), t.TempDir()
		c.Hooks = []hooks.Config{
			{Name: "fails", Events: []string{hooks.BuildFailed}, BuiltIn: "fails"},
			{Name: "holds", Events: []string{hooks.BuildStarted}, BuiltIn: "holds"},
		}
		c.BuiltIns = map[string]hooks.BuiltIn{"fails": &hookNotes{fail: true}, "holds": &hookNotes{hold: hold}}
	}, "m1", "m2")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	f.until("both are up, and the head is measured", func() bool {
		s, err := f.c.Status(t.Context())
		return err == nil && s.Machines[0].State == api.MachineUp && s.Machines[1].State == api.MachineUp && s.Head.FreeDisk > 0
	})
	f.awaitState(f.submit(f.drv("good", ""))[0], api.Succeeded)
	f.awaitState(f.submit(f.drv("bad", "fail"))[0], api.Failed)
	held := f.submit(f.drv("held", "hold"))[0]
	f.awaitState(held, api.Building)
	f.until("the ledger counts it", func() bool { return f.ledger.Counts()[api.Building] == 1 })
	f.until("event hooks are to run for three builds", func() bool {
		pending, parked := f.c.eventHooks.Counts()
		return pending == 3 && parked == 1
	})
	var b bytes.Buffer
	if err := client.Metrics(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	values := sampled(t, b.String())
	for key, want := range map[string]float64{
		`lighter_builds{state="building"}`:                             1,
		`lighter_builds{state="queued"}`:                               0,
		`lighter_builds_finished_total{state="succeeded"}`:             1,
		`lighter_builds_finished_total{state="failed"}`:                1,
		`lighter_queue_builds{state="running", system="x86_64-linux"}`: 1,
		`lighter_machines{state="up"}`:                                 2,
		`lighter_machines{state="down"}`:                               0,
		`lighter_machine_slots{host="m1", machine="m1"}`:               2,
		`lighter_machine_admits{machine="m2"}`:                         1,
		`lighter_machine_free_disk_bytes{host="m1", machine="m1"}`:     1 << 40,
		`lighter_attempts_failed_total{culprit="derivation"}`:          1,
		`lighter_attempts_failed_total{culprit="link"}`:                0,
		`lighter_placements_total`:                                     3,
		`lighter_scheduling_latency_seconds_count`:                     3,
		`lighter_scheduling_latency_seconds_bucket{le="+Inf"}`:         3,
		`lighter_ledger_last_event`:                                    float64(f.ledger.LastEvent()),
		`lighter_hooks_pending`:                                        3,
		`lighter_hooks_parked`:                                         1,
		`lighter_paused`:                                               0,
	} {
		if got, ok := values[key]; !ok || got != want {
			t.Errorf("%s is %g (%v), want %g", key, got, ok, want)
		}
	}
	sent := values[`lighter_machine_sent_bytes_total{machine="m1"}`] + values[`lighter_machine_sent_bytes_total{machine="m2"}`]
	running := values[`lighter_machine_running{host="m1", machine="m1"}`] + values[`lighter_machine_running{host="m2", machine="m2"}`]
	if sent <= 0 || running != 1 {
		t.Errorf("%g bytes sent, %g slots taken", sent, running)
	}
	for _, name := range []string{"lighter_process_resident_memory_bytes", "lighter_go_goroutines", "lighter_head_free_disk_bytes", "lighter_head_state_free_disk_bytes", "lighter_ledger_bytes", "lighter_process_start_time_seconds", "lighter_queue_empty_seconds{system=\"x86_64-linux\"}"} {
		if values[name] <= 0 {
			t.Errorf("%s is %g", name, values[name])
		}
	}
	if _, known := values[`lighter_machine_cpu_pressure_ratio{host="m1", machine="m1"}`]; known {
		t.Error("a pressure that the agent does not say has a value")
	}
	if !strings.Contains(b.String(), `lighter_build_info{go="go`) {
		t.Error("no build info")
	}
	f.releaseAll("held")
	f.awaitState(held, api.Succeeded)
	f.idle()
}
