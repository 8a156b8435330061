package inventory

import (
	"cmp"
	"slices"
	"time"

	"lighter/internal/coordinator/peer"
	"lighter/store"
)

// Wanted are items that a build needs, looked up once, so that one machine after the other can
// be asked what it lacks of them.
type Wanted struct {
	numbers    *Numbers
	generation int
	items      []wantedItem // that some machine has, or that are not at home
	everywhere int64        // bytes of all others: the head has them, and no machine
	sources    []source
}

type wantedItem struct {
	number   uint32
	numbered bool  // else no machine has it
	size     int64 // bytes
	from     int   // one more than the index of its source; 0 if the head has it
}

// source is a machine from which the head must first get some of the items.
type source struct {
	machine *peer.Peer
	rate    float64 // bytes/s, more than 0
	ahead   int64   // bytes that travel home from there before them
	lacked  int64   // the same of those that the machine lacks which LackedBy is asked about
}

// Want looks up items. rate says how many bytes a second come home from a machine, more than 0.
func (k *Inventory) Want(numbers *Numbers, paths []store.Path, rate func(*peer.Peer) float64) *Wanted {
	w := &Wanted{numbers: numbers, generation: numbers.Generation(), items: make([]wantedItem, 0, len(paths))}
	for _, p := range paths {
		n, numbered := numbers.Of(p)
		item := wantedItem{number: n, numbered: numbered, size: k.head.Size(p)}
		if item.size == 0 {
			made, on := k.Get(p)
			if made != nil {
				item.size = made.Info.NARSize
				item.from = w.from(on, p, item.size, rate)
			}
		}
		if !numbered && item.from == 0 {
			w.everywhere += item.size
		} else {
			w.items = append(w.items, item)
		}
	}
	return w
}

// from notes that the head must get an item from a machine.
func (w *Wanted) from(m *peer.Peer, p store.Path, size int64, rate func(*peer.Peer) float64) int {
	i := slices.IndexFunc(w.sources, func(s source) bool { return s.machine == m })
	if i < 0 {
		i = len(w.sources)
		w.sources = append(w.sources, source{machine: m, rate: rate(m), ahead: m.Fetching.Ahead()})
	}
	if m.Fetching.Coming(p) {
		w.sources[i].ahead -= size // it is counted once
	}
	return i + 1
}

// Stale reports whether what was looked up does not hold any more.
func (w *Wanted) Stale() bool { return w.generation != w.numbers.Generation() }

// LackedBy returns how many bytes of the items are not in a machine's set, and how long it takes until
// the head has all of them.
func (w *Wanted) LackedBy(has *Set) (bytes int64, gather time.Duration) {
	for i := range w.sources {
		w.sources[i].lacked = 0
	}
	bytes = w.everywhere
	for i := range w.items {
		item := &w.items[i]
		if item.numbered && has.Has(item.number) {
			continue
		}
		bytes += item.size
		if item.from > 0 {
			w.sources[item.from-1].lacked += item.size
		}
	}
	for i := range w.sources {
		if s := &w.sources[i]; s.lacked > 0 {
			gather = max(gather, seconds(float64(max(0, s.ahead)+s.lacked)/s.rate))
		}
	}
	return bytes, gather
}

// seconds is a duration of at most some years, whatever is measured.
func seconds(s float64) time.Duration {
	const limit = 1e8
	return time.Duration(min(s, limit) * float64(time.Second))
}

// Near returns the machines that have most of the items, those with more first; n at most. Of an item
// that several have counts the one that the head would get it from, or else that got it last.
func (w *Wanted) Near(n int) []*peer.Peer {
	type held struct {
		by    *peer.Peer
		bytes int64
	}
	var all []held
	for i := range w.items {
		item := &w.items[i]
		var by *peer.Peer
		if item.from > 0 {
			by = w.sources[item.from-1].machine
		} else if holder := w.numbers.holders[item.number]; holder != nil && holder.Has(item.number) {
			by = holder.machine
		}
		if by == nil {
			continue
		}
		at := slices.IndexFunc(all, func(h held) bool { return h.by == by })
		if at < 0 {
			at = len(all)
			all = append(all, held{by: by})
		}
		all[at].bytes += item.size
	}
	slices.SortStableFunc(all, func(a, b held) int { return cmp.Compare(b.bytes, a.bytes) })
	near := make([]*peer.Peer, min(n, len(all)))
	for i := range near {
		near[i] = all[i].by
	}
	return near
}
