package picture

import (
	"cmp"
	"fmt"
	"html/template"
	"slices"
	"time"

	"lighter/internal/api"
)

const (
	// maxRows bounds the rows of a picture, and with them its height.
	maxRows = 64
	// maxBars is how many bars a picture has at most. It gets fewer if they would be too many bytes.
	maxBars = 300
)

// bar is one span, or several that are too near to each other to be told apart.
type bar struct {
	from, to float64 // parts of the width
	Span
	count, failed int
}

// Slots draws how the slots of a machine were used: one row for each slot, one bar for each span.
// Which slot a build had is not known, so each gets the first that is free. slots is how many there
// are; more rows are drawn if more was going on at a time.
func Slots(f Frame, slots int, spans []Span) template.HTML {
	var rows []Row
	for _, spans := range lanes(spans, f.Until, min(max(slots, 1), maxRows), maxRows) {
		rows = append(rows, Row{Spans: spans})
	}
	return f.rows(rows, 0, false)
}

// Attempts draws the time line of a build: one row for each attempt, with a label such as its number
// and machine, in which one span for each phase follows another. Of more than 64 attempts it has the
// last.
func Attempts(f Frame, attempts []Row) template.HTML {
	return f.rows(attempts[max(0, len(attempts)-maxRows):], 0, true)
}

// Submission draws the time line of many builds. Those of the critical path come first, in their
// order, each in a row of its own with its title as a label; of more than 32, the last. All others
// follow in as many rows as were going on at the same time.
func Submission(f Frame, critical, others []Span) template.HTML {
	var rows []Row
	for _, s := range critical[max(0, len(critical)-maxRows/2):] {
		rows = append(rows, Row{"▶ " + s.Title, []Span{s}})
	}
	path := len(rows)
	for i, spans := range lanes(others, f.Until, 0, maxRows-path) {
		row := Row{Spans: spans}
		if i == 0 && path > 0 {
			row.Label = "all others"
		}
		rows = append(rows, row)
	}
	return f.rows(rows, path, false)
}

// lanes puts spans into rows so that those of a row don't overlap, each into the first that is free.
// There are at least and at most so many rows: what finds none free goes into the last, where it is
// joined with what it overlaps.
func lanes(spans []Span, end time.Time, least, most int) [][]Span {
	spans = slices.Clone(spans)
	slices.SortStableFunc(spans, func(a, b Span) int { return a.From.Compare(b.From) })
	rows := slices.Repeat([][]Span{nil}, least)
	free := slices.Repeat([]time.Time{{}}, least)
	for _, s := range spans {
		i := slices.IndexFunc(free, func(t time.Time) bool { return !s.From.Before(t) })
		switch {
		case i >= 0:
		case len(rows) < most:
			i = len(rows)
			rows, free = append(rows, nil), append(free, time.Time{})
		default:
			i = most - 1
		}
		rows[i] = append(rows[i], s)
		to := s.To
		if to.IsZero() {
			to = end
		}
		if to.After(free[i]) {
			free[i] = to
		}
	}
	return rows
}

// bars returns the bars of spans, by time, without what is not in the frame.
func (f *Frame) bars(spans []Span) []bar {
	d := drawing{frame: *f}
	var list []bar
	for _, s := range spans {
		to := s.To
		if to.IsZero() || to.After(f.Until) {
			to = f.Until
		}
		if to.Before(f.Since) || s.From.After(f.Until) || to.Before(s.From) {
			continue
		}
		b := bar{from: d.at(s.From), to: d.at(to), Span: s, count: 1}
		if s.State.FailedItself() {
			b.failed = 1
		}
		list = append(list, b)
	}
	slices.SortStableFunc(list, func(a, b bar) int { return cmp.Compare(a.from, b.from) })
	return list
}

// join joins bars that are near to each other until there are at most so many, or one in each row;
// at first only those of which less than a pixel would be seen.
func join(rows [][]bar, most int) {
	for near := pixel; ; near *= 1.3 {
		count := 0
		for i := range rows {
			rows[i] = joinNear(rows[i], near)
			count += len(rows[i])
		}
		if count <= most || near > 1 {
			return
		}
	}
}

