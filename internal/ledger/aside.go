package ledger

import (
	"errors"
	"slices"
	"sync"

	"lighter/internal/api"
)

// maxAside bounds the records that are remembered as unusable.
const maxAside = 1000

// aside has the records that could not be used when they were read. They stay in the
// database: "lighter doctor" says how to drop them.
type aside struct {
	mu    sync.Mutex
	known map[string]error // by what they are
}

// setAside notes and logs, once, that a record can't be used and is left out.
func (db *database) setAside(err error) {
	var record *RecordError
	if !errors.As(err, &record) {
		return
	}
	db.aside.mu.Lock()
	defer db.aside.mu.Unlock()
	if db.aside.known[record.What] != nil || len(db.aside.known) == maxAside {
		return
	}
	if db.aside.known == nil {
		db.aside.known = make(map[string]error)
	}
	db.aside.known[record.What] = record
	db.opts.Logger.Error("ledger: a record can't be used and is left out; \"lighter doctor --deep\" says how to drop it", "record", record.What, "err", record.Err)
}

// SetAside says what is wrong with the records that were read since the ledger was opened and could not be
// used; at most api.MaxListed of them.
func (l *Ledger) SetAside() []string {
	l.db.aside.mu.Lock()
	defer l.db.aside.mu.Unlock()
	var list []string
	for _, err := range l.db.aside.known {
		list = append(list, api.Cut(err.Error(), api.MaxProblem))
	}
	slices.Sort(list)
	return list[:min(len(list), api.MaxListed)]
}
