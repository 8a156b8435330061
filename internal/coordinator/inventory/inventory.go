// Package inventory knows which items are on which machines, and what to believe of that: the
// outputs that stay where they were built, the closures of what builds need, and whether a machine
// can have made what it says it made.
package inventory

import (
	"slices"
	"sync"

	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/peer"
	"lighter/internal/ledger"
	"lighter/store"
)

// Inventory knows the outputs that stay on the machine where they were built. The coordinator's
// loop writes it, attempts read it.
type Inventory struct {
	head   *headstore.Store
	ledger *ledger.Ledger

	mu sync.Mutex
	// items has an entry for each machine that keeps an item, the first machine first: different
	// derivations may have the same output.
	items map[store.Path][]keptItem
}

type keptItem struct {
	made    *Item
	machine *peer.Peer
}

// New returns the inventory of a farm none of whose machines keeps anything.
func New(head *headstore.Store, l *ledger.Ledger) *Inventory {
	return &Inventory{head: head, ledger: l, items: make(map[store.Path][]keptItem)}
}

// Get returns an item that a machine keeps, and the machine that had it first; or nil.
func (k *Inventory) Get(p store.Path) (*Item, *peer.Peer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if items := k.items[p]; len(items) > 0 {
		return items[0].made, items[0].machine
	}
	return nil, nil
}

// On returns an item that a machine keeps, or nil.
func (k *Inventory) On(m *peer.Peer, p store.Path) *Item {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.onLocked(m, p)
}

func (k *Inventory) onLocked(m *peer.Peer, p store.Path) *Item {
	for _, item := range k.items[p] {
		if item.machine == m {
			return item.made
		}
	}
	return nil
}

// Has reports whether a machine is known to keep all the outputs, exactly as they are described.
func (k *Inventory) Has(m *peer.Peer, outputs map[string]*store.Info) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, info := range outputs {
		if info == nil {
			return false
		}
		if made := k.onLocked(m, info.Path); made == nil || made.Info.Difference(info) != "" {
			return false
		}
	}
	return len(outputs) > 0
}

// Add notes that a machine keeps items. Items that it is known to keep already stay as they are.
func (k *Inventory) Add(m *peer.Peer, made []*Item) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, item := range made {
		if p := item.Info.Path; k.onLocked(m, p) == nil {
			k.items[p] = append(k.items[p], keptItem{item, m})
		}
	}
}

// Remove notes that a machine no longer keeps items.
func (k *Inventory) Remove(m *peer.Peer, paths []store.Path) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range paths {
		left := slices.DeleteFunc(k.items[p], func(item keptItem) bool { return item.machine == m })
		if k.items[p] = left; len(left) == 0 {
			delete(k.items, p)
		}
	}
}

// Move notes that another peer has taken the place of a machine's.
func (k *Inventory) Move(from, to *peer.Peer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, items := range k.items {
		for i := range items {
			if items[i].machine == from {
				items[i].machine = to
			}
		}
	}
}
