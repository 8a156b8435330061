package simulation

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/scheduler/simulate"
)

// maxColumns is from how many results on each is a row, and no column.
const maxColumns = 4

// maxRows bounds how many machines a table lists.
const maxRows = 40

// report shows results on a terminal or in a file.
type report struct {
	w     io.Writer
	width int // of the terminal; 0 is no limit
	play  *play
	list  []*played
}

func (r *report) write() error {
	w := r.play.work
	g := w.graph
	edges := 0
	for i := range g.Nodes {
		edges += len(g.Nodes[i].Inputs)
	}
	fmt.Fprintf(r.w, "%s, %s between them, %s of work at speed 1\n",
		human.Count(len(g.Nodes), "build"), human.Count(edges, "edge"), length(r.list[0].graph.Work().Seconds()))
	switch {
	case w.guessed == 0:
		fmt.Fprintf(r.w, "all durations were measured\n")
	case w.measured == 0:
		fmt.Fprintf(r.w, "no duration was measured: all are guessed\n")
	default:
		fmt.Fprintf(r.w, "durations: %s measured, %s guessed\n", human.Number(w.measured), human.Number(w.guessed))
	}
	for _, note := range w.notes {
		fmt.Fprintf(r.w, "note: %s\n", human.Printable(note))
	}
	fmt.Fprintln(r.w)
	if err := r.results(); err != nil {
		return err
	}
	for _, one := range r.list {
		if one.policy != r.play.policies[0] {
			continue
		}
		if err := r.machines(one); err != nil {
			return err
		}
	}
	return r.shares()
}

// results compares the results.
func (r *report) results() error {
	figures := r.figures()
	table := display.Table{Heading: []string{""}}
	if len(r.list) <= maxColumns {
		for _, one := range r.list {
			table.Heading = append(table.Heading, human.Printable(one.name(r.play)))
		}
		for _, f := range figures {
			row := []string{f.what}
			for _, one := range r.list {
				row = append(row, f.of(one))
			}
			table.Add(row...)
		}
		return table.Write(r.w, r.width)
	}
	for i, f := range figures {
		table.Heading = append(table.Heading, f.what)
		if i > 2 {
			table.Optional = append([]int{i + 1}, table.Optional...) // the last ones go first
		}
	}
	for _, one := range r.list {
		row := []string{one.name(r.play)}
		for _, f := range figures {
			row = append(row, f.of(one))
		}
		table.Add(row...)
	}
	return table.Write(r.w, r.width)
}

// figure is one that results are compared by.
type figure struct {
	what string
	of   func(*played) string
}

// figures are those that say something of these results.
func (r *report) figures() []figure {
	mean := func(of func(*simulate.Result) float64, text func(float64) string) func(*played) string {
		return func(o *played) string { return text(o.mean(of)) }
	}
	list := []figure{{"makespan", mean(makespan, length)}}
	if r.play.runs > 1 {
		list = append(list, figure{"the worst of " + strconv.Itoa(r.play.runs), func(o *played) string { return length(o.most(makespan)) }})
	}
	list = append(list,
		figure{"lower bound", mean(bound, length)},
		figure{"ratio", mean(ratio, func(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) })},
	)
	if took := r.play.work.took; took > 0 {
		list = append(list, figure{"it really took", func(*played) string { return length(took.Seconds()) }})
	}
	if r.any(func(res *simulate.Result) bool { return len(res.Requests) > 0 }) {
		list = append(list,
			figure{"small requests wait", mean(func(res *simulate.Result) float64 { m, _, _ := requestWaits(res); return m }, length)},
			figure{"at most", func(o *played) string {
				return length(o.most(func(res *simulate.Result) float64 { _, w, _ := requestWaits(res); return w }))
			}},
			figure{"and take longer by", mean(func(res *simulate.Result) float64 { _, _, s := requestWaits(res); return s }, func(v float64) string { return fmt.Sprintf("%.1f times", v) })},
		)
	}
	list = append(list, figure{"node hours", mean(nodeTime, func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) })})
	if r.any(func(res *simulate.Result) bool { return res.Cost() > 0 }) {
		list = append(list, figure{"cost", mean((*simulate.Result).Cost, func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) })})
	}
	list = append(list,
		figure{"slots taken", mean(taken, percent)},
		figure{"slots building", mean(building, percent)},
		figure{"sent", mean(sent, size)},
		figure{"fetched", mean(fetched, size)},
	)
	for _, seldom := range []struct {
		what string
		of   func(*simulate.Result) float64
		text func(float64) string
	}{
		{"begun again elsewhere", again, number}, {"tried again", retried, number}, {"killed for memory", kills, number}, {"wasted", wasted, length},
	} {
		if r.any(func(res *simulate.Result) bool { return seldom.of(res) > 0 }) {
			list = append(list, figure{seldom.what, mean(seldom.of, seldom.text)})
		}
	}
	return list
}

