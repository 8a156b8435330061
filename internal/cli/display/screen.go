package display

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lighter/internal/cli/terminal"
	"lighter/internal/human"
)

// Screen draws a few lines at the bottom of a terminal and replaces them in
// place. Between frames the cursor rests at the end of the last line, so that
// what the terminal does to the lines when it is resized (most wrap them again)
// can be computed from their widths.
type Screen struct {
	w    io.Writer
	size func() (width, height int)
	// widths has the cells of each line on the screen; none before the first frame.
	widths []int
	last   string // the frame as it was written
	lastW  int
}

// NewScreen draws on w; size returns the terminal's columns and rows.
func NewScreen(w io.Writer, size func() (width, height int)) *Screen {
	return &Screen{w: w, size: size}
}

// OnTerminal draws on a stream to a terminal.
func OnTerminal(w io.Writer) *Screen {
	t := terminal.Of(w)
	return NewScreen(w, func() (int, int) { return terminal.Size(t) })
}

// Size returns what a frame may take: one row less than the terminal has, so that
// the line of the shell that started the program stays, and one column less, since
// terminals differ in what they do after writing into the last one.
func (s *Screen) Size() (width, height int) {
	w, h := s.size()
	if w <= 0 {
		w = 80
	}
	if h <= 0 {
		h = 24
	}
	return max(w-1, 1), max(h-1, 1)
}

// Draw writes lines above, which stay for good, and replaces the frame. Each
// frame is one write, so that nothing flickers.
func (s *Screen) Draw(above, frame []string) error {
	width, _ := s.Size()
	body := strings.Join(frame, "\r\n")
	if len(above) == 0 && body == s.last && width == s.lastW {
		return nil
	}
	var b strings.Builder
	b.WriteString(beginUpdate)
	s.home(&b, width+1)
	if width != s.lastW {
		// Terminals remember of a row that it went on in the next one, also after
		// something shorter was written over it; clearing makes them forget.
		b.WriteString(clearBelow)
	}
	for _, line := range above {
		b.WriteString(line)
		b.WriteString(clearLine + "\r\n")
	}
	s.widths = s.widths[:0]
	for i, line := range frame {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + clearLine)
		s.widths = append(s.widths, VisibleWidth(line))
	}
	b.WriteString(clearBelow + endUpdate)
	s.last, s.lastW = body, width
	_, err := io.WriteString(s.w, b.String())
	return err
}

// Close takes the frame away, writes the lines above for good, and leaves the
// cursor at the start of a line.
func (s *Screen) Close(above []string) error {
	if err := s.Draw(above, nil); err != nil {
		return err
	}
	s.last, s.widths = "", nil
	return nil
}

// The control sequences in use (ECMA-48; the pair around a frame is "synchronized
// output", which terminals that do not know it ignore). The lines of a frame are
// overwritten first and the rest of the row cleared after, so that no row is ever
// empty in between.
const (
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
	beginUpdate = "\x1b[?2026h"
	endUpdate   = "\x1b[?2026l"
)

// home moves the cursor to the start of the frame on the screen, which a terminal
// of that many columns now has on as many rows as its lines need.
func (s *Screen) home(b *strings.Builder, columns int) {
	rows := 0
	for _, w := range s.widths {
		rows += max(1, (w+columns-1)/columns)
	}
	b.WriteByte('\r')
	if rows > 1 {
		b.WriteString("\x1b[" + strconv.Itoa(rows-1) + "A")
	}
}

// VisibleWidth is the width of a line without the colours that Style.Paint adds.
func VisibleWidth(line string) int {
	for {
		i := strings.Index(line, "\x1b[")
		if i < 0 {
			return human.Width(line)
		}
		end := strings.IndexByte(line[i:], 'm')
		if end < 0 {
			return human.Width(line)
		}
		line = line[:i] + line[i+end+1:]
	}
}

// FrameInterval is how often a frame is worth drawing.
const FrameInterval = 100 * time.Millisecond

// Live is where a command shows what goes on: on a terminal, whose last lines are replaced, or
// as lines in a file, a pipe, or on a terminal that can't be drawn on, where they tell the CI system nothing
// that may read them.
type Live struct {
	w       io.Writer
	screen  *Screen  // nil where nothing can be drawn
	waiting []string // lines for the next frame, so that line and frame always say the same
	folds   Folds    // of who shows what is not drawn
}

// NewLive shows on a stream.
func NewLive(w io.Writer, getenv func(string) string) *Live {
	l := &Live{w: w}
	if CanDraw(w, getenv) != nil {
		l.screen = OnTerminal(w)
	} else {
		l.folds = FoldsOf(getenv)
	}
	return l
}

// Drawn reports whether frames are drawn.
func (l *Live) Drawn() bool { return l.screen != nil }

// Lines writes lines that stay, on a terminal with the next frame.
func (l *Live) Lines(text ...string) {
	if l.screen != nil {
		l.waiting = append(l.waiting, text...)
		return
	}
	for _, t := range text {
		fmt.Fprintln(l.w, l.folds.Harmless(t))
	}
}

// CanFold reports whether Fold shows anything.
func (l *Live) CanFold() bool { return l.folds != "" }

// Fold writes lines that are folded away below a title, where there is somebody who does that.
func (l *Live) Fold(id, title string, lines []string, now time.Time) {
	for _, t := range l.folds.Fold(id, title, lines, now) {
		fmt.Fprintln(l.w, t)
	}
}

// Frame replaces the last lines of a terminal by those for its size, and does nothing in a file.
// A terminal that can't be written to any more has no use for an error.
func (l *Live) Frame(lines func(width, height int) []string) {
	if l.screen == nil {
		return
	}
	_ = l.screen.Draw(l.waiting, lines(l.screen.Size()))
	l.waiting = l.waiting[:0]
}

// Close takes the frame away.
func (l *Live) Close() {
	if l.screen != nil {
		_ = l.screen.Close(l.waiting)
	}
}

// Resized tells when a terminal has changed its size, until stop is called.
func Resized() (changed <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	return c, func() { signal.Stop(c) }
}
