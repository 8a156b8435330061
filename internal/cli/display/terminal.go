package display

import (
	"bufio"
	"io"
	"os"

	"lighter/internal/cli/terminal"
	"lighter/internal/human"
)

// Width returns the columns that lines written to w may take, or 0 for no
// limit: a file or a pipe gets everything.
func Width(w io.Writer) int {
	if f := terminal.Of(w); f != nil {
		width, _ := terminal.Size(f)
		return width
	}
	return 0
}

// CanDraw returns the terminal behind a stream if lines on it can be replaced.
func CanDraw(stream any, getenv func(string) string) *os.File {
	if !terminal.Smart(getenv) {
		return nil
	}
	return terminal.Of(stream)
}

// StyleOf returns how to decorate what goes to a stream; see https://no-color.org.
func StyleOf(stream any, getenv func(string) string) Style {
	return Style{Colour: CanDraw(stream, getenv) != nil && getenv("NO_COLOR") == ""}
}

// LogWriter returns where to write a log: to w as it is, or, if that is a
// terminal, line by line with what is dangerous made harmless. finish writes what
// is left and waits until all is written.
func LogWriter(w io.Writer) (out io.Writer, finish func() error) {
	if terminal.Of(w) == nil {
		return w, func() error { return nil }
	}
	r, pipe := io.Pipe()
	done := make(chan error, 1)
	go func() {
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				if _, err := io.WriteString(w, human.LogColours(line)); err != nil {
					r.CloseWithError(err)
					done <- err
					return
				}
			}
			if err != nil {
				done <- nil
				return
			}
		}
	}()
	return pipe, func() error {
		pipe.Close()
		return <-done
	}
}
