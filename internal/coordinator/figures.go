package coordinator

import (
	"context"
	"maps"

	"github.com/prometheus/client_golang/prometheus"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/turns"
	"lighter/internal/machinetest"
)

// Figures are what a coordinator counts and measures, at one moment. It counts from its start.
type Figures struct {
	Machines   []MachineFigures
	Queues     []api.SystemQueue
	Head       api.HeadStatus
	Paused     bool
	Shares     map[string]turns.Counted
	Finals     map[api.State]uint64   // builds that became final, by state
	Failed     map[api.Culprit]uint64 // attempts
	Placements uint64
	// Latency is the time from when a build could be placed to when it was.
	Latency prometheus.Collector
	// HooksPending are the runs of event hooks that wait or are under way; HooksParked, those
	// that failed too often.
	HooksPending, HooksParked int
}

// MachineFigures are those of one machine.
type MachineFigures struct {
	api.MachineStatus
	Admits        bool              // it takes builds, slots and load aside
	Info          *agentapi.Machine // unknown figures are negative; nil if nothing is known
	Sent, Fetched int64             // bytes of archives
}

// Figures returns the present figures.
func (c *Coordinator) Figures(ctx context.Context) (*Figures, error) {
	f := &Figures{Latency: c.latency}
	f.HooksPending, f.HooksParked = c.eventHooks.Counts()
	totals := c.moving.Totals()
	err := c.do(ctx, func(l *loop) {
		for _, m := range l.machines {
			one := MachineFigures{
				MachineStatus: m.status(), Admits: m.unavailable() == "" && m.admission.Refuses == "",
				Sent: totals[peer.Moved{Machine: m.Name, Direction: api.Send}], Fetched: totals[peer.Moved{Machine: m.Name, Direction: api.Fetch}],
			}
			if m.info != nil {
				one.Info = machinetest.WithUnknown(m.info)
			}
			f.Machines = append(f.Machines, one)
		}
		f.Shares = l.account.Counts(l.now())
		f.Queues, f.Head, f.Paused = l.queues(l.now()), l.space, l.whyPaused() != ""
		f.Finals, f.Failed, f.Placements = maps.Clone(l.counts.Finals), maps.Clone(l.counts.Failed), l.counts.Placements
	})
	return f, err
}
