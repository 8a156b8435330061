// Package reserve decides what of a machine is kept for a build while it runs there: memory, tokens of
// whatever else is scarce, and cores. It is pure: it is told what machines have and what is known of
// builds. That builds whose reservations don't fit together don't run together is package scheduler's part.
//
// A reservation is not a limit: a build may take more than was reserved for it. So the reservation should be
// what it takes at its peak, and if in doubt a little more; but what is merely unknown may not keep slots empty.
package reserve

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"strconv"
	"strings"

	"lighter/internal/api"
	"lighter/internal/quantity"
	"lighter/scheduler"
	"lighter/scheduler/estimate"
	"lighter/store"
)

const (
	// Default is reserved, in bytes, for a build of which nothing is known, unless a slot's part of a
	// machine's memory is less.
	Default = 512 << 20
	// MaxKills is how often a build may be killed for want of memory before it fails, if each time there is a
	// machine that has more for it.
	MaxKills = 6

	// similarPart is the part of all builds with a build system that need no more than is reserved for one of
	// which nothing else is known.
	similarPart = 0.75

	// ownPart is the part of a machine's memory that is for itself, up to maxOwn bytes.
	ownPart = 16
	maxOwn  = 4 << 30
	// plenty stands for as many tokens as any number of builds take.
	plenty = math.MaxInt32
)

// MachineMemory returns how many bytes the builds of a machine may need together, 0 for any number:
// those of its entry in the machines file, or else what it has less a part for itself. Less than 0
// in the entry means that memory is not counted, and has is 0 if it is not known.
func MachineMemory(entry, has int64) int64 {
	switch {
	case entry < 0:
		return 0
	case entry > 0:
		return entry
	}
	return has - min(has/ownPart, maxOwn)
}

// Farm is what is reserved on. The zero value has no machines.
type Farm struct {
	machines []scheduler.Machine
	unknown  map[string]bool
	counted  map[string]bool // names of tokens
	part     int64           // the least that a slot's part of a machine's memory is; 0 if no memory is counted
	largest  int64           // the greatest reservation so far that was learnt, and
	cut      bool            // whether one was cut to what machines have
}

// Use replaces the machines; it retains the list. Of those in unknown it is not known yet how much memory
// they have.
func (f *Farm) Use(machines []scheduler.Machine, unknown map[string]bool) {
	f.machines, f.unknown, f.counted, f.part = machines, unknown, nil, 0
	for i := range machines {
		m := &machines[i]
		for name := range m.Tokens {
			if f.counted == nil {
				f.counted = make(map[string]bool)
			}
			f.counted[name] = true
		}
		if m.Memory > 0 && m.Slots > 0 {
			if part := m.Memory / int64(m.Slots); f.part == 0 || part < f.part {
				f.part = part
			}
		}
	}
	for i := range machines {
		machines[i].Tokens = f.Tokens(&machines[i])
	}
}

// Tokens returns the tokens of a machine with those of features that it offers without counting them, while
// other machines count.
func (f *Farm) Tokens(m *scheduler.Machine) map[string]int {
	tokens := m.Tokens
	own := true
	for _, features := range [][]string{m.Features, m.MandatoryFeatures} {
		for _, name := range features {
			if _, has := tokens[name]; !f.counted[name] || has {
				continue
			}
			if own {
				tokens, own = maps.Clone(tokens), false
			}
			if tokens == nil {
				tokens = make(map[string]int)
			}
			tokens[name] = plenty
		}
	}
	return tokens
}

// Source says where a reservation comes from.
type Source int

// The sources, as far as somebody knows: a build's request, its package, a guess.
const (
	Unknown Source = iota
	Similar        // builds with the same build system
	Giant          // packages that are known to be large
	Earlier        // builds of the same package
	Killed         // an attempt that was killed for want of memory
	Asked          // the request
)

// Memory is what is known of the memory that a build needs.
type Memory struct {
	Bytes int64
	Source
}

