// Package turns keeps the account of slots: for whom each build is made, what part of the machines
// each of those who ask may use, and what each has used. Whose turn it is follows from that, and
// package scheduler decides by it.
//
// Only what nobody can pretend counts: who is at the other end of the socket, as the kernel says.
// What a request says of itself, its tags, counts where an operator made it, who may do all anyway;
// else anyone could be served first as somebody new, or at somebody else's expense.
package turns

import (
	"cmp"
	"slices"
	"time"

	"lighter/internal/api"
)

// What tells apart those who ask.
const (
	ByUser   = "user"   // who submitted the build, or whose guix-daemon asked for it
	ByTag    = "tag"    // the tag "share" of what operators submit; the user of all else
	BySource = "source" // build hooks, branches of "lighter queue", other clients
	ByNone   = "none"   // nothing: everybody's builds are one queue
)

// ShareTag is the tag that names a share, with ByTag.
const ShareTag = "share"

// Shares that are not users.
const (
	daemonShare  = "guix-daemon" // of guix-daemon's builds whose client is not known
	clientsShare = "clients"     // of all but hooks and queues, with BySource
	unknownShare = "unknown"     // of builds of which it is not known who asked for them
)

// daemonUser is the account of a guix-daemon that does not run as root, in Guix's own installations.
const daemonUser = "guix-daemon"

// Rules say who is told apart, and how much each may use.
type Rules struct {
	By string // ByUser if it is empty
	// HalfLife is the time after which what was used counts half; 0 is never.
	HalfLife time.Duration
	// Weights are by name of a share; "*" is all others, which have 1 if it is not there.
	Weights map[string]float64
}

// OnBehalfOf returns who submits a build of which a build hook says for which user its guix-daemon
// asked; nil is one that it does not know. name returns what a user is called.
func OnBehalfOf(hook *api.Submitter, client *uint32, name func(uid uint32) string) *api.Submitter {
	if client == nil || !speaksForClients(hook) {
		return hook
	}
	s := *hook
	s.For = &api.Submitter{UID: *client, User: name(*client)}
	return &s
}

// speaksForClients reports whether a build hook of this user is believed in who its client is: it
// is guix-daemon's own. Anyone may connect and talk as a hook does.
func speaksForClients(s *api.Submitter) bool {
	return s != nil && (s.Operates || s.User == daemonUser)
}

// Of returns the name of the share for which a build counts that somebody asked for; empty if
// nobody is told apart.
func (r *Rules) Of(b *api.Build) string {
	who := b.Submitter
	fromDaemon := b.Offload && speaksForClients(who)
	switch {
	case r.By == ByNone:
		return ""
	case who == nil:
		return cmp.Or(b.Share, unknownShare)
	case r.By == BySource && fromDaemon:
		return daemonShare
	case r.By == BySource && who.Operates && b.Tags["branch"] != "" && b.Tags["commit"] != "":
		return named("queue:", b.Tags["branch"])
	case r.By == BySource:
		return clientsShare
	case r.By == ByTag && who.Operates && b.Tags[ShareTag] != "":
		return named("tag:", b.Tags[ShareTag])
	case fromDaemon && who.For == nil:
		return daemonShare
	case fromDaemon:
		who = who.For
	}
	names := who.Names()
	return names[len(names)-1]
}

func named(kind, tag string) string { return api.Cut(kind+tag, api.MaxName) }

// weight returns how much a share may use, relative to others.
func (r *Rules) weight(share string) float64 {
	for _, name := range []string{share, "*"} {
		if w := r.Weights[name]; w > 0 {
			return w
		}
	}
	return 1
}

// maxTogether bounds the shares for which one build counts.
const maxTogether = 16

// Union returns the names that are in either list. Lists are sorted, and never change: where one
// has all it is returned, so that the builds of a graph share their list.
func Union(a, b []string) []string {
	var more []string
	for _, name := range b {
		if _, has := slices.BinarySearch(a, name); !has {
			more = append(more, name)
		}
	}
	switch room := maxTogether - len(a); {
	case len(more) == 0 || room <= 0:
		return a
	case len(more) == len(b) && len(a) == 0:
		return b
	default:
		more = more[:min(len(more), room)]
	}
	if len(b) == len(a)+len(more) && len(b) <= maxTogether && containsAll(b, a) {
		return b
	}
	all := slices.Concat(a, more)
	slices.Sort(all)
	return all
}

func containsAll(list, some []string) bool {
	return !slices.ContainsFunc(some, func(name string) bool { _, has := slices.BinarySearch(list, name); return !has })
}
