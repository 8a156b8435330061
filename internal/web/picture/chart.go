package picture

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
)

// Line is one series of a chart. Value i is that of the time from Since + i × Step on, for a Step.
// NaN is a gap: nothing is known of that time.
type Line struct {
	Name   string
	Values []float64
	Area   bool // what is below it is filled
	Bad    bool // it counts failures
}

// Chart is a picture of series over time.
type Chart struct {
	Frame
	Step  time.Duration
	Lines []Line // at most maxLines are drawn
	// Whole says that there are no values between whole numbers.
	Whole bool
	// Most is what the axis has at least, for pictures that are compared; 0 is as much as the values need.
	Most float64
}

const (
	maxLines = 6
	// maxColumns bounds the values that are drawn, of all lines together, those of areas counting
	// twice, and maxOfLine those of one; of more, neighbours are averaged.
	maxColumns  = 2400
	maxOfLine   = 480
	chartHeight = 140
	// across is how wide a chart's own coordinates are; they are stretched to the picture's width.
	across = 1000
)

// SVG draws the chart.
func (c *Chart) SVG() template.HTML {
	lines := c.Lines[:min(len(c.Lines), maxLines)]
	d := &drawing{frame: c.Frame}
	d.begin(chartHeight+axisSpace, false)
	most := c.Most
	for i := range lines {
		for _, v := range lines[i].Values {
			if v > most && !math.IsInf(v, 0) { // not if it is NaN
				most = v
			}
		}
	}
	ticks := valueTicks(most, c.Whole)
	top := ticks[len(ticks)-1]
	const head = textSize + 2 // for the label of the highest tick
	height := func(v float64) float64 { return chartHeight - (chartHeight-head)*min(1, max(0, v/top)) }
	d.axis(head, chartHeight)
	for _, v := range ticks {
		fmt.Fprintf(d, `<line class="grid" x1="0" x2="100%%" y1="%s" y2="%[1]s"/>`, coordinate(height(v)))
	}
	fmt.Fprintf(d, `<svg width="100%%" height="%d" viewBox="0 0 %d %[1]d" preserveAspectRatio="none">`, chartHeight, across)
	paths := len(lines)
	for i := range lines {
		if lines[i].Area {
			paths++
		}
	}
	for i := range lines {
		d.line(&lines[i], lines[i].class(i), c.Step, min(maxOfLine, maxColumns/paths), height)
	}
	d.WriteString(`</svg>`)
	for _, v := range ticks {
		fmt.Fprintf(d, `<text class="tick" x="2" y="%s">%s</text>`, coordinate(height(v)-3), short(v))
	}
	return d.end()
}

// class is what a line looks like, by its place.
func (l *Line) class(i int) string {
	if l.Bad {
		return "bad"
	}
	return strconv.Itoa(i + 1)
}

// line draws one line of at most so many values.
func (d *drawing) line(l *Line, class string, step time.Duration, most int, height func(float64) float64) {
	values, step := columns(l.Values, step, most)
	line, area := steps(values, chartHeight, func(i int) string { return coordinate(across * d.at(d.frame.Since.Add(time.Duration(i)*step))) },
		func(v float64) string { return coordinate(height(v)) })
	if l.Area && area != "" {
		fmt.Fprintf(d, `<path class="area" d="%s"/>`, area)
	}
	if line != "" {
		fmt.Fprintf(d, `<path class="line line-%s" vector-effect="non-scaling-stroke" d="%s"/>`, class, line)
	}
}

// steps returns the paths of a series in steps, with gaps where nothing is known, and of the area from there
// down to the bottom.
func steps(values []float64, bottom int, x func(i int) string, y func(v float64) string) (line, area string) {
	var lines, areas strings.Builder
	last := "" // where the value before is; empty in a gap
	for i := range len(values) + 1 {
		next := ""
		if i < len(values) && !math.IsNaN(values[i]) && !math.IsInf(values[i], 0) {
			next = y(values[i])
		}
		if next == last {
			continue
		}
		at := x(i)
		if last != "" {
			lines.WriteString("H" + at)
			areas.WriteString("H" + at)
		}
		switch {
		case next == "":
			fmt.Fprintf(&areas, "V%dZ", bottom)
		case last == "":
			fmt.Fprintf(&lines, "M%s %s", at, next)
			fmt.Fprintf(&areas, "M%s %dV%s", at, bottom, next)
		default:
			lines.WriteString("V" + next)
			areas.WriteString("V" + next)
		}
		last = next
	}
	return lines.String(), areas.String()
}

// columns averages neighbours so that there are at most so many values.
func columns(values []float64, step time.Duration, most int) ([]float64, time.Duration) {
	if len(values) <= most {
		return values, step
	}
	together := (len(values) + most - 1) / most
	var fewer []float64
	for i := 0; i < len(values); i += together {
		fewer = append(fewer, mean(values[i:min(i+together, len(values))]))
	}
	return fewer, step * time.Duration(together)
}

// mean is that of the values that are known; NaN if none is.
func mean(values []float64) float64 {
	sum, n := 0.0, 0.0
	for _, v := range values {
		if !math.IsNaN(v) {
			sum, n = sum+v, n+1
		}
	}
	return sum / n
}

// coordinate is a length in few characters.
func coordinate(v float64) string {
	return strconv.FormatFloat(math.Round(10*v)/10, 'f', -1, 64)
}

// Legend says which line of the chart is which; empty if there is but one.
func (c *Chart) Legend() template.HTML {
	if len(c.Lines) < 2 {
		return ""
	}
	d := &drawing{}
	d.WriteString(`<ul class="legend">`)
	for i := range c.Lines[:min(len(c.Lines), maxLines)] {
		fmt.Fprintf(d, `<li><svg width="24" height="10" aria-hidden="true"><line class="line line-%s" x1="0" x2="24" y1="5" y2="5"/></svg> %s</li>`, c.Lines[i].class(i), text(c.Lines[i].Name, maxLabel))
	}
	d.WriteString(`</ul>`)
	return template.HTML(d.String()) // #nosec G203 -- the names went through text
}

// Spark draws a series without axes, for a place in a line of text or a table: most is the value at
// the top. Gaps are as in a Chart. The title says what it shows.
func Spark(title string, values []float64, most float64) template.HTML {
	const width, height, shown = 120, 20, 60
	values, _ = columns(values, 0, shown)
	step := float64(width) / float64(max(1, len(values)))
	_, area := steps(values, height, func(i int) string { return coordinate(float64(i) * step) },
		func(v float64) string {
			return coordinate(math.Round(height * (1 - min(1, max(0, v/max(most, 1e-9))))))
		})
	d := &drawing{}
	fmt.Fprintf(d, `<svg class="spark" role="img" width="%d" height="%d"><title>%s</title><path class="area" d="%s"/>`, width, height, text(title, maxTitle), area)
	return d.end()
}
