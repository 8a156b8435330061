package logview

import (
	"strconv"
	"strings"
)

// style is how a terminal shows text, as far as a page does (ECMA-48 8.3.117). Colours are 1 to 16, for black to white
// and their bright ones; 0 is none.
type style struct {
	fg, bg                                     uint8
	bold, dim, italic, underline, strike, flip bool
}

// classes returns the classes of the stylesheet for a style. Text on a colour has the one that can be read there, whatever
// was asked for, and none is hidden.
func (s style) classes() string {
	if s == (style{}) {
		return ""
	}
	fg, bg := s.fg, s.bg
	if s.flip {
		fg, bg = bg, fg
	}
	var list []string
	switch {
	case bg > 0:
		list = append(list, "on", "b"+strconv.Itoa(int(bg-1)))
	case s.flip:
		list = append(list, "flip")
	case fg > 0:
		list = append(list, "f"+strconv.Itoa(int(fg-1)))
	}
	for _, c := range []struct {
		is   bool
		name string
	}{{s.bold, "bold"}, {s.dim, "dim"}, {s.italic, "italic"}, {s.underline, "under"}, {s.strike, "strike"}} {
		if c.is {
			list = append(list, c.name)
		}
	}
	return strings.Join(list, " ")
}

// apply returns the style after an SGR sequence with these parameters. Unknown ones change nothing.
func (s style) apply(parameters string) style {
	// Colons separate what belongs to one parameter; here they are read as semicolons, which terminals take too.
	list := strings.FieldsFunc(parameters+";", func(r rune) bool { return r == ';' || r == ':' })
	if len(list) == 0 {
		return style{}
	}
	for i := 0; i < len(list); i++ {
		n, err := strconv.ParseUint(list[i], 10, 8)
		if err != nil {
			continue
		}
		c := uint8(n)
		switch {
		case c == 0:
			s = style{}
		case c == 1:
			s.bold = true
		case c == 2:
			s.dim = true
		case c == 3:
			s.italic = true
		case c == 4:
			s.underline = true
		case c == 7:
			s.flip = true
		case c == 9:
			s.strike = true
		case c == 22:
			s.bold, s.dim = false, false
		case c == 23:
			s.italic = false
		case c == 24:
			s.underline = false
		case c == 27:
			s.flip = false
		case c == 29:
			s.strike = false
		case 30 <= c && c <= 37:
			s.fg = c - 30 + 1
		case c == 39:
			s.fg = 0
		case 40 <= c && c <= 47:
			s.bg = c - 40 + 1
		case c == 49:
			s.bg = 0
		case 90 <= c && c <= 97:
			s.fg = c - 90 + 9
		case 100 <= c && c <= 107:
			s.bg = c - 100 + 9
		case c == 38 || c == 48:
			colour, used := extended(list[i+1:])
			i += used
			if colour > 0 && c == 38 {
				s.fg = colour
			} else if colour > 0 {
				s.bg = colour
			}
		}
	}
	return s
}

// extended reads what follows 38 or 48: "5;N", of 256 colours, or "2;R;G;B". It returns the nearest of the sixteen, or 0,
// and how many parameters it read.
func extended(list []string) (colour uint8, used int) {
	var n [4]uint8
	for i := range min(len(list), len(n)) {
		v, err := strconv.ParseUint(list[i], 10, 8)
		if err != nil {
			return 0, i
		}
		n[i] = uint8(v)
	}
	switch {
	case len(list) >= 2 && n[0] == 5:
		return nearest(n[1]), 2
	case len(list) >= 4 && n[0] == 2:
		return nearestRGB(int(n[1]), int(n[2]), int(n[3])), 4
	}
	return 0, len(list)
}

// nearest is for a number of xterm's 256 colours: sixteen, a cube of 6×6×6, and greys.
func nearest(n uint8) uint8 {
	switch {
	case n < 16:
		return n + 1
	case n >= 232:
		grey := 8 + 10*int(n-232)
		return nearestRGB(grey, grey, grey)
	}
	level := func(i uint8) int {
		if i == 0 {
			return 0
		}
		return 55 + 40*int(i)
	}
	n -= 16
	return nearestRGB(level(n/36), level(n/6%6), level(n%6))
}

// basic are the sixteen colours of xterm.
var basic = [16][3]int{
	{0, 0, 0},
	{205, 0, 0},
	{0, 205, 0},
	{205, 205, 0},
	{0, 0, 238},
	{205, 0, 205},
	{0, 205, 205},
	{229, 229, 229},
	{127, 127, 127},
	{255, 0, 0},
	{0, 255, 0},
	{255, 255, 0},
	{92, 92, 255},
	{255, 0, 255},
	{0, 255, 255},
	{255, 255, 255},
}

func nearestRGB(r, g, b int) uint8 {
	best, least := uint8(0), 1<<30
	for i, c := range basic {
		if d := (c[0]-r)*(c[0]-r) + (c[1]-g)*(c[1]-g) + (c[2]-b)*(c[2]-b); d < least {
			best, least = uint8(i), d
		}
	}
	return best + 1
}
