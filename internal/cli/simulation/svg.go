package simulation

import (
	"bufio"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/scheduler/simulate"
)

// The measures of the picture, in its own pixels.
const (
	svgWidth  = 1200
	svgLeft   = 150 // of the bars: names of machines are there
	svgBars   = svgWidth - svgLeft - 20
	rowHeight = 14
	barHeight = 11
	titleLine = 40

	// least is how wide a bar is to be one of its own; what is smaller is drawn together with its
	// neighbours.
	least = 1.0
	// maxBars and maxSVGRows bound the picture; machines beyond are left out, and it says so.
	maxBars    = 60_000
	maxSVGRows = 2_000
	// colours is how many there are; style names them.
	colours = 8
)

const svgStyle = `
svg { background: #ffffff; font: 11px sans-serif; }
text { fill: #222222; }
.h { font-weight: bold; font-size: 13px; }
.g { stroke: #dddddd; stroke-width: 1; }
.row { fill: #f3f3f3; }
.w { opacity: 0.35; }
.x { fill: #c62828; }
.m { fill: #9e9e9e; }
.c0 { fill: #1f77b4; } .c1 { fill: #2ca02c; } .c2 { fill: #ff7f0e; } .c3 { fill: #9467bd; }
.c4 { fill: #8c564b; } .c5 { fill: #e377c2; } .c6 { fill: #bcbd22; } .c7 { fill: #17becf; }
.r0 { fill: #c6dbef; } .r1 { fill: #9ecae1; } .r2 { fill: #6baed6; } .r3 { fill: #4292c6; }
.r4 { fill: #2f7fbc; } .r5 { fill: #2171b5; } .r6 { fill: #08519c; } .r7 { fill: #08306b; }
@media (prefers-color-scheme: dark) {
  svg { background: #16181c; }
  text { fill: #e2e2e2; }
  .g { stroke: #3a3d42; }
  .row { fill: #202329; }
  .m { fill: #80868f; }
  .x { fill: #ef5350; }
  .r0 { fill: #23466b; } .r1 { fill: #2b5a8a; } .r2 { fill: #336ea9; } .r3 { fill: #3f84c6; }
  .r4 { fill: #5a9bd8; } .r5 { fill: #7eb5e6; } .r6 { fill: #a9cff1; } .r7 { fill: #d6e9fa; }
}
`

// picture draws results as time lines, one below the other, with one scale: a row for each slot, a
// bar for each build, lighter where its slot waits for what is carried.
type picture struct {
	w     *bufio.Writer
	scale float64 // pixels for a second
	bars  int     // that are drawn
	y     int
}

// writeSVG writes the picture of the first run of each result.
func writeSVG(w io.Writer, p *play, list []*played) error {
	var longest time.Duration
	height := titleLine
	for _, one := range list {
		longest = max(longest, one.results[0].Makespan)
		rows := 0
		for i := range one.fleet.machines {
			rows += one.fleet.machines[i].Slots
		}
		height += titleLine + min(rows, maxSVGRows)*rowHeight + len(one.fleet.machines)*2 + rowHeight
	}
	d := &picture{w: bufio.NewWriter(w), scale: svgBars / max(longest.Seconds(), 1e-3)}
	fmt.Fprintf(d.w, `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img">
<title>lighter simulate</title>
<style>%[3]s</style>
`, svgWidth, height, svgStyle)
	for _, one := range list {
		d.result(p, one, longest)
	}
	fmt.Fprintln(d.w, "</svg>")
	return d.w.Flush()
}

// result draws one time line.
func (d *picture) result(p *play, one *played, longest time.Duration) {
	r := one.results[0]
	d.y += titleLine
	d.text("h", 10, d.y-20, fmt.Sprintf("%s: %s, %.3f times the lower bound", one.name(p), quantity.Duration(r.Makespan), r.Ratio))
	top := d.y
	paint := painter(r, one.graph)
	byMachine := make([][]*simulate.Span, len(one.fleet.machines))
	for i := range r.Spans {
		s := &r.Spans[i]
		byMachine[s.Machine] = append(byMachine[s.Machine], s)
	}
	rows := 0
	for i, spans := range byMachine {
		m := &one.fleet.machines[i]
		if rows += m.Slots; rows > maxSVGRows || d.bars > maxBars {
			d.text("", 10, d.y+barHeight, "more machines are not drawn")
			d.y += rowHeight
			break
		}
		d.text("", 10, d.y+barHeight-1, human.Truncate(human.Printable(m.Name), 22))
		for _, slot := range slotsOf(spans, m.Slots) {
			fmt.Fprintf(d.w, `<rect class="row" x="%d" y="%d" width="%d" height="%d"/>`+"\n", svgLeft, d.y, svgBars, barHeight)
			d.slot(slot, one.graph, m.Name, paint)
			d.y += rowHeight
		}
		d.y += 2
	}
	d.grid(top, longest)
	d.y += rowHeight
}

