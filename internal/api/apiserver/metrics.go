package apiserver

import (
	"cmp"
	"net/http"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator"
)

// processMetrics are the figures of this process: those that every program in Go has.
// Their names start with lighter_ too, so that node_exporter, which has them of itself,
// can pass all of this on.
func processMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		prometheus.WrapCollectorWithPrefix("lighter_", collectors.NewGoCollector()),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{Namespace: "lighter"}),
	)
	return r
}

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	now, err := s.c.Figures(r.Context())
	if err != nil {
		return err
	}
	own := prometheus.NewPedanticRegistry()
	own.MustRegister(&figures{s, now}, now.Latency)
	all := prometheus.Gatherers{own, s.process}
	promhttp.HandlerFor(all, promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(w, r)
	return nil
}

// family are the figures of one name.
type family struct {
	name, help string
	labels     []string
	kind       prometheus.ValueType
	desc       *prometheus.Desc
}

// families are all of them, in the order of docs/metrics.md.
var families []*family

func newFamily(kind prometheus.ValueType, name, help string, labels ...string) *family {
	f := &family{name: "lighter_" + name, help: help, labels: labels, kind: kind}
	f.desc = prometheus.NewDesc(f.name, f.help, labels, nil)
	families = append(families, f)
	return f
}

func gauge(name, help string, labels ...string) *family {
	return newFamily(prometheus.GaugeValue, name, help, labels...)
}

func counter(name, help string, labels ...string) *family {
	return newFamily(prometheus.CounterValue, name, help, labels...)
}

// Counters are since the coordinator's start. Gauges of what is not known are left out.
var (
	ledgerBuilds   = gauge("builds", "Builds in the ledger, by state.", "state")
	buildsFinished = counter("builds_finished_total", "Builds that became final, by state.", "state")
	queueBuilds    = gauge("queue_builds", "Builds that are not final, by system and by what they do.", "system", "state")
	queueEmpty     = gauge("queue_empty_seconds", "Expected time until no build of a system is left; 0 if not known.", "system")
	shareBuilds    = gauge("share_builds", "Builds that are ready or running, by for whom they are.", "share", "state")
	shareSlotTime  = counter("share_slot_seconds_total", "For how long slots were held, by for whom.", "share")
	shareUsed      = gauge("share_used_seconds", "The same, what is long ago counting less, also from before the start.", "share")
	attemptsFailed = counter("attempts_failed_total", "Attempts that failed, by who is to blame.", "culprit")
	placementsMade = counter("placements_total", "Builds that were placed on a machine.")

	machinesByState = gauge("machines", "Machines, by state.", "state")
	machineUp       = gauge("machine_up", "1 if the machine is reached.", "machine")
	machineAdmits   = gauge("machine_admits", "1 if the machine takes builds, but for its slots and load.", "machine")
	machineSlots    = gauge("machine_slots", "Builds that the machine takes at the same time.", "machine", "host")
	machineRunning  = gauge("machine_running", "Slots that are taken.", "machine", "host")
	machineSpeed    = gauge("machine_bandwidth_bytes_per_second", "Measured towards the machine; 0 if not known.", "machine", "host")
	machineBack     = gauge("machine_fetch_bandwidth_bytes_per_second", "Measured from the machine; 0 if not known.", "machine", "host")
	machineSent     = counter("machine_sent_bytes_total", "Bytes of archives that were sent to the machine.", "machine")
	machineFetched  = counter("machine_fetched_bytes_total", "Bytes of archives that were fetched from the machine.", "machine")

	placingPaused = gauge("paused", "1 if nothing is placed: an operator paused the coordinator, or the head has no room.")
	headDisk      = gauge("head_free_disk_bytes", "Free where the head's store is.")
	headInodes    = gauge("head_free_inodes", "Free where the head's store is.")
	headStateDisk = gauge("head_state_free_disk_bytes", "Free where ledger and logs are.")
	ledgerBytes   = gauge("ledger_bytes", "What the ledger takes on the disk.")
	ledgerEvent   = gauge("ledger_last_event", "Number of the last event.")
	hooksPending  = gauge("hooks_pending", "Runs of event hooks that are to come, or under way.")
	hooksParked   = gauge("hooks_parked", "Runs of event hooks that failed too often.")
	buildInfo     = gauge("build_info", "Always 1; the labels say which program this is.", "version", "go")
)