// Learnt returns what earlier builds teach.
func Learnt(peak estimate.Dist[int64]) Memory {
	switch peak.Known() {
	case estimate.FromVersion, estimate.FromPackage:
		return Memory{peak.High(), Earlier}
	case estimate.FromTable:
		return Memory{peak.High(), Giant}
	case estimate.FromBuildSystem:
		return Memory{peak.Quantile(similarPart), Similar}
	}
	return Memory{}
}

// Needs is what is known of what a build needs of a machine: memory, and tokens that were asked for.
type Needs struct {
	Memory
	Tokens map[string]int
}

// Of returns what a build needs that is asked for by requests: the most that any of them asks for or, if they don't say how
// much memory, what was learnt of that; and more once it was killed for want of it.
func Of(requests iter.Seq[*api.Request], peak estimate.Dist[int64], killed int64) Needs {
	var n Needs
	for r := range requests {
		if n.Bytes < r.Memory {
			n.Memory = Memory{r.Memory, Asked}
		}
		n.Tokens = most(n.Tokens, r.Tokens)
	}
	if n.Bytes == 0 {
		n.Memory = Learnt(peak)
	}
	if n.Bytes < killed {
		n.Memory = Memory{killed, Killed}
	}
	return n
}

// most returns of each token the greater number. It changes neither, and may return one of them.
func most(a, b map[string]int) map[string]int {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	all := maps.Clone(a)
	for name, n := range b {
		all[name] = max(all[name], n)
	}
	return all
}

// Add adds to sums the tokens of a build that a machine has. It changes sums, which may be nil, and returns it.
func Add(sums, taken, has map[string]int) map[string]int {
	for name, n := range taken {
		if _, ok := has[name]; !ok {
			continue
		}
		if sums == nil {
			sums = make(map[string]int)
		}
		sums[name] += n
	}
	return sums
}

// Reserve fills in what of a machine a build gets that has such needs.
// System, Features and Skip are there. What was only learnt is cut to what the largest machine has that
// may take the build, so that there is one which does; what was asked for is not.
func (f *Farm) Reserve(b *scheduler.Build, need Needs) {
	b.Tokens = f.tokensOf(b.Features, need.Tokens)
	b.Memory = need.Bytes
	switch need.Source {
	case Asked:
		return
	case Unknown, Similar:
		if need.Source == Unknown {
			b.Memory = Default
		}
		if f.part > 0 {
			b.Memory = min(b.Memory, f.part)
		}
		return
	}
	if most := f.Most(b); most > 0 && most < b.Memory {
		b.Memory, f.cut = most, true
	}
	f.largest = max(f.largest, b.Memory)
}

// Matters reports whether reservations may change when a machine turns out to have that much memory.
func (f *Farm) Matters(memory int64) bool { return f.cut || memory < f.largest }

// tokensOf returns the tokens that a build takes: those that were asked for, and one for each feature
// that some machine counts.
func (f *Farm) tokensOf(features []string, asked map[string]int) map[string]int {
	tokens := asked
	for _, name := range features {
		if !f.counted[name] || tokens[name] > 0 {
			continue
		}
		if len(tokens) == len(asked) {
			tokens = maps.Clone(asked)
		}
		if tokens == nil {
			tokens = make(map[string]int)
		}
		tokens[name] = 1
	}
	return tokens
}

// Most returns how much memory the largest machine has that may take a build, 0 if that is not known or
// not counted. Machines of which it is not known yet count only if there are no others.
func (f *Farm) Most(b *scheduler.Build) (most int64) {
	idle := scheduler.Build{System: b.System, Features: b.Features, Skip: b.Skip, Tokens: b.Tokens}
	for i := range f.machines {
		m := &f.machines[i]
		if f.unknown[m.Name] || !scheduler.Possible(&idle, f.machines[i:i+1]) {
			continue
		}
		if m.Memory == 0 {
			return 0
		}
		most = max(most, m.Memory)
	}
	return most
}