func (r *report) any(is func(*simulate.Result) bool) bool {
	for _, one := range r.list {
		for _, res := range one.results {
			if is(res) {
				return true
			}
		}
	}
	return false
}

// machines says what each machine did in the first run.
func (r *report) machines(one *played) error {
	res := one.results[0]
	fmt.Fprintf(r.w, "\n%s:\n", human.Printable(one.fleet.name))
	table := display.Table{Heading: []string{"MACHINE", "SLOTS", "BUILDS", "TAKEN", "BUILDING", "SENT", "FETCHED", "UP"}, Optional: []int{7}}
	for i := range res.Machines[:min(len(res.Machines), maxRows)] {
		m := &res.Machines[i]
		all := m.Up.Seconds() * float64(m.Slots)
		if all == 0 {
			all = 1
		}
		table.Add(m.Name, strconv.Itoa(m.Slots), human.Number(m.Builds), percent(m.Taken.Seconds()/all), percent(m.Building.Seconds()/all),
			quantity.Bytes(m.Sent), quantity.Bytes(m.Fetched), quantity.Duration(m.Up))
	}
	if err := table.Write(r.w, r.width); err != nil {
		return err
	}
	if more := len(res.Machines) - maxRows; more > 0 {
		fmt.Fprintf(r.w, "and %d more; --json has them all\n", more)
	}
	return nil
}

// shares says how those fared who ask, in the first run.
func (r *report) shares() error {
	table := display.Table{Heading: []string{"SHARE", "", "BUILDS", "SLOT TIME", "WAIT", "AT MOST"}}
	for _, one := range r.list {
		waits := shareWaits(one.results[0], one.graph)
		if len(waits) < 2 {
			return nil
		}
		for _, s := range waits[:min(len(waits), maxRows)] {
			name := s.name
			if name == "" {
				name = "(nobody's)"
			}
			table.Add(name, one.name(r.play), human.Number(s.builds), quantity.Duration(s.slots), quantity.Duration(s.mean), quantity.Duration(s.worst))
		}
	}
	fmt.Fprintln(r.w)
	return table.Write(r.w, r.width)
}

func length(seconds float64) string {
	return quantity.Duration(time.Duration(seconds * float64(time.Second)))
}
func percent(part float64) string { return strconv.FormatFloat(100*part, 'f', 0, 64) + " %" }
func size(bytes float64) string   { return quantity.Bytes(int64(bytes)) }
func number(n float64) string     { return strings.TrimSuffix(strconv.FormatFloat(n, 'f', 1, 64), ".0") }

// document is what --json prints. Lengths of time are in seconds, sizes in bytes.
type document struct {
	Builds   int         `json:"builds"`
	Edges    int         `json:"edges"`
	Work     api.Seconds `json:"work"` // at speed 1
	Measured int         `json:"measured"`
	Guessed  int         `json:"guessed"`
	Took     api.Seconds `json:"took,omitempty"` // what really happened
	Notes    []string    `json:"notes,omitempty"`
	Seed     uint64      `json:"seed"`
	Results  []resultOf  `json:"results"`
}

type resultOf struct {
	Fleet    string          `json:"fleet"`
	Policy   simulate.Policy `json:"policy"`
	Runs     []runOf         `json:"runs"`
	Machines []machineOf     `json:"machines"`           // as they are modelled
	Attempts []attemptOf     `json:"attempts,omitempty"` // of the first run
}

type runOf struct {
	Makespan   api.Seconds `json:"makespan"`
	LowerBound api.Seconds `json:"lowerBound"`
	Ratio      float64     `json:"ratio"`
	NodeHours  float64     `json:"nodeHours"`
	Cost       float64     `json:"cost"`
	Sent       int64       `json:"sent"`
	Fetched    int64       `json:"fetched"`
	Taken      float64     `json:"taken"`    // part of all slot time
	Building   float64     `json:"building"` // the same
	Killed     int         `json:"killed"`
	Retried    int         `json:"retried"`
	Again      int         `json:"again"`
	Wasted     api.Seconds `json:"wasted"`
	Machines   []useOf     `json:"machines"`
	Shares     []shareOf   `json:"shares,omitempty"` // of the first run
	Requests   []waitOf    `json:"requests,omitempty"`
}