// machineSays are the figures that a machine tells of itself; a negative one is not known.
var machineSays = []struct {
	*family
	value func(*agentapi.Machine) float64
}{
	{gauge("machine_load", "Load average of a minute, for each core.", "machine", "host"), func(i *agentapi.Machine) float64 { return i.Load / float64(max(1, i.Cores)) }},
	{gauge("machine_cpu_pressure_ratio", "Part of the last 10 seconds in which tasks waited for the CPU.", "machine", "host"), func(i *agentapi.Machine) float64 { return i.CPUPressure / 100 }},
	{gauge("machine_memory_pressure_ratio", "Part of the last 10 seconds in which tasks waited for memory.", "machine", "host"), func(i *agentapi.Machine) float64 { return i.MemoryPressure / 100 }},
	{gauge("machine_free_disk_bytes", "Free where the machine's store is.", "machine", "host"), func(i *agentapi.Machine) float64 { return float64(i.FreeDisk) }},
	{gauge("machine_free_inodes", "Free where the machine's store is.", "machine", "host"), func(i *agentapi.Machine) float64 { return float64(i.FreeInodes) }},
	{gauge("machine_build_free_disk_bytes", "Free where builds have their folders.", "machine", "host"), func(i *agentapi.Machine) float64 { return float64(i.BuildFreeDisk) }},
	{gauge("machine_free_memory_bytes", "Memory available there.", "machine", "host"), func(i *agentapi.Machine) float64 { return float64(i.FreeMemory) }},
}

// figures is the coordinator's state at one moment, as a [prometheus.Collector].
type figures struct {
	s *Server
	*coordinator.Figures
}

// Describe implements prometheus.Collector.
func (*figures) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (n *figures) Collect(ch chan<- prometheus.Metric) {
	put := func(f *family, v float64, labels ...string) {
		for i := range labels {
			labels[i] = strings.ToValidUTF8(labels[i], "\uFFFD")
		}
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, v, labels...)
	}
	n.ofBuilds(put)
	n.ofMachines(put)
	n.ofHead(put)
}

func (n *figures) ofBuilds(put func(f *family, v float64, labels ...string)) {
	counts := n.s.ledger.Counts()
	for _, state := range api.States() {
		put(ledgerBuilds, float64(counts[state]), string(state))
		if state.Final() {
			put(buildsFinished, float64(n.Finals[state]), string(state))
		}
	}
	for _, q := range n.Queues {
		put(queueBuilds, float64(q.Queued), q.System, "queued")
		put(queueBuilds, float64(q.Waiting), q.System, "waiting")
		put(queueBuilds, float64(q.Running), q.System, "running")
		put(queueEmpty, float64(q.Empty), q.System)
	}
	for share, c := range n.Shares {
		put(shareBuilds, float64(c.Queued), share, "ready")
		put(shareBuilds, float64(c.Running), share, "running")
		put(shareSlotTime, c.SlotSeconds, share)
		put(shareUsed, c.Used, share)
	}
	for _, by := range []api.Culprit{api.CulpritDerivation, api.CulpritMachine, api.CulpritLink, api.CulpritCoordinator} {
		put(attemptsFailed, float64(n.Failed[by]), string(by))
	}
	put(placementsMade, float64(n.Placements))
}

func (n *figures) ofMachines(put func(f *family, v float64, labels ...string)) {
	states := make(map[api.MachineState]int)
	for i := range n.Machines {
		m := &n.Machines[i]
		states[m.State]++
		host := cmp.Or(m.Host, m.Name)
		put(machineUp, oneIf(m.State == api.MachineUp), m.Name)
		put(machineAdmits, oneIf(m.Admits), m.Name)
		put(machineSlots, float64(m.ParallelBuilds), m.Name, host)
		put(machineRunning, float64(m.Running), m.Name, host)
		put(machineSpeed, m.Bandwidth, m.Name, host)
		put(machineBack, m.FetchBandwidth, m.Name, host)
		put(machineSent, float64(m.Sent), m.Name)
		put(machineFetched, float64(m.Fetched), m.Name)
		if m.Info == nil {
			continue
		}
		for _, says := range machineSays {
			if v := says.value(m.Info); v >= 0 {
				put(says.family, v, m.Name, host)
			}
		}
	}
	for _, state := range []api.MachineState{api.MachineUnknown, api.MachineConnecting, api.MachineUp, api.MachineDown, api.MachineUntrusted, api.MachineUnfit} {
		put(machinesByState, float64(states[state]), string(state))
	}
}

func (n *figures) ofHead(put func(f *family, v float64, labels ...string)) {
	put(placingPaused, oneIf(n.Paused))
	for _, known := range []struct {
		*family
		value int64 // negative if it is not known
	}{{headDisk, n.Head.FreeDisk}, {headInodes, n.Head.FreeInodes}, {headStateDisk, n.Head.StateFreeDisk}} {
		if known.value >= 0 {
			put(known.family, float64(known.value))
		}
	}
	put(ledgerBytes, float64(n.s.ledger.DiskUsage()))
	put(ledgerEvent, float64(n.s.ledger.LastEvent()))
	put(hooksPending, float64(n.HooksPending))
	put(hooksParked, float64(n.HooksParked))
	put(buildInfo, 1, n.s.c.Version(), runtime.Version())
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
