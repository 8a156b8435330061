// Package unable collects which machines have said that they can't build a derivation, however
// often they are asked, and why.
package unable

import (
	"slices"
	"strings"
)

// List has the machines that can't build one derivation. The zero value is empty.
type List struct{ groups []group }

// group are machines that said the same.
type group struct {
	machines []string
	reason   string
}

// Add notes that a machine can't build it, for a reason. What it said before no longer counts.
func (l *List) Add(machine, reason string) {
	for i := range l.groups {
		g := &l.groups[i]
		g.machines = slices.DeleteFunc(g.machines, func(name string) bool { return name == machine })
	}
	l.groups = slices.DeleteFunc(l.groups, func(g group) bool { return len(g.machines) == 0 })
	for i := range l.groups {
		if g := &l.groups[i]; g.reason == reason {
			g.machines = append(g.machines, machine)
			return
		}
	}
	l.groups = append(l.groups, group{[]string{machine}, reason})
}

// Empty reports whether no machine has said so.
func (l *List) Empty() bool { return len(l.groups) == 0 }

// Has reports whether a machine can't.
func (l *List) Has(machine string) bool {
	return slices.ContainsFunc(l.groups, func(g group) bool { return slices.Contains(g.machines, machine) })
}

// Reasons returns one text for each reason, with the machines that gave it: "alpha, beta: it is for
// riscv64-linux".
func (l *List) Reasons() []string {
	var texts []string
	for _, g := range l.groups {
		texts = append(texts, strings.Join(g.machines, ", ")+": "+g.reason)
	}
	return texts
}
