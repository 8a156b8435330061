package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"lighter/internal/api"
)

// Access says who may do what. Anyone who can open the socket may submit builds and look at
// everything, and do with builds of their own what they like; that is for the file's mode
// and group to decide. Who operates may do all.
type Access struct {
	// UID is the coordinator's own user, who operates, as root does.
	UID uint32
	// Users and Groups operate too.
	Users, Groups []uint32
	// MaxPriority bounds the priority of builds of those who do not operate.
	MaxPriority int
	// Operators says in words who operates, and Where it can be changed; for refusals.
	Operators, Where string
}

// operates reports whether a peer may do everything.
func (a *Access) operates(p *Peer) bool {
	return p.UID == 0 || p.UID == a.UID || slices.Contains(a.Users, p.UID) ||
		slices.ContainsFunc(a.Groups, p.in)
}

// SetAccess changes who may do what, from the next request on.
func (s *Server) SetAccess(a *Access) { s.access.Store(a) }

// caller is who a request came from.
type caller struct {
	*Peer      // nil where the kernel is not asked, which Access being nil allows
	operates   bool
	restricted *Access // why not, if not
}

// caller returns who a request, or something else with its context, came from. Where there
// is an Access, a caller of whom nothing is known may do nothing.
func (s *Server) caller(ctx context.Context) (caller, error) {
	a, p := s.access.Load(), peerOf(ctx)
	switch {
	case a == nil:
		return caller{Peer: p, operates: true}, nil
	case p == nil:
		return caller{}, forbidden("the kernel does not say who is behind this connection")
	case a.operates(p):
		return caller{Peer: p, operates: true}, nil
	}
	return caller{Peer: p, restricted: a}, nil
}

func forbidden(format string, args ...any) *api.Error {
	return &api.Error{Status: http.StatusForbidden, Code: api.CodeForbidden, Message: fmt.Sprintf(format, args...)}
}

// refuse is the answer to a caller who may not do something.
func (w caller) refuse(what string) error {
	return forbidden("%s: %s may submit and look, but only %s may operate; %s", what, w.name(), w.restricted.Operators, w.restricted.Where)
}

// name is what the caller is called in texts.
func (w caller) name() string {
	if w.Peer == nil {
		return "a client"
	}
	return w.submitter().String()
}

// by is the name for what the caller does, in events; empty where nobody knows.
func (w caller) by() string {
	if w.Peer == nil {
		return ""
	}
	return w.name()
}

// did says in a build's history what the caller did, and why: "canceled by alice: wrong patch". Of a
// caller whom nobody knows a reason says more.
func (w caller) did(what, reason string) string {
	switch {
	case reason == "":
		return what
	case w.Peer == nil:
		return reason
	}
	return what + ": " + reason
}

// owns reports whether a build is the caller's.
func (w caller) owns(b *api.Build) bool {
	return w.Peer != nil && b.Submitter != nil && b.Submitter.UID == w.UID
}

// mayChange reports whether the caller may cancel, retry and prioritise a build.
func (w caller) mayChange(b *api.Build) bool { return w.operates || w.owns(b) }

// mayAsk says what of a request is not for the caller.
func (w caller) mayAsk(r *api.Request) error {
	switch {
	case w.operates:
		return nil
	case slices.ContainsFunc(r.DerivationSubstituteURLs, isFile):
		return w.refuse("name a folder of the head as a substitute server")
	}
	return w.mayHavePriority(r.Priority)
}

// isFile reports whether a URL is not for a server in the network.
func isFile(url string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(url), ":")
	return scheme != "http" && scheme != "https"
}

// mayHavePriority says whether a priority is too high for the caller's builds.
func (w caller) mayHavePriority(priority int) error {
	if w.operates || priority <= w.restricted.MaxPriority {
		return nil
	}
	return w.refuse(fmt.Sprintf("give a build the priority %d, which is above %d", priority, w.restricted.MaxPriority))
}

// uid is the number under which the caller's use of memory is counted.
func (w caller) uid() uint32 {
	if w.Peer == nil {
		return 0
	}
	return w.UID
}

// submitter is what a build keeps of the caller.
func (w caller) submitter() *api.Submitter {
	if w.Peer == nil {
		return nil
	}
	return &api.Submitter{UID: w.UID, User: w.userName(), Operates: w.operates}
}

// status is what a client is told of itself.
func (w caller) status() *api.Caller {
	if w.Peer == nil {
		return nil
	}
	s := &api.Caller{UID: w.UID, User: w.userName(), Operates: w.operates}
	if w.restricted != nil {
		s.Operators = w.restricted.Operators
	}
	return s
}

// whose says to whom a build belongs.
func whose(b *api.Build) string {
	switch {
	case b.Submitter == nil && b.Parent != "":
		return "the coordinator's own, for what others need"
	case b.Submitter == nil:
		return "of an unknown user"
	}
	return b.Submitter.String() + "'s"
}