// slotsOf deals the attempts of a machine out to its slots, which they held one after the other.
func slotsOf(spans []*simulate.Span, slots int) [][]*simulate.Span {
	slices.SortStableFunc(spans, func(a, b *simulate.Span) int { return cmp.Compare(a.Placed, b.Placed) })
	rows := make([][]*simulate.Span, slots)
	free := make([]time.Duration, slots)
	for _, s := range spans {
		row := 0
		for row < slots && free[row] > s.Placed {
			row++
		}
		if row == slots {
			continue // can't be
		}
		rows[row], free[row] = append(rows[row], s), s.Released
	}
	return rows
}

// slot draws the attempts of one slot.
func (d *picture) slot(spans []*simulate.Span, g *simulate.Graph, machine string, paint func(*simulate.Span) string) {
	for i := 0; i < len(spans); {
		from := d.x(spans[i].Placed)
		n := 0
		for i+n < len(spans) && d.x(spans[i+n].Released)-from < least {
			n++
		}
		if n > 1 {
			d.bar("m", from, d.x(spans[i+n-1].Released), fmt.Sprintf("%d short builds on %s", n, machine))
			i += n
			continue
		}
		s := spans[i]
		class := paint(s)
		if s.Outcome != simulate.Done {
			class = "x"
		}
		title := fmt.Sprintf("%s on %s: from %s to %s", g.Nodes[s.Node].Name, machine, quantity.Duration(s.Placed), quantity.Duration(s.Ended))
		if s.Outcome != simulate.Done {
			title += ", " + s.Outcome.String()
		}
		began := s.Began
		if began == 0 && s.Placed > 0 { // it never did
			began = s.Ended
		}
		if x := d.x(began); x-from >= least {
			d.bar(class+" w", from, x, title+", inputs are carried until "+quantity.Duration(began))
			from = x
		}
		d.bar(class, from, d.x(s.Ended), title)
		if x := d.x(s.Released); x-d.x(s.Ended) >= least {
			d.bar(class+" w", d.x(s.Ended), x, title+", outputs are carried until "+quantity.Duration(s.Released))
		}
		i++
	}
}

// painter returns the colour of an attempt: by its share if there are several, else by its rank,
// the darker the longer the path to the end that begins with it.
func painter(r *simulate.Result, g *simulate.Graph) func(*simulate.Span) string {
	if len(r.Shares) > 1 {
		number := make(map[string]int)
		for i := range r.Shares {
			number[r.Shares[i].Name] = i % colours
		}
		return func(s *simulate.Span) string { return "c" + strconv.Itoa(number[g.Nodes[s.Node].Share]) }
	}
	rank := make([]time.Duration, len(g.Nodes))
	longest := time.Duration(1)
	for i, n := range slices.Backward(g.Nodes) {
		rank[i] += n.Duration
		longest = max(longest, rank[i])
		for _, in := range n.Inputs {
			rank[in] = max(rank[in], rank[i])
		}
	}
	return func(s *simulate.Span) string {
		return "r" + strconv.Itoa(min(colours-1, int(float64(rank[s.Node])/float64(longest)*colours)))
	}
}

// grid draws lines through the rows from top on, with times below them.
func (d *picture) grid(top int, longest time.Duration) {
	step := tick(longest)
	for at := time.Duration(0); at <= longest; at += step {
		x := d.x(at)
		fmt.Fprintf(d.w, `<line class="g" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", x, top, x, d.y)
		d.text("", int(x)-8, d.y+barHeight, quantity.ExactDuration(at))
	}
}

// tick is how far the lines of the grid are from each other.
func tick(longest time.Duration) time.Duration {
	for _, step := range []time.Duration{
		100 * time.Millisecond, time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute,
		time.Hour, 3 * time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
	} {
		if longest <= 12*step {
			return step
		}
	}
	return longest/12 + 1
}

func (d *picture) x(at time.Duration) float64 { return svgLeft + at.Seconds()*d.scale }

func (d *picture) bar(class string, from, to float64, title string) {
	d.bars++
	fmt.Fprintf(d.w, `<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d"><title>%s</title></rect>`+"\n",
		class, from, d.y, max(0.5, to-from), barHeight, escaped(title))
}

func (d *picture) text(class string, x, y int, text string) {
	fmt.Fprintf(d.w, `<text class="%s" x="%d" y="%d">%s</text>`+"\n", class, x, y, escaped(text))
}

// escaped makes text that comes from elsewhere fit to stand in the picture.
func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(human.Printable(text))) // a builder takes all
	return b.String()
}