type machineOf struct {
	Name           string         `json:"name"`
	Slots          int            `json:"slots"`
	Speed          float64        `json:"speed"`
	Bandwidth      float64        `json:"bandwidth,omitempty"` // bytes/s
	FetchBandwidth float64        `json:"fetchBandwidth,omitempty"`
	Overhead       api.Seconds    `json:"overhead"` // of an attempt
	Delay          api.Seconds    `json:"delay"`    // of an item
	Memory         int64          `json:"memory,omitempty"`
	Tokens         map[string]int `json:"tokens,omitempty"`
	Price          float64        `json:"price,omitempty"` // of an hour
}

type useOf struct {
	Name     string      `json:"name"`
	Builds   int         `json:"builds"`
	Taken    api.Seconds `json:"taken"`
	Building api.Seconds `json:"building"`
	Sent     int64       `json:"sent"`
	Fetched  int64       `json:"fetched"`
	Up       api.Seconds `json:"up"`
	Cost     float64     `json:"cost"`
}

type shareOf struct {
	Name      string      `json:"name"`
	Weight    float64     `json:"weight"`
	Builds    int         `json:"builds"`
	SlotTime  api.Seconds `json:"slotTime"`
	MeanWait  api.Seconds `json:"meanWait"`
	WorstWait api.Seconds `json:"worstWait"`
}

type waitOf struct {
	Request  int         `json:"request"`
	Wait     api.Seconds `json:"wait"`
	Took     api.Seconds `json:"took"`
	Slowdown float64     `json:"slowdown"`
}

type attemptOf struct {
	Build    int         `json:"build"`
	Name     string      `json:"name"`
	Machine  string      `json:"machine"`
	Ready    api.Seconds `json:"ready"`
	Placed   api.Seconds `json:"placed"`
	Began    api.Seconds `json:"began,omitempty"`
	Ended    api.Seconds `json:"ended"`
	Released api.Seconds `json:"released"`
	Outcome  string      `json:"outcome"`
}

func in(d time.Duration) api.Seconds { return api.Seconds(d.Seconds()) }

// document makes it.
func (r *report) document(attempts bool) *document {
	w := r.play.work
	d := &document{
		Builds: len(w.graph.Nodes), Work: in(r.list[0].graph.Work()), Measured: w.measured, Guessed: w.guessed, Took: in(w.took), Notes: w.notes, Seed: r.play.seed,
	}
	for i := range w.graph.Nodes {
		d.Edges += len(w.graph.Nodes[i].Inputs)
	}
	for _, one := range r.list {
		res := resultOf{Fleet: one.fleet.name, Policy: one.policy}
		for i := range one.fleet.machines {
			m := &one.fleet.machines[i]
			res.Machines = append(res.Machines, machineOf{
				m.Name, m.Slots, m.Speed, m.Bandwidth, m.FetchBandwidth, in(m.Overhead), in(m.Delay), m.Memory, m.Tokens, m.Price,
			})
		}
		for i, run := range one.results {
			res.Runs = append(res.Runs, runDocument(run, one.graph, i == 0))
		}
		if attempts {
			for i := range one.results[0].Spans {
				s := &one.results[0].Spans[i]
				res.Attempts = append(res.Attempts, attemptOf{
					int(s.Node), one.graph.Nodes[s.Node].Name, one.fleet.machines[s.Machine].Name,
					in(s.Ready), in(s.Placed), in(s.Began), in(s.Ended), in(s.Released), s.Outcome.String(),
				})
			}
		}
		d.Results = append(d.Results, res)
	}
	return d
}

func runDocument(run *simulate.Result, g *simulate.Graph, first bool) runOf {
	d := runOf{
		Makespan: in(run.Makespan), LowerBound: in(run.Bound), Ratio: run.Ratio, NodeHours: nodeTime(run), Cost: run.Cost(),
		Sent: run.Sent(), Fetched: run.Fetched(), Taken: taken(run), Building: building(run),
		Killed: run.Kills, Retried: run.Retried, Again: run.Again, Wasted: in(run.Wasted),
	}
	for i := range run.Machines {
		m := &run.Machines[i]
		d.Machines = append(d.Machines, useOf{m.Name, m.Builds, in(m.Taken), in(m.Building), m.Sent, m.Fetched, in(m.Up), m.Cost})
	}
	if first {
		for _, s := range shareWaits(run, g) {
			d.Shares = append(d.Shares, shareOf{s.name, s.weight, s.builds, in(s.slots), in(s.mean), in(s.worst)})
		}
	}
	for _, w := range run.Requests {
		d.Requests = append(d.Requests, waitOf{w.Request, in(w.Wait), in(w.Took), w.Slowdown})
	}
	return d
}
