package scheduler

import (
	"iter"
	"time"
)

// order yields the builds of several lines in the order in which they are looked at: the
// highest priority first; of equal priority, that of the share which has used least for its
// weight; of one share, the most urgent.
type order struct {
	turns   []*turn
	backlog map[*demand]float64 // see round.backlogs
	left    map[*class]int      // lines that have builds which were not looked at
	last    *turn               // that the last build came from
}

// turn is how far the builds of one share have been looked at.
type turn struct {
	share  string
	weight float64
	used   float64 // slot seconds
	heads  heap[*head]
}

// head is how far one line has been looked at.
type head struct {
	line    *line
	walk    *walk[*entry] // nil as long as that is the first
	entry   *entry        // the next one
	urgency float64
}

// newOrder starts at the beginning. Without shares all builds are of one. The order of the lines does not
// matter: that of their builds is total.
func newOrder(lines []*line, backlog map[*demand]float64, shares *Shares, used map[string]float64) *order {
	o := &order{backlog: backlog, left: make(map[*class]int)}
	byShare := make(map[string]*turn)
	for _, l := range lines {
		share := l.share
		if shares == nil {
			share = ""
		}
		t := byShare[share]
		if t == nil {
			t = &turn{share: share, weight: 1}
			if shares != nil {
				t.weight, t.used = shares.weightOf(share), used[share]
			}
			t.heads.less = lessHead
			byShare[share] = t
			o.turns = append(o.turns, t)
		}
		h := &head{line: l}
		o.show(h, l.heap.items[0])
		t.heads.push(h)
		o.left[l.class]++
	}
	return o
}

func (o *order) show(h *head, e *entry) {
	h.entry, h.urgency = e, max(e.Rank.Seconds(), o.backlog[h.line.class.demand])
}

// advance has a head show its line's next build, if there is one.
func (o *order) advance(h *head) bool {
	if h.walk == nil {
		h.walk = h.line.heap.walk()
	}
	h.walk.next()
	e, ok := h.walk.peek()
	if ok {
		o.show(h, e)
	}
	return ok
}

func lessHead(a, b *head) bool {
	switch x, y := &a.entry.Build, &b.entry.Build; {
	case x.Priority != y.Priority:
		return x.Priority > y.Priority
	case a.urgency != b.urgency:
		return a.urgency > b.urgency
	default:
		return urgent(x, y)
	}
}

// before reports whether it is rather this turn's.
func (t *turn) before(other *turn) bool {
	x, y := t.heads.items[0], other.heads.items[0]
	if a, b := x.entry.Priority, y.entry.Priority; a != b {
		return a > b
	}
	if a, b := t.used/t.weight, other.used/other.weight; a != b {
		return a < b
	}
	return lessHead(x, y)
}

// next returns nil at the end.
func (o *order) next() *entry {
	for {
		var best *turn
		for _, t := range o.turns {
			if len(t.heads.items) > 0 && (best == nil || t.before(best)) {
				best = t
			}
		}
		o.last = best
		if best == nil {
			return nil
		}
		h := best.heads.items[0]
		if o.left[h.line.class] == 0 {
			best.heads.remove(0)
			continue
		}
		e := h.entry
		if o.advance(h) {
			best.heads.fix(0)
		} else {
			best.heads.remove(0)
			o.left[h.line.class]--
		}
		return e
	}
}

// charge notes that the last build will take a slot for so many seconds.
func (o *order) charge(seconds float64) { o.last.used += min(seconds, turnHorizon.Seconds()) }

// drop ends the lines of a class.
func (o *order) drop(c *class) { delete(o.left, c) }

// more reports whether builds of a class were not looked at.
func (o *order) more(c *class) bool { return o.left[c] > 0 }

func (o *order) all() iter.Seq[Build] {
	return func(yield func(Build) bool) {
		for e := o.next(); e != nil; e = o.next() {
			o.charge(expected(&e.Build))
			if !yield(e.Build) {
				return
			}
		}
	}
}

// turnHorizon bounds what a build counts for its share before the time has passed: one that
// takes hours shall not keep its share from everything else for as long.
const turnHorizon = 10 * time.Minute
