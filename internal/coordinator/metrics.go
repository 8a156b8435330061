package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
)

// metricsType is the media type of the text format of Prometheus.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

func (c *Coordinator) getMetrics(w http.ResponseWriter, r *http.Request) error {
	text, err := c.metrics(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", metricsType)
	_, _ = w.Write(text) // that the client is gone is no error here
	return nil
}

// measured is what the loop knows of it, at one moment.
type measured struct {
	machines []machineMetrics
	queues   []api.SystemQueue
	head     api.HeadStatus
	paused   bool
	finals   map[api.State]uint64
	failed   map[api.Culprit]uint64
	placed   uint64
	latency  histogram
}

// machineMetrics are the figures of one machine.
type machineMetrics struct {
	api.MachineStatus
	admitted bool              // takes builds, but for its slots and load
	info     *agentapi.Machine // what is not known is negative; nil if nothing is
}

func (c *Coordinator) measureLoop(ctx context.Context) (*measured, error) {
	var m measured
	err := c.do(ctx, func() {
		for _, x := range c.machines {
			one := machineMetrics{MachineStatus: c.machineStatus(x), admitted: x.unavailable() == "" && x.refuses == ""}
			if x.info != nil {
				one.info = withUnknown(x.info)
			}
			m.machines = append(m.machines, one)
		}
		m.queues, m.head, m.paused = c.queues(time.Now()), c.space, c.held() != ""
		n := &c.counts
		m.finals, m.failed, m.placed, m.latency = maps.Clone(n.finals), maps.Clone(n.failed), n.placements, n.latency.clone()
	})
	return &m, err
}

// metrics returns the coordinator's figures in the text format of Prometheus.
func (c *Coordinator) metrics(ctx context.Context) ([]byte, error) {
	m, err := c.measureLoop(ctx)
	if err != nil {
		return nil, err
	}
	w := &metricsText{}
	c.buildMetrics(w, m)
	c.machineMetrics(w, m)
	c.processMetrics(w, m)
	return w.b.Bytes(), nil
}

func (c *Coordinator) buildMetrics(w *metricsText, m *measured) {
	counts := c.ledger.Counts()
	w.family("lighter_builds", "gauge", "Builds in the ledger, by state.")
	for _, s := range api.States() {
		w.sample("lighter_builds", float64(counts[s]), "state", string(s))
	}
	w.family("lighter_builds_finished_total", "counter", "Builds that became final since the start, by state.")
	for _, s := range api.States() {
		if s.Final() {
			w.sample("lighter_builds_finished_total", float64(m.finals[s]), "state", string(s))
		}
	}
	w.family("lighter_queue_builds", "gauge", "Builds that are not final, by system and what they do.")
	for _, q := range m.queues {
		w.sample("lighter_queue_builds", float64(q.Queued), "system", q.System, "state", "queued")
		w.sample("lighter_queue_builds", float64(q.Waiting), "system", q.System, "state", "waiting")
		w.sample("lighter_queue_builds", float64(q.Running), "system", q.System, "state", "running")
	}
	w.family("lighter_queue_empty_seconds", "gauge", "Expected time until no build of a system is left; 0 if not known.")
	for _, q := range m.queues {
		w.sample("lighter_queue_empty_seconds", float64(q.Empty), "system", q.System)
	}
	w.family("lighter_attempts_failed_total", "counter", "Attempts that failed since the start, by who is to blame.")
	for _, by := range []api.Culprit{api.CulpritDerivation, api.CulpritMachine, api.CulpritLink, api.CulpritCoordinator} {
		w.sample("lighter_attempts_failed_total", float64(m.failed[by]), "culprit", string(by))
	}
	w.one("lighter_placements_total", "counter", "Builds that were placed on a machine since the start.", float64(m.placed))
	w.histogram("lighter_scheduling_latency_seconds", "Time from when a build could be placed to when it was.", &m.latency)
}

func (c *Coordinator) machineMetrics(w *metricsText, m *measured) {
	states := make(map[string]int)
	for i := range m.machines {
		states[m.machines[i].State]++
	}
	w.family("lighter_machines", "gauge", "Machines, by state.")
	for _, s := range []string{stateUnknown, stateConnecting, stateUp, stateDown} {
		w.sample("lighter_machines", float64(states[s]), "state", s)
	}
	for _, f := range []struct {
		name, help string
		value      func(*machineMetrics) float64
	}{
		{"up", "Whether the machine is reached.", func(x *machineMetrics) float64 { return oneIf(x.State == stateUp) }},
		{"admits", "Whether the machine takes builds, but for its slots and load.", func(x *machineMetrics) float64 { return oneIf(x.admitted) }},
		{"slots", "Builds that the machine takes at the same time.", func(x *machineMetrics) float64 { return float64(x.ParallelBuilds) }},
		{"running", "Slots that are taken.", func(x *machineMetrics) float64 { return float64(x.Running) }},
		{"bandwidth_bytes_per_second", "Measured, towards the machine; 0 if not known.", func(x *machineMetrics) float64 { return x.Bandwidth }},
	} {
		name := "lighter_machine_" + f.name
		w.family(name, "gauge", f.help)
		for i := range m.machines {
			w.sample(name, f.value(&m.machines[i]), "machine", m.machines[i].Name)
		}
	}
	for _, f := range []struct {
		name, help string
		value      func(*agentapi.Machine) float64 // negative is not known
	}{
		{"load", "Load average of a minute, for each core.", func(i *agentapi.Machine) float64 { return i.Load / float64(max(1, i.Cores)) }},
		{"cpu_pressure_percent", "Part of the last 10 seconds in which tasks waited for the CPU.", func(i *agentapi.Machine) float64 { return i.CPUPressure }},
		{"memory_pressure_percent", "Part of the last 10 seconds in which tasks waited for memory.", func(i *agentapi.Machine) float64 { return i.MemoryPressure }},
		{"free_disk_bytes", "Free where the machine's store is.", func(i *agentapi.Machine) float64 { return float64(i.FreeDisk) }},
		{"free_inodes", "Free where the machine's store is.", func(i *agentapi.Machine) float64 { return float64(i.FreeInodes) }},
		{"build_free_disk_bytes", "Free where builds have their folders.", func(i *agentapi.Machine) float64 { return float64(i.BuildFreeDisk) }},
		{"free_memory_bytes", "Memory available there.", func(i *agentapi.Machine) float64 { return float64(i.FreeMemory) }},
	} {
		name := "lighter_machine_" + f.name
		w.family(name, "gauge", f.help)
		for i := range m.machines {
			if x := &m.machines[i]; x.info != nil && f.value(x.info) >= 0 {
				w.sample(name, f.value(x.info), "machine", x.Name)
			}
		}
	}
	totals := c.moving.totals()
	for _, f := range []struct{ name, direction, help string }{
		{"lighter_machine_sent_bytes_total", "send", "Bytes of archives sent to the machine since the start."},
		{"lighter_machine_fetched_bytes_total", "fetch", "Bytes of archives fetched from the machine since the start."},
	} {
		w.family(f.name, "counter", f.help)
		for i := range m.machines {
			name := m.machines[i].Name
			w.sample(f.name, float64(totals[moved{name, f.direction}]), "machine", name)
		}
	}
}

func (c *Coordinator) processMetrics(w *metricsText, m *measured) {
	w.one("lighter_paused", "gauge", "Whether nothing is placed, for an operator's or the head's sake.", oneIf(m.paused))
	w.known("lighter_head_free_disk_bytes", "Free where the head's store is.", m.head.FreeDisk)
	w.known("lighter_head_free_inodes", "Free where the head's store is.", m.head.FreeInodes)
	w.known("lighter_head_state_free_disk_bytes", "Free where ledger and logs are.", m.head.StateFreeDisk)
	w.one("lighter_ledger_bytes", "gauge", "What the ledger takes on the disk.", float64(c.ledger.DiskUsage()))
	w.one("lighter_ledger_last_event", "gauge", "Number of the last event.", float64(c.ledger.LastEvent()))
	pending, parked := c.hookRuns()
	w.one("lighter_hooks_pending", "gauge", "Runs of event hooks that are to come, or under way.", float64(pending))
	w.one("lighter_hooks_parked", "gauge", "Runs of event hooks that failed too often.", float64(parked))
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	metrics.Read(samples)
	w.one("lighter_process_memory_bytes", "gauge", "Memory that the coordinator got from the system.", uintOf(samples[0]))
	w.one("lighter_process_heap_bytes", "gauge", "Memory of the coordinator's objects.", uintOf(samples[1]))
	w.one("lighter_process_goroutines", "gauge", "Goroutines of the coordinator.", uintOf(samples[2]))
	w.one("lighter_start_time_seconds", "gauge", "When the coordinator started, since 1970.", float64(c.started.UnixMilli())/1000)
	w.family("lighter_build_info", "gauge", "Always 1; the labels say which program this is.")
	w.sample("lighter_build_info", 1, "version", c.cfg.Version, "go", runtime.Version())
}

// hookRuns counts the runs of event hooks that are to come, and those that are parked.
func (c *Coordinator) hookRuns() (pending, parked int) {
	if c.hookCounts == nil {
		return 0, 0
	}
	return c.hookCounts()
}

func uintOf(s metrics.Sample) float64 {
	if s.Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return float64(s.Value.Uint64())
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// metricsText writes the text format of Prometheus, version 0.0.4. Names and help texts are
// constants of this file, values of labels are anything.
type metricsText struct{ b bytes.Buffer }

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// family begins the samples of one name.
func (w *metricsText) family(name, kind, help string) {
	fmt.Fprintf(&w.b, "# HELP %s %s\n# TYPE %s %s\n", name, escapeHelp.Replace(help), name, kind)
}

// sample writes one value. Labels are names and values in turn.
func (w *metricsText) sample(name string, v float64, labels ...string) {
	w.b.WriteString(name)
	for i, pair := range slices.Collect(slices.Chunk(labels, 2)) {
		w.b.WriteString([]string{"{", ","}[min(i, 1)])
		fmt.Fprintf(&w.b, `%s="%s"`, pair[0], escapeLabel.Replace(strings.ToValidUTF8(pair[1], "\uFFFD")))
	}
	if len(labels) > 0 {
		w.b.WriteByte('}')
	}
	w.b.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

// one writes a family of one sample without labels.
func (w *metricsText) one(name, kind, help string, v float64) {
	w.family(name, kind, help)
	w.sample(name, v)
}

// known writes a gauge if it is not negative.
func (w *metricsText) known(name, help string, v int64) {
	if v >= 0 {
		w.one(name, "gauge", help, float64(v))
	}
}

func (w *metricsText) histogram(name, help string, h *histogram) {
	w.family(name, "histogram", help)
	var sum uint64
	for i, n := range h.counts {
		sum += n
		le := "+Inf"
		if i < len(h.bounds) {
			le = strconv.FormatFloat(h.bounds[i], 'g', -1, 64)
		}
		w.sample(name+"_bucket", float64(sum), "le", le)
	}
	w.sample(name+"_sum", h.sum)
	w.sample(name+"_count", float64(sum))
}
