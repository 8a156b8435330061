package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"lighter/internal/api"
	"lighter/internal/coordinator"
	"lighter/internal/hookapi"
)

// maxConversations bounds build hooks that ask, wait, or have something built. Each is a
// descriptor and two goroutines here.
const maxConversations = 8 << 10

// getOffload takes up the conversation with a build hook, as package hookapi has it.
func (s *Server) getOffload(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Upgrade") != hookapi.Protocol {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", hookapi.Protocol)
		return &api.Error{
			Status: http.StatusUpgradeRequired, Code: api.CodeBadRequest,
			Message: fmt.Sprintf("this is for the build hook of guix-daemon, which asks for the upgrade to %s", hookapi.Protocol),
		}
	}
	who, err := s.caller(r.Context())
	if err != nil {
		return err
	}
	if n := s.conversations.Add(1); n > maxConversations {
		s.conversations.Add(-1)
		return &api.Error{
			Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable,
			Message: fmt.Sprintf("%d build hooks talk to the coordinator already", maxConversations),
		}
	}
	defer s.conversations.Add(-1)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+hookapi.Protocol+"\r\n\r\n"); err != nil {
		conn.Close()
		return nil // the hook is gone
	}
	// The request's context says nothing of a hijacked connection.
	s.c.Offload(context.WithoutCancel(r.Context()), conn, hookapi.NewReader(buffered.Reader), coordinator.HookUser{
		Submitter: who.submitter(), UserName: lookUpUser,
		MayTakeOver: func(b *api.Build) error {
			if b.Submitter == nil || who.mayChange(b) {
				return nil
			}
			return who.refuse(fmt.Sprintf("take over build %s, which is %s", b.ID, whose(b)))
		},
	})
	return nil
}
