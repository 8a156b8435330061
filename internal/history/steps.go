package history

import (
	"cmp"
	"math"
	"slices"
	"time"

	"lighter/internal/api"
)

// maxValues bounds the values of each column of an answer, of all machines together.
const maxValues = 400_000

// Steps joins readings into steps, which may be as short as a reading.
type Steps struct {
	query   api.HistoryQuery
	first   int64   // the number of the first step, since 1970
	covered []int64 // of each step, in seconds
	systems map[string]*joined
	// all has the sums of all machines.
	all      *joined
	machines map[string]*joined
}

// joined are the sums of one system or machine, by step. Those of what is so at the end of a reading are
// weighted with its seconds.
type joined struct {
	columns [][]float64
	known   []float64 // seconds of which the load is known
}

// NewSteps returns steps without anything in them for a query, which must be one that
// [api.HistoryQuery.Check] accepts.
func NewSteps(q api.HistoryQuery) *Steps {
	s := &Steps{query: q, first: q.Since.Unix() / int64(q.Step), systems: make(map[string]*joined), machines: make(map[string]*joined)}
	s.covered = make([]int64, q.Steps())
	s.all = s.join(machineColumns)
	return s
}

// Hours returns the numbers of the first and the last hour that are wanted.
func (s *Steps) Hours() (first, last int64) {
	return HourOf(s.begin(0)), HourOf(s.begin(len(s.covered)).Add(-1))
}

// begin is when a step begins.
func (s *Steps) begin(i int) time.Time {
	return time.Unix((s.first+int64(i))*int64(s.query.Step), 0)
}

func (s *Steps) join(columns int) *joined {
	j := &joined{columns: make([][]float64, columns), known: make([]float64, len(s.covered))}
	for c := range j.columns {
		j.columns[c] = make([]float64, len(s.covered))
	}
	return j
}

// Add adds an hour. Its error is for the client: that the answer would be too long.
func (s *Steps) Add(h *Hour) error {
	for i := range h.Parts {
		if step, ok := s.step(h, i); ok {
			s.covered[step] += h.Covered[i]
		}
	}
	for k := range h.Systems {
		system := &h.Systems[k]
		j := s.systems[system.Name]
		if j == nil {
			j = s.join(systemColumns)
			s.systems[system.Name] = j
		}
		s.addSystem(j, h, system)
	}
	for k := range h.Machines {
		m := &h.Machines[k]
		s.addMachine(s.all, h, m)
		if s.query.Summary || s.query.Machine != "" && s.query.Machine != m.Name {
			continue
		}
		j := s.machines[m.Name]
		if j == nil {
			if (len(s.machines)+1)*len(s.covered) > maxValues {
				return api.BadRequest("%d steps of more than %d machines are too much for one answer: want a longer step, a shorter time, one machine, or summary=true",
					len(s.covered), len(s.machines))
			}
			j = s.join(machineColumns)
			s.machines[m.Name] = j
		}
		s.addMachine(j, h, m)
	}
	return nil
}

// step returns which step a reading belongs to, if there is one.
func (s *Steps) step(h *Hour, reading int) (step int, ok bool) {
	at := h.Number*3600 + int64(h.Parts[reading])*int64(Interval/time.Second)
	step = int(at/int64(s.query.Step) - s.first)
	return step, step >= 0 && step < len(s.covered)
}

func (s *Steps) addSystem(j *joined, h *Hour, system *Series) {
	for i := range h.Parts {
		step, ok := s.step(h, i)
		if !ok {
			continue
		}
		for c, values := range system.Columns {
			v := float64(values[i])
			if c < succeeded {
				v *= float64(h.Covered[i])
			}
			j.columns[c][step] += v
		}
	}
}

func (s *Steps) addMachine(j *joined, h *Hour, m *Series) {
	for i := range h.Parts {
		step, ok := s.step(h, i)
		if !ok {
			continue
		}
		weight := float64(h.Covered[i])
		j.columns[slots][step] += weight * float64(m.Columns[slots][i])
		j.columns[used][step] += float64(m.Columns[used][i]) * unitOfUse.Seconds()
		if l := m.Columns[load][i]; l > 0 {
			j.columns[load][step] += weight * float64(l-1) / 100
			j.known[step] += weight
		}
	}
}

// History returns what the steps have.
func (s *Steps) History() *api.History {
	h := &api.History{
		Since: s.begin(0).UTC(), Until: s.begin(len(s.covered)).UTC(), Step: s.query.Step,
		Times: []time.Time{}, Covered: []api.Seconds{}, Systems: []api.SystemHistory{}, Slots: s.mean(s.all.columns[slots]), Used: s.mean(s.all.columns[used]),
	}
	for i, c := range s.covered {
		if c > 0 {
			h.Times, h.Covered = append(h.Times, s.begin(i).UTC()), append(h.Covered, api.Seconds(c))
		}
	}
	for name, j := range s.systems {
		h.Systems = append(h.Systems, api.SystemHistory{
			System: name, Queued: s.mean(j.columns[queued]), Waiting: s.mean(j.columns[waiting]), Running: s.mean(j.columns[running]),
			Succeeded: s.sum(j.columns[succeeded]), Failed: s.sum(j.columns[failed]), Other: s.sum(j.columns[other]),
		})
	}
	for name, j := range s.machines {
		h.Machines = append(h.Machines, api.MachineHistory{Machine: name, Slots: s.mean(j.columns[slots]), Used: s.mean(j.columns[used]), Load: s.load(j)})
	}
	slices.SortFunc(h.Systems, func(a, b api.SystemHistory) int { return cmp.Compare(a.System, b.System) })
	slices.SortFunc(h.Machines, func(a, b api.MachineHistory) int { return cmp.Compare(a.Machine, b.Machine) })
	return h
}

// mean returns the means of sums that are weighted with seconds, of the steps of which something is known.
func (s *Steps) mean(sums []float64) []float64 {
	list := []float64{}
	for i, c := range s.covered {
		if c > 0 {
			list = append(list, hundredths(sums[i]/float64(c)))
		}
	}
	return list
}

func (s *Steps) load(j *joined) []float64 {
	list := []float64{}
	for i, c := range s.covered {
		switch {
		case c > 0 && j.known[i] > 0:
			list = append(list, hundredths(j.columns[load][i]/j.known[i]))
		case c > 0:
			list = append(list, -1)
		}
	}
	return list
}

func (s *Steps) sum(sums []float64) []int64 {
	list := []int64{}
	for i, c := range s.covered {
		if c > 0 {
			list = append(list, int64(sums[i]))
		}
	}
	return list
}

func hundredths(v float64) float64 { return math.Round(100*v) / 100 }
