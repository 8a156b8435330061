package api

import "slices"

// Check says what is wrong with a request to prune.
func (p *Prune) Check() error {
	if p.OlderThan <= 0 || p.OlderThan > MaxTime {
		return BadRequest("olderThan %v: want how many seconds ago builds must have ended, up to %v", float64(p.OlderThan), float64(MaxTime))
	}
	if len(p.States) > len(States()) {
		return BadRequest("%d states, there are %v", len(p.States), States())
	}
	for _, s := range p.States {
		if !slices.Contains(States(), s) {
			return BadRequest("state %q: there is no such state", s)
		}
		if !s.Final() {
			return BadRequest("state %s: only builds that are final can leave the ledger", s)
		}
	}
	return nil
}
