// Package picture draws what people rather look at than read: series over time, and bars of what
// went on when, as SVG that is part of a page. It is pure: data in, markup out, the same for the
// same data.
//
// A picture has a title and a description for those who can't see it; a table with the same is the
// page's matter. What it shows is never told by colour alone: bars of what failed have a sign, the
// lines of a chart differ in their dashes. Colours are the stylesheet's: elements have classes, and
// no style of their own. Everything that comes from elsewhere is escaped, control characters
// included, and links lead nowhere but to pages of the same site.
//
// Widths are percentages, and texts keep their size: a picture fits a telephone and a wide screen
// alike. Whatever the data, it stays below 40 KB: what would be too much to see is joined, and says
// so.
package picture

import (
	"fmt"
	"html"
	"html/template"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
)

// maxBytes bounds a picture.
const maxBytes = 40_000

// Frame is what all pictures over time have in common.
type Frame struct {
	// Title names the picture, and Description says in a sentence what is to be seen, for people who
	// don't see it; the latter may be empty.
	Title, Description string
	// Since and Until are what the picture spans. Labels give times in the location of Since.
	Since, Until time.Time
}

// Span is something that went on for a time, drawn as a bar.
type Span struct {
	From, To time.Time // a zero To means that it goes on: the bar ends with the picture
	// State decides how the bar looks: that in which a build ended, is, or was meanwhile.
	State api.State
	// Title is shown when a pointer rests on the bar, and read out; Href is where a click leads, a path
	// of the same site; empty is nowhere.
	Title, Href string
}

// Row is one row of a picture of bars, with a label above them.
type Row struct {
	Label string
	Spans []Span
}

// Lengths in pixels, and in parts of the width.
const (
	textSize  = 12
	barHeight = 14
	rowHeight = 18
	baseline  = rowHeight - 5 // of a row's text
	axisSpace = 20            // below all rows, for the labels of the axis
	pixel     = 0.001
	wide      = 0.18 // of a bar in which a word has room, on a telephone too
)

// Limits on what comes from elsewhere, in characters.
const (
	maxLabel = 60
	maxTitle = 120
)

// drawing is an SVG in the making.
type drawing struct {
	strings.Builder
	frame   Frame
	longest int  // characters of a bar's title
	words   bool // bars have words in them
	links   bool // bars have links
}

// begin begins the SVG. One with links is a group of graphics: what has the role of an image is one
// thing, in which nothing can be reached.
func (d *drawing) begin(height int, links bool) {
	role := "img"
	if links {
		role = "group"
	}
	fmt.Fprintf(d, `<svg class="picture" role="%s" width="100%%" height="%d" font-size="%d"><title>%s</title>`, role, height, textSize, text(d.frame.Title, maxTitle))
	if d.frame.Description != "" {
		fmt.Fprintf(d, `<desc>%s</desc>`, text(d.frame.Description, 4*maxTitle))
	}
}

func (d *drawing) end() template.HTML {
	d.WriteString(`</svg>`)
	return template.HTML(d.String()) // #nosec G203 -- all texts went through text or href
}

// at is where a time is, from 0 at the left to 1 at the right.
func (d *drawing) at(t time.Time) float64 {
	whole := d.frame.Until.Sub(d.frame.Since)
	if whole <= 0 {
		return 0
	}
	return min(1, max(0, float64(t.Sub(d.frame.Since))/float64(whole)))
}

// axis draws the ticks of the time, between two heights, and their labels below.
func (d *drawing) axis(top, bottom int) {
	for _, tick := range timeTicks(d.frame.Since, d.frame.Until) {
		x := d.at(tick.at)
		anchor := "middle"
		switch {
		case x < 0.06:
			anchor = "start"
		case x > 0.94:
			anchor = "end"
		}
		fmt.Fprintf(d, `<line class="grid" x1="%s" x2="%[1]s" y1="%d" y2="%d"/>`, percent(x), top, bottom)
		fmt.Fprintf(d, `<text class="tick" x="%s" y="%d" text-anchor="%s">%s</text>`, percent(x), bottom+axisSpace-6, anchor, html.EscapeString(tick.label))
	}
	fmt.Fprintf(d, `<line class="axis" x1="0" x2="100%%" y1="%d" y2="%[1]d"/>`, bottom)
}

// percent is a part of the width.
func percent(part float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(100*part, 'f', 2, 64), "0"), ".") + "%"
}

// text makes a text from elsewhere part of the markup.
func text(s string, most int) string { return html.EscapeString(human.Truncate(human.Line(s), most)) }

// href returns the attribute for a link to a page of the same site, or nothing.
func href(path string) string {
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.Contains(path, `\`) || human.Line(path) != path || len(path) > api.MaxName {
		return ""
	}
	return html.EscapeString(path)
}

// sign tells states apart without colour.
func sign(s api.State) string {
	switch s {
	case api.Failed, api.TimedOut:
		return "✗"
	case api.Canceled:
		return "–"
	case api.DependencyFailed:
		return "·"
	}
	return ""
}

func known(s api.State) bool { return slices.Contains(api.States(), s) }

// class is that of a state's bars.
func class(s api.State) string {
	if !known(s) {
		return "bar"
	}
	return "bar s-" + string(s)
}
