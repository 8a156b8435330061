package coordinator

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lighter/internal/api"
)

// exposition is what a strict reading of the text format finds: values by name and labels,
// and types by family.
type exposition struct {
	types   map[string]string
	values  map[string]float64
	buckets map[string][]float64 // cumulative counts of histograms, in order
}

var (
	helpLine   = regexp.MustCompile(`^# HELP ([a-z_]+) (\S.*)$`)
	typeLine   = regexp.MustCompile(`^# TYPE ([a-z_]+) (counter|gauge|histogram)$`)
	sampleLine = regexp.MustCompile(`^([a-z_]+)(\{(.*)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`^([a-z_]+)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)`)
)

// parseMetrics refuses everything that Prometheus would, and samples that stand apart from
// their family.
func parseMetrics(text string) (*exposition, error) {
	x := &exposition{types: make(map[string]string), values: make(map[string]float64), buckets: make(map[string][]float64)}
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line does not end")
	}
	help, family := "", ""
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		bad := func(why string) error { return fmt.Errorf("line %d: %s: %q", i+1, why, line) }
		if m := helpLine.FindStringSubmatch(line); m != nil {
			help = m[1]
			continue
		}
		if m := typeLine.FindStringSubmatch(line); m != nil {
			if m[1] != help || x.types[m[1]] != "" {
				return nil, bad("type without help, or twice")
			}
			family = m[1]
			x.types[family] = m[2]
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			return nil, bad("neither help, type nor sample")
		}
		name := m[1]
		if x.types[family] == "histogram" {
			name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		}
		if name != family || !strings.HasPrefix(name, "lighter_") {
			return nil, bad("not of the family " + family)
		}
		if strings.HasSuffix(name, "_total") != (x.types[family] == "counter") {
			return nil, bad("counters, and only they, end in _total")
		}
		if m[2] == "{}" {
			return nil, bad("no labels in braces")
		}
		for rest := m[3]; rest != ""; {
			pair := labelPair.FindStringSubmatch(rest)
			if pair == nil {
				return nil, bad("labels")
			}
			if rest = rest[len(pair[0]):]; pair[3] == "," && rest == "" {
				return nil, bad("a comma at the end")
			}
		}
		v, err := strconv.ParseFloat(m[4], 64)
		if err != nil {
			return nil, bad("value")
		}
		key := m[1] + m[2]
		if _, twice := x.values[key]; twice {
			return nil, bad("twice")
		}
		x.values[key] = v
		if strings.HasSuffix(m[1], "_bucket") {
			x.buckets[family] = append(x.buckets[family], v)
		}
	}
	return x, nil
}

func TestParseMetricsIsStrict(t *testing.T) {
	const head = "# HELP lighter_x X.\n# TYPE lighter_x gauge\n"
	if _, err := parseMetrics(head + "lighter_x{a=\"b\\\"c\",d=\"\"} 1\n"); err != nil {
		t.Errorf("a right one: %v", err)
	}
	for _, bad := range []string{
		"lighter_x 1\n", head + "lighter_x 1", head + "lighter_y 1\n", head + "lighter_x one\n", head + "lighter_x{a=b} 1\n",
		head + "lighter_x{a=\"b\",} 1\n", head + "lighter_x{a=\"\"\"} 1\n", head + "lighter_x{a=\"\\x\"} 1\n", head + "lighter_x 1\nlighter_x 1\n",
		head + "\n", head + "lighter_x{} 1\n", head + head, "# TYPE lighter_x gauge\nlighter_x 1\n", strings.Replace(head, "gauge", "counter", 1) + "lighter_x 1\n",
	} {
		if _, err := parseMetrics(bad); err == nil {
			t.Errorf("it takes %q", bad)
		}
	}
}

func TestMetricsText(t *testing.T) {
	w := &metricsText{}
	w.family("lighter_x", "gauge", "One\nline \\ only.")
	w.sample("lighter_x", 0.5, "a", "b\"c\\d\ne\xff", "f", "")
	w.known("lighter_y", "Not known.", -1)
	want := "# HELP lighter_x One\\nline \\\\ only.\n# TYPE lighter_x gauge\nlighter_x{a=\"b\\\"c\\\\d\\ne\uFFFD\",f=\"\"} 0.5\n"
	if got := w.b.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestMetrics(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.StoreFolder, c.StateFolder = t.TempDir(), t.TempDir() }, "m1", "m2")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	f.until("both are up, and the head is measured", func() bool {
		s, err := f.c.Status(t.Context())
		return err == nil && s.Machines[0].State == stateUp && s.Machines[1].State == stateUp && s.Head.FreeDisk > 0
	})
	f.c.hookCounts = func() (int, int) { return 3, 1 }
	f.awaitState(f.submit(f.drv("good", ""))[0], api.Succeeded)
	f.awaitState(f.submit(f.drv("bad", "fail"))[0], api.Failed)
	held := f.submit(f.drv("held", "hold"))[0]
	f.awaitState(held, api.Building)
	f.until("the ledger counts it", func() bool { return f.ledger.Counts()[api.Building] == 1 })
	var b bytes.Buffer
	if err := client.Metrics(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	x, err := parseMetrics(b.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	for key, want := range map[string]float64{
		`lighter_builds{state="building"}`:                            1,
		`lighter_builds{state="queued"}`:                              0,
		`lighter_builds_finished_total{state="succeeded"}`:            1,
		`lighter_builds_finished_total{state="failed"}`:               1,
		`lighter_queue_builds{system="x86_64-linux",state="running"}`: 1,
		`lighter_machines{state="up"}`:                                2,
		`lighter_machines{state="down"}`:                              0,
		`lighter_machine_slots{machine="m1"}`:                         2,
		`lighter_machine_admits{machine="m2"}`:                        1,
		`lighter_machine_free_disk_bytes{machine="m1"}`:               1 << 40,
		`lighter_attempts_failed_total{culprit="derivation"}`:         1,
		`lighter_attempts_failed_total{culprit="link"}`:               0,
		`lighter_placements_total`:                                    3,
		`lighter_scheduling_latency_seconds_count`:                    3,
		`lighter_scheduling_latency_seconds_bucket{le="+Inf"}`:        3,
		`lighter_ledger_last_event`:                                   float64(f.ledger.LastEvent()),
		`lighter_hooks_pending`:                                       3,
		`lighter_hooks_parked`:                                        1,
		`lighter_paused`:                                              0,
	} {
		if got, ok := x.values[key]; !ok || got != want {
			t.Errorf("%s is %g (%v), want %g", key, got, ok, want)
		}
	}
	sent := x.values[`lighter_machine_sent_bytes_total{machine="m1"}`] + x.values[`lighter_machine_sent_bytes_total{machine="m2"}`]
	running := x.values[`lighter_machine_running{machine="m1"}`] + x.values[`lighter_machine_running{machine="m2"}`]
	if sent <= 0 || running != 1 {
		t.Errorf("%g bytes sent, %g slots taken", sent, running)
	}
	for _, name := range []string{"lighter_process_memory_bytes", "lighter_process_goroutines", "lighter_head_free_disk_bytes", "lighter_head_state_free_disk_bytes", "lighter_ledger_bytes", "lighter_start_time_seconds", "lighter_queue_empty_seconds{system=\"x86_64-linux\"}"} {
		if x.values[name] <= 0 {
			t.Errorf("%s is %g", name, x.values[name])
		}
	}
	if _, known := x.values[`lighter_machine_cpu_pressure_percent{machine="m1"}`]; known {
		t.Error("a pressure that the agent does not say has a value")
	}
	if !slices.IsSorted(x.buckets["lighter_scheduling_latency_seconds"]) || len(x.buckets["lighter_scheduling_latency_seconds"]) != 14 {
		t.Errorf("buckets %v", x.buckets)
	}
	if !strings.Contains(b.String(), `lighter_build_info{version="test",go="go`) {
		t.Error("no build info")
	}
	f.releaseAll("held")
	f.awaitState(held, api.Succeeded)
	f.idle()
}
