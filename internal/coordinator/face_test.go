package coordinator

import (
	"context"
	"net/http"
)

// The API for clients is of a package that imports this one, so that package coordinator_test
// says what it is.

// NewFace returns the API of a coordinator, and what changes who may do what there.
var NewFace func(c *Coordinator, a *TestAccess) (http.Handler, func(*TestAccess))

// WithPeer is apiserver.WithPeer.
var WithPeer func(ctx context.Context, p *TestPeer) context.Context

// TestAccess is as apiserver.Access.
type TestAccess struct {
	UID              uint32
	Users, Groups    []uint32
	MaxPriority      int
	Operators, Where string
}

// TestPeer is as apiserver.Peer.
type TestPeer struct {
	UID, GID uint32
	Groups   []uint32
	Name     func() string
}

// handler returns the API, for whom f.access lets in.
func (f *farm) handler() http.Handler {
	if f.faceOf != f.c {
		f.face, f.setAccess = NewFace(f.c, f.access)
		f.faceOf = f.c
	}
	return f.face
}

// restricted lets user 7, members of group 70 and the coordinator's user 1 operate.
func restricted(f *farm) *farm {
	f.access = &TestAccess{UID: 1, Users: []uint32{7}, Groups: []uint32{70}, MaxPriority: 100, Operators: "root and ops", Where: "see lighter.Toml"}
	return f
}
