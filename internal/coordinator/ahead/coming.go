package ahead

import (
	"slices"
	"time"

	"lighter/scheduler"
	"lighter/store"
)

const (
	// patience is for how long after the last outputs have come guix-daemon may take to ask for what needs them.
	patience = 3 * time.Second
	// least is how long it takes at least.
	least = 100 * time.Millisecond
	// maxExpected bounds how many builds are expected at a time.
	maxExpected = 256
)

// Coming has the builds that guix-daemon will ask for once outputs that are on their way are at home. The zero value
// has none. It is not safe for concurrent use.
type Coming struct {
	on   map[store.Path]time.Time // the derivations of those outputs, and when they should be at home
	next []*awaited
}

type awaited struct {
	drv   store.Path
	build *scheduler.Build
	waits []store.Path // derivations
	last  time.Time    // when outputs came for which it waited
}

// Leaves notes that the outputs of a derivation are on their way, to be at home at a time.
func (c *Coming) Leaves(drv store.Path, at time.Time) {
	if c.on == nil {
		c.on = make(map[store.Path]time.Time)
	}
	c.on[drv] = at
}

// Arrived notes that they are at home.
func (c *Coming) Arrived(drv store.Path, now time.Time) {
	c.Lost(drv)
	for _, n := range c.next {
		if i := slices.Index(n.waits, drv); i >= 0 {
			n.waits, n.last = slices.Delete(n.waits, i, i+1), now
		}
	}
}

// Lost notes that they don't come, or not now.
func (c *Coming) Lost(drv store.Path) { delete(c.on, drv) }

// Expect notes what will be asked for when the outputs of all of waits are at home, which may not even be on their way.
func (c *Coming) Expect(drv store.Path, b *scheduler.Build, waits []store.Path) {
	c.next = slices.DeleteFunc(c.next, func(n *awaited) bool { return n.drv == drv })
	if len(c.next) == maxExpected {
		c.next = slices.Delete(c.next, 0, 1)
	}
	c.next = append(c.next, &awaited{drv: drv, build: b, waits: slices.Clone(waits)})
}

// Len returns how many are expected.
func (c *Coming) Len() int { return len(c.next) }

// Soon returns those that will be asked for within window, in any order. live reports what has been asked for and is
// not at home: that is no longer expected, and neither is what waits for something else.
func (c *Coming) Soon(now time.Time, window time.Duration, live func(store.Path) bool) []scheduler.Soon {
	c.next = slices.DeleteFunc(c.next, func(n *awaited) bool {
		return live(n.drv) || len(n.waits) == 0 && now.Sub(n.last) >= patience ||
			slices.ContainsFunc(n.waits, func(drv store.Path) bool { return !live(drv) })
	})
	var soon []scheduler.Soon
	for _, n := range c.next {
		if ready, ok := c.ready(n, now); ok && ready <= window {
			soon = append(soon, scheduler.Soon{Build: n.build, Ready: ready})
		}
	}
	return soon
}

// ready says in what time a build will be asked for, if all for which it waits is on its way.
func (c *Coming) ready(n *awaited, now time.Time) (ready time.Duration, ok bool) {
	ready = least
	for _, drv := range n.waits {
		at, on := c.on[drv]
		if !on {
			return 0, false
		}
		ready = max(ready, at.Sub(now)+least)
	}
	return ready, true
}
