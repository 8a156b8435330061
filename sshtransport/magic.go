package sshtransport

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// The magic lines. Each starts a line of its own, so that what login scripts print
// before it does not matter.
const (
	magicPrefix  = "lighter-agent/1 "
	magicStart   = magicPrefix + "start "
	magicConnect = magicPrefix + "connect"

	// maxNoise bounds what is skipped before a magic line, maxMagicLine the line.
	maxNoise     = 256 << 10
	maxMagicLine = 8 << 10
	// maxSocketPath is more than the kernel lets a socket's name have.
	maxSocketPath = 512
)

// StartAnswer is what "lighter-agent start" says of the agent that runs.
type StartAnswer struct {
	// Socket is the absolute name of the Unix socket that the agent listens on.
	Socket string `json:"socket"`
	// Version of the agent's program, and the process; for people alone.
	Version string `json:"version,omitempty"`
	PID     int    `json:"pid,omitempty"`
}

// WriteStart writes the magic line with which "lighter-agent start" answers.
func WriteStart(w io.Writer, answer StartAnswer) error {
	if err := answer.check(); err != nil {
		return err
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", magicStart, text)
	return err
}

// writeConnect writes the magic line after which the bytes of a stream follow.
func writeConnect(w io.Writer) error {
	_, err := io.WriteString(w, magicConnect+"\n")
	return err
}

func (a *StartAnswer) check() error {
	switch {
	case !path.IsAbs(a.Socket):
		return fmt.Errorf("the agent's socket %q is not absolute", truncate(a.Socket, 100))
	case len(a.Socket) > maxSocketPath:
		return fmt.Errorf("the name of the agent's socket has %d bytes", len(a.Socket))
	case strings.ContainsRune(a.Socket, 0):
		return fmt.Errorf("the name of the agent's socket has a NUL byte")
	}
	return nil
}

// errNoMagic says that a command ended, or said too much, before a magic line.
var errNoMagic = errors.New("no magic line")

// readMagic skips noise up to a magic line and returns the line without its end. At
// the end of input before one, the error matches errNoMagic and says what was read.
func readMagic(r *bufio.Reader) (string, error) {
	var noise tail
	for read := 0; ; {
		line, err := r.ReadSlice('\n')
		// A script may print its last line without an end.
		if i := bytes.Index(line, []byte(magicPrefix)); i >= 0 && err == nil && len(line)-i <= maxMagicLine {
			return strings.TrimRight(string(line[i:]), "\r\n"), nil
		}
		_, _ = noise.Write(line)
		read += len(line)
		switch {
		case err == io.EOF:
			return "", fmt.Errorf("%w in what it printed%s", errNoMagic, noise.quoted())
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		case read > maxNoise:
			return "", fmt.Errorf("%w in the first %d bytes that it printed%s", errNoMagic, read, noise.quoted())
		}
	}
}

// parseStart reads what follows magicStart.
func parseStart(text string) (StartAnswer, error) {
	var answer StartAnswer
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return StartAnswer{}, fmt.Errorf("the answer %q: %w", truncate(text, 200), err)
	}
	return answer, answer.check()
}
