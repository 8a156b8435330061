package conduct

import "time"

// News bounds how often the ledger and the log, and whoever reads them, hear of what looks at a
// machine find: one that is different each time would fill them.
type News struct {
	heard  float64   // pieces of news of late, at most NewsBurst
	at     time.Time // when that was so
	held   string    // what is to be told as soon as there may be news again; empty if nothing
	missed int       // pieces of news that were not told, held included
}

const (
	// NewsBurst is how many pieces of news are told of a machine at once; after that it is one
	// in each newsInterval.
	NewsBurst    = 20
	newsInterval = 5 * time.Minute
)

// take reports whether a piece of news may be told now, and counts it if so.
func (n *News) take(now time.Time) bool {
	n.heard = max(0, n.heard-float64(now.Sub(n.at))/float64(newsInterval))
	n.at = now
	if n.heard > NewsBurst-1 {
		return false
	}
	n.heard++
	return true
}

// Add has something told: at once, or once there is less news. Of what is held back, only the
// last is.
func (n *News) Add(text string) {
	n.held = text
	n.missed++
}

// Due returns what is to be told now, and how many pieces of news before it were left out; ok is
// false if nothing is.
func (n *News) Due(now time.Time) (text string, leftOut int, ok bool) {
	if n.held == "" || !n.take(now) {
		return "", 0, false
	}
	text, leftOut = n.held, n.missed-1
	n.held, n.missed = "", 0
	return text, leftOut, true
}
