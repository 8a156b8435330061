package coordinator

import "time"

// news bounds how often the ledger and the log, and whoever reads them, hear of what looks at a
// machine find: one that is different each time would fill them.
type news struct {
	heard  float64   // pieces of news of late, at most newsBurst
	at     time.Time // when that was so
	held   string    // what is to be told as soon as there may be news again; empty if nothing
	missed int       // pieces of news that were not told, held included
}

const (
	// newsBurst is how many pieces of news are told of a machine at once; after that it is one
	// in each newsInterval.
	newsBurst    = 20
	newsInterval = 5 * time.Minute
)

// take reports whether a piece of news may be told now, and counts it if so.
func (n *news) take(now time.Time) bool {
	n.heard = max(0, n.heard-float64(now.Sub(n.at))/float64(newsInterval))
	n.at = now
	if n.heard > newsBurst-1 {
		return false
	}
	n.heard++
	return true
}

// tell records something about a machine: at once, or once there is less news of it. Of what
// is held back, only the last is told. It reports whether it was told at once.
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
		m.log.Warn("the machine changed so often that not all of it was recorded", "left out", n.missed-1, "now", n.held)
	}
	l.event(m.Name, n.held)
	n.held, n.missed = "", 0
	return true
}
