package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"lighter/internal/agentapi"
	"lighter/internal/api"
)

// Head is who is at the other end of a connection, where that is not the account itself:
// a head with a key that lets it do nothing but build. It sees the builds that it has asked
// for and no others, and may ask for what the machine's owner offers.
type Head struct {
	// Name tells heads from each other: letters, digits, dashes and underscores, 64 at
	// most. Without one, a head shares its builds with the account itself.
	Name  string          `json:"name,omitempty"`
	Offer *agentapi.Offer `json:"offer"`
}

// headMark is between a head's name and a build's id, neither of which has it.
const headMark = "~"

const maxHeadName = 64

// check says what is wrong with a head's name.
func (h *Head) check() error {
	if len(h.Name) > maxHeadName || strings.ContainsFunc(h.Name, func(c rune) bool {
		return c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}) {
		return fmt.Errorf("head %q: want at most %d letters, digits, dashes and underscores", shorten(h.Name), maxHeadName)
	}
	return nil
}

// prefix is what the ids of its builds begin with here.
func (h *Head) prefix() string {
	if h == nil || h.Name == "" {
		return ""
	}
	return h.Name + headMark
}

// own returns the state of a build as the head knows it; ok is false if it is another's.
func (h *Head) own(status agentapi.BuildStatus) (_ agentapi.BuildStatus, ok bool) {
	id, ok := strings.CutPrefix(status.ID, h.prefix())
	status.ID = id
	return status, ok && !strings.Contains(id, headMark)
}

// offer is nil for the account itself.
func (h *Head) offer() *agentapi.Offer {
	if h == nil {
		return nil
	}
	return h.Offer
}

// usable returns an offer that says which of its sandbox paths the store would not show.
func (a *Agent) usable(o *agentapi.Offer) *agentapi.Offer {
	s, ok := a.opts.Store.(interface{ CheckSandboxPath(outside string) error })
	if o == nil || !ok {
		return o
	}
	checked := *o
	checked.Unusable = make(map[string]string)
	for _, text := range o.SandboxPaths {
		if err := s.CheckSandboxPath(text[strings.IndexByte(text, '=')+1:]); err != nil {
			checked.Unusable[text] = err.Error()
		}
	}
	return &checked
}

// limit changes a request to what the owner offers. What cannot be had in any part is an
// error.
func (h *Head) limit(req *agentapi.BuildRequest) error {
	o := h.offer()
	if o == nil {
		return nil
	}
	chosen := make([]string, 0, len(req.SandboxPaths))
	for _, text := range req.SandboxPaths {
		p, ok := o.Choose(text)
		if !ok {
			return refuse(http.StatusForbidden, agentapi.CodeNotOffered, "%s", o.Refuses([]string{shorten(text)}, nil, 0))
		}
		chosen = append(chosen, p)
	}
	var servers []string
	for _, url := range req.SubstituteURLs {
		if o.HasServer(url) {
			servers = append(servers, url)
		}
	}
	req.SandboxPaths, req.SubstituteURLs = chosen, servers
	req.KeepFailed = req.KeepFailed && o.KeepFailed
	if o.MaxCores > 0 && (req.Cores == 0 || req.Cores > o.MaxCores) {
		req.Cores = o.MaxCores
	}
	req.Timeout = bounded(req.Timeout, o.MaxTime)
	req.MaxSilentTime = bounded(req.MaxSilentTime, o.MaxSilentTime)
	return nil
}

// bounded returns the shorter of two times of which 0 means no limit.
func bounded(asked, bound api.Seconds) api.Seconds {
	if asked == 0 || bound == 0 {
		return asked + bound
	}
	return min(asked, bound)
}

type headKey struct{}

// headOf returns who sent a request; nil for the account itself.
func headOf(r *http.Request) *Head {
	c, _ := r.Context().Value(headKey{}).(*headConn)
	if c == nil {
		return nil
	}
	return c.head
}

// connContext is that of an http.Server.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	if inner, ok := conn.(*closeConn); ok {
		conn = inner.Conn
	}
	if c, ok := conn.(*headConn); ok {
		return context.WithValue(ctx, headKey{}, c)
	}
	return ctx
}

// introMagic begins the line that comes before everything else on a connection of a head.
// No request begins so.
const introMagic = "lighter-head/1 "

// maxIntro bounds that line, in bytes.
const maxIntro = 1 << 20

// Introduction is what must be sent first on a connection to an agent's socket, by who
// relays for a head.
func (h *Head) Introduction() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(h)
	if err == nil && len(text) > maxIntro-len(introMagic)-1 {
		err = fmt.Errorf("what is offered has %d bytes, more than %d", len(text), maxIntro)
	}
	return append(append([]byte(introMagic), text...), '\n'), err
}

// headConn is a connection that knows whose it is, after the first Read.
type headConn struct {
	net.Conn
	head *Head
	r    *bufio.Reader // until the start was looked at; then what is left of it
	seen bool
}

// introduced makes connections of a listener tell whose they are by what comes first.
type introduced struct{ net.Listener }

func (l introduced) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &headConn{Conn: conn}, nil
}

func (c *headConn) Read(p []byte) (int, error) {
	if !c.seen {
		if err := c.introduce(); err != nil {
			return 0, err
		}
		c.seen = true
	}
	if c.r == nil {
		return c.Conn.Read(p)
	}
	n, err := c.r.Read(p)
	if c.r.Buffered() == 0 {
		c.r = nil // from now on without a copy
	}
	return n, err
}

// introduce reads the line that may come first. Who speaks of himself as a head by that is
// believed: it takes rights away, and gives none.
func (c *headConn) introduce() error {
	if c.head != nil {
		return nil // it was known before
	}
	c.r = bufio.NewReader(c.Conn)
	// One byte tells: no method of HTTP begins with a small letter.
	first, err := c.r.Peek(1)
	if err != nil || first[0] != introMagic[0] {
		return err
	}
	var line []byte
	for !bytes.HasSuffix(line, []byte("\n")) {
		part, err := c.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if line = append(line, part...); len(line) > maxIntro {
			return errors.New("the first line is too long")
		}
	}
	text, ok := bytes.CutPrefix(line, []byte(introMagic))
	head := new(Head)
	if !ok || json.Unmarshal(text, head) != nil || head.Offer == nil || head.check() != nil {
		return errors.New("the first line is not understood")
	}
	c.head = head
	if c.r.Buffered() == 0 {
		c.r = nil
	}
	return nil
}

var _ io.Reader = (*headConn)(nil)