// joinNear joins each bar with the one before it if they overlap, or are both short and follow each
// other soon.
func joinNear(bars []bar, near float64) []bar {
	var joined []bar
	longest := 0.0 // of those that were joined
	for _, b := range bars {
		n := len(joined)
		if n == 0 || !joined[n-1].joins(&b, near) {
			joined, longest = append(joined, b), b.to-b.from
			continue
		}
		last := &joined[n-1]
		last.to = max(last.to, b.to)
		last.count, last.failed = last.count+b.count, last.failed+b.failed
		last.Href = ""
		if b.to-b.from > longest {
			last.State = b.State // and a sign says that something failed
		}
		longest = max(longest, b.to-b.from)
	}
	return joined
}

// joins reports whether the next bar is joined with this one.
func (b *bar) joins(next *bar, near float64) bool {
	if next.from < b.to-pixel {
		return true
	}
	return next.from-b.to < near && b.to-b.from < near && next.to-next.from < near || near > 1
}

// rows draws rows of bars, the first of them as a critical path; with words, bars have their states in
// them. What it draws gets fewer bars and shorter texts, and at last no links, until it is small enough.
func (f *Frame) rows(rows []Row, critical int, words bool) template.HTML {
	bars := make([][]bar, len(rows))
	for i := range rows {
		bars[i] = f.bars(rows[i].Spans)
	}
	for most := maxBars; ; most = most * 3 / 4 {
		join(bars, most)
		d := &drawing{frame: *f, longest: min(maxTitle, max(10, 2*most)), words: words, links: most > 0}
		d.rows(rows, bars, critical)
		if d.Len() < maxBytes || most == 0 {
			return d.end()
		}
	}
}

func (d *drawing) rows(rows []Row, bars [][]bar, critical int) {
	height, links := 0, false
	for i := range rows {
		if rows[i].Label != "" {
			height += rowHeight
		}
		height += rowHeight
		links = links || slices.ContainsFunc(bars[i], func(b bar) bool { return href(b.Href) != "" })
	}
	d.begin(height+axisSpace, links && d.links)
	d.axis(0, height)
	y := 0
	for i := range rows {
		if rows[i].Label != "" {
			fmt.Fprintf(d, `<text class="label" x="0" y="%d">%s</text>`, y+baseline, text(rows[i].Label, min(maxLabel, d.longest)))
			y += rowHeight
		}
		for j := range bars[i] {
			d.bar(&bars[i][j], y, i < critical)
		}
		y += rowHeight
	}
}

// title is what is said of a bar.
func (b *bar) title() string {
	switch {
	case b.count == 1:
		return b.Title
	case b.failed > 0:
		return fmt.Sprintf("%d, too near to each other to be told apart; %d failed", b.count, b.failed)
	}
	return fmt.Sprintf("%d, too near to each other to be told apart", b.count)
}

// bar draws one bar.
func (d *drawing) bar(b *bar, y int, critical bool) {
	link := href(b.Href)
	if !d.links {
		link = ""
	}
	if link != "" {
		fmt.Fprintf(d, `<a href="%s" tabindex="-1">`, link)
	}
	classes := class(b.State)
	if critical {
		classes += " critical"
	}
	width := max(b.to-b.from, 2*pixel)
	x := min(b.from, 1-width)
	fmt.Fprintf(d, `<rect class="%s" x="%s" y="%d" width="%s" height="%d"><title>%s</title></rect>`,
		classes, percent(x), y+(rowHeight-barHeight)/2, percent(width), barHeight, text(b.title(), d.longest))
	within := sign(b.State)
	if b.failed > 0 {
		within = sign(api.Failed)
	}
	if d.words && width > wide && known(b.State) {
		within = string(b.State)
	}
	if within != "" {
		fmt.Fprintf(d, `<text class="sign" x="%s" y="%d">%s</text>`, percent(x+pixel), y+baseline, within)
	}
	if link != "" {
		d.WriteString(`</a>`)
	}
}
