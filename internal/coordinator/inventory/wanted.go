package inventory

import "lighter/store"

// Wanted are items that a build needs, looked up once, so that one machine after the other can
// be asked what it lacks of them.
type Wanted struct {
	numbers    *Numbers
	generation int
	items      []numberedItem
	everywhere int64 // bytes of those that no machine has
}

type numberedItem struct {
	number uint32
	size   int64 // bytes
}

// Want looks up items.
func (k *Inventory) Want(numbers *Numbers, paths []store.Path) *Wanted {
	w := &Wanted{numbers: numbers, generation: numbers.Generation(), items: make([]numberedItem, 0, len(paths))}
	for _, p := range paths {
		size := k.Size(p)
		if n, ok := numbers.Of(p); ok {
			w.items = append(w.items, numberedItem{n, size})
		} else {
			w.everywhere += size
		}
	}
	return w
}

// Stale reports whether what was looked up does not hold any more.
func (w *Wanted) Stale() bool { return w.generation != w.numbers.Generation() }

// LackedBy returns how many bytes of the items are not in a set.
func (w *Wanted) LackedBy(has *Set) int64 {
	sum := w.everywhere
	for i := range w.items {
		if !has.Has(w.items[i].number) {
			sum += w.items[i].size
		}
	}
	return sum
}
