package coordinator

import "time"

// news bounds how often the ledger, the log and whoever reads them hear of what a machine
// says by itself with each look: one that says something else each time would fill them.
type news struct {
	heard  float64   // of late, of at most newsBurst
	at     time.Time // when that was so
	held   string    // what is to be told when there is time again; empty if nothing
	missed int       // what was not told, held included
}

const (
	// newsBurst is how much is told of a machine at once, after which it is one piece of
	// news in each newsInterval.
	newsBurst    = 20
	newsInterval = 5 * time.Minute
)

// take reports whether there is room for a piece of news.
func (n *news) take(now time.Time) bool {
	n.heard = max(0, n.heard-float64(now.Sub(n.at))/float64(newsInterval))
	n.at = now
	if n.heard > newsBurst-1 {
		return false
	}
	n.heard++
	return true
}

// tell records something about a machine, at once or when there was not too much of late.
// Of what comes meanwhile the last is told. It reports whether it was at once.
func (m *machine) tell(l *loop, text string) bool {
	m.news.held = text
	m.news.missed++
	return m.tellHeld(l)
}

// tellHeld is called with each look at a machine, and reports whether anything was told.
func (m *machine) tellHeld(l *loop) bool {
	n := &m.news
	if n.held == "" || !n.take(l.now()) {
		return false
	}
	if n.missed > 1 {
		m.log.Warn("the machine changed so often that not all was told", "left out", n.missed-1, "now", n.held)
	}
	l.event(m.Name, n.held)
	n.held, n.missed = "", 0
	return true
}
