package coordinator

import (
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

// release gives the slot back that an attempt held.
func (a *attempt) release(l *loop) {
	l.account.Hold(a.build.Share, -1, l.now())
	l.counts.Book.Used(a.machine.Name, a.began, l.now())
}

// read makes the reading of the farm that is due, or the last one, and keeps it in the ledger.
func (l *loop) read(now time.Time, last bool) {
	book := l.counts.Book
	if !last && !book.Due(now) {
		return
	}
	var list []api.MachineStatus
	for _, m := range l.machines {
		list = append(list, m.status())
	}
	for _, h := range l.hosts {
		for a := range h.attempts {
			if a.build != nil {
				book.Used(a.machine.Name, a.began, now)
			}
		}
	}
	if hour := book.Read(now, l.counts.Queues(now, l.started), list); hour != nil && l.recorder.Stalled() == nil { // else the next one has it too
		l.change(ledger.Change{Hour: hour})
	}
}