// Kill is what follows for a build whose builder was killed.
type Kill struct {
	// Certain says that it was for want of memory. Where that is certainly not so, and where memory is not counted, nothing
	// is known of what it had.
	Certain bool
	Had     int64 // bytes of memory, as far as is known
	Need    int64 // how much it needs at least: twice as much, but no more than any machine has
	More    bool  // that is more than it had
}

// AfterKill returns what follows. used is what was measured, nil if nothing was; of the machine that killed it,
// memory is what its builds may need together, 0 if that is not counted. most is what the largest
// machine has that may take the build, 0 if that is not known.
func AfterKill(used *store.Measured, reserved, memory int64, slots int, most int64) (k Kill) {
	if used == nil {
		used = &store.Measured{}
	}
	if !used.KilledForMemory && used.Method == store.MeasuredCgroup {
		return k // something else killed it
	}
	if memory == 0 {
		k.Need = 2 * min(used.PeakMemory, math.MaxInt64/2)
		return k
	}
	k.Certain = used.KilledForMemory
	// Its slot's part of the memory it had at least, whatever was reserved.
	if k.Had = used.PeakMemory; k.Had == 0 {
		k.Had = max(reserved, memory/int64(max(1, slots)))
	}
	if k.Need = 2 * min(k.Had, math.MaxInt64/2); most > 0 {
		k.Need = min(k.Need, most)
	}
	k.More = k.Need > k.Had
	return k
}

// lastLines is how a message goes on with the last lines of a log.
const lastLines = "; its last lines were:"

// Explain adds to the message of the failure how much memory the build had, and what it needs.
func (k *Kill) Explain(message string) string {
	if k.Had == 0 {
		return message
	}
	text := fmt.Sprintf("; it had %s, and no machine that may build it has more: it needs a larger one", quantity.Bytes(k.Had))
	if k.More {
		text = fmt.Sprintf("; it had %s: --memory %s reserves more", quantity.Bytes(k.Had), quantity.ExactBytes(roundUp(k.Need)))
	}
	first, rest, logged := strings.Cut(message, lastLines)
	if logged {
		return first + text + lastLines + rest
	}
	return first + text
}

// roundUp returns a size that is short to write.
func roundUp(n int64) int64 {
	unit := int64(1 << 20)
	if n >= 4<<30 {
		unit = 1 << 30
	}
	return (n + unit - 1) / unit * unit
}

// Awaited reports whether one of the most urgent builds of a queue may be built on a machine.
func Awaited(queue iter.Seq[scheduler.Build], m scheduler.Machine) bool {
	const most = 100
	looked := 0
	for b := range queue {
		if looked++; looked > most {
			break
		}
		if scheduler.Possible(&b, []scheduler.Machine{m}) {
			return true
		}
	}
	return false
}

// Cores returns how many cores each of so many builds gets that run beside each other: at least 1; 0, which leaves
// it to the machine, if it is not known how many there are.
func Cores(cores, builds int) int {
	if cores <= 0 {
		return 0
	}
	return max(1, cores/max(1, builds))
}

// Class is that of a machine on which a build gets so many cores; empty if that is not known.
func Class(cores int) string {
	if cores <= 0 {
		return ""
	}
	return strconv.Itoa(cores) + " cores"
}

// Why says for people how much is reserved, of what is known, and why. name is the package's.
func (m Memory) Why(reserved int64, name string) string {
	text, upTo := quantity.Bytes(reserved)+" reserved", "that"
	if reserved < m.Bytes {
		upTo = quantity.Bytes(m.Bytes)
		if text += ", the most that a machine has"; m.Source == Similar {
			text = quantity.Bytes(reserved) + " reserved, a slot's part"
		}
	}
	switch m.Source {
	case Asked:
		return text + ": it was asked for"
	case Killed:
		return text + ": it was killed when it had less, and may need " + upTo
	case Earlier:
		return text + ": earlier builds of " + name + " needed up to " + upTo
	case Giant:
		return text + ": " + name + " is known to need up to " + upTo
	case Similar:
		return text + ": most builds like it need up to " + upTo
	}
	return text + ": it was never measured"
}
