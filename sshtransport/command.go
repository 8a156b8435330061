package sshtransport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// goodbye is how long a command that did its work gets to end by itself.
const goodbye = 5 * time.Second

// command is a command that runs on the machine, in a session of its own.
type command struct {
	text   string
	ch     ssh.Channel
	stdout *bufio.Reader
	stderr tail

	ended  chan struct{} // closed when the server closed the session
	status int           // valid then; -1 if there is none
	signal string
}

// exec starts a command. The caller closes it. It blocks as long as the
// connection lasts.
func (l *link) exec(text string) (*command, error) {
	c, err := l.request("exec", text, ErrNoCommands)
	if errors.Is(err, ErrNoCommands) {
		err = fmt.Errorf("remote command %s: %w", truncate(printable(text), 300), err)
	}
	return c, err
}

// request opens a session for a command or a subsystem. The error is refusal if the server
// has none of that kind.
func (l *link) request(kind, text string, refusal error) (*command, error) {
	ch, requests, err := l.openSessionChannel()
	if err != nil {
		return nil, err
	}
	c := &command{text: text, ch: ch, ended: make(chan struct{}), status: -1}
	c.stdout = bufio.NewReaderSize(ch, 64<<10)
	if !l.group.Go(func() { c.follow(requests) }) {
		ch.Close()
		return nil, l.lostError()
	}
	ok, err := ch.SendRequest(kind, true, ssh.Marshal(struct{ Text string }{text}))
	if err == nil && !ok {
		err = refusal
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// Between tries to open a session that is refused.
const (
	sessionTries      = 8
	firstSessionPause = 5 * time.Millisecond // it doubles: 635 ms in all
)

// openSessionChannel tries more than once: OpenSSH counts a session until it has seen the
// end of its process and of the channel, so that where few are allowed it may refuse one
// that comes right after another.
func (l *link) openSessionChannel() (ssh.Channel, <-chan *ssh.Request, error) {
	pause := firstSessionPause
	for try := 1; ; try++ {
		ch, requests, err := l.client.OpenChannel("session", nil)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || try == sessionTries {
			return ch, requests, err
		}
		if lost := l.check(); lost != nil {
			return nil, nil, lost
		}
		time.Sleep(pause)
		pause *= 2
	}
}

// follow reads what the server says besides standard output, until the session ends.
func (c *command) follow(requests <-chan *ssh.Request) {
	defer close(c.ended)
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&c.stderr, c.ch.Stderr()) })
	defer reading.Wait()
	for req := range requests {
		switch req.Type { // RFC 4254 section 6.10
		case "exit-status":
			var m struct{ Status uint32 }
			if ssh.Unmarshal(req.Payload, &m) == nil {
				c.status = int(m.Status & 0xff)
			}
		case "exit-signal":
			var m struct {
				Signal     string
				CoreDumped bool
				Message    string
				Lang       string
			}
			if ssh.Unmarshal(req.Payload, &m) == nil {
				c.signal = truncate(printable(m.Signal), 20)
			}
		}
		if req.WantReply {
			_ = req.Reply(false, nil)
		}
	}
}

func (c *command) close() { c.ch.Close() }

// finish waits a little for a command that has nothing more to do.
func (c *command) finish() {
	timer := time.NewTimer(goodbye)
	defer timer.Stop()
	select {
	case <-c.ended:
		return
	case <-timer.C:
	}
	c.close()
	timer.Reset(goodbye)
	select {
	case <-c.ended:
	case <-timer.C:
	}
}

// failure waits for the end of a command that did not do what it should.
func (c *command) failure(reason string) error {
	// What else it prints must not keep it from ending.
	_, _ = io.Copy(io.Discard, c.stdout)
	c.close()
	<-c.ended
	return &CommandError{Command: c.text, Status: c.status, Signal: c.signal, Stderr: c.stderr.String(), Reason: reason}
}

// output runs a command to its end and returns what it printed.
func (l *link) output(text string) (string, error) {
	c, err := l.exec(text)
	if err != nil {
		return "", err
	}
	defer c.close()
	if err := c.ch.CloseWrite(); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	out, err := readAtMost(c.stdout, maxNoise)
	if err != nil {
		c.close()
		return "", fmt.Errorf("remote command %s: %w", text, err)
	}
	<-c.ended
	if c.status != 0 {
		return "", c.failure(printable(truncate(out, maxTail)))
	}
	return out, nil
}

// readAtMost reads all, which must be fewer bytes than the limit.
func readAtMost(r io.Reader, limit int64) (string, error) {
	out, err := io.ReadAll(io.LimitReader(r, limit))
	if err == nil && int64(len(out)) == limit {
		err = fmt.Errorf("it prints %d bytes or more", limit)
	}
	return string(out), err
}

// quote makes a command line that sh, csh and fish understand alike. It fails for
// what csh cannot quote.
func quote(words ...string) (string, error) {
	var b strings.Builder
	for i, word := range words {
		if strings.ContainsAny(word, "\x00\r\n") {
			return "", fmt.Errorf("%q: an argument of a remote command has a line break or NUL", truncate(word, 100))
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		quoteWord(&b, word)
	}
	return b.String(), nil
}

func quoteWord(b *strings.Builder, word string) {
	if word != "" && strings.IndexFunc(word, needsQuotes) < 0 {
		b.WriteString(word)
		return
	}
	b.WriteByte('\'')
	for i := range len(word) {
		switch c := word[i]; c {
		case '\'', '\\', '!':
			// fish has escapes within quotes, csh has history.
			b.WriteString(`'\`)
			b.WriteByte(c)
			b.WriteByte('\'')
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
}

func needsQuotes(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-./:,+", r)
}
