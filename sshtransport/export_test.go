package sshtransport

import "runtime"

// Status is what a Client knows of its connection; the zero value is that it has none.
type Status struct {
	ServerVersion string // identification of the SSH server
	Mode          Mode   // how streams get to the agent
	Streams       int    // that are open
}

// Status returns what is known, without asking the machine.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.link
	if l == nil {
		return Status{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return Status{ServerVersion: printable(string(l.client.ServerVersion())), Mode: l.agent.mode, Streams: len(l.streams)}
}

// AwaitLoss waits until a client knows that it has lost its connection.
func AwaitLoss(c *Client) {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return
	}
	<-l.lost
	for known := false; !known; runtime.Gosched() {
		c.mu.Lock()
		known = c.link != l
		c.mu.Unlock()
	}
}
