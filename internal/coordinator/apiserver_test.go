package coordinator_test

import (
	"context"
	"net/http"

	"lighter/internal/api/apiserver"
	"lighter/internal/coordinator"
)

func init() {
	coordinator.NewFace = func(c *coordinator.Coordinator, a *coordinator.TestAccess) (http.Handler, func(*coordinator.TestAccess)) {
		s := apiserver.New(c, apiserver.Options{Access: (*apiserver.Access)(a)})
		return s.Handler(), func(a *coordinator.TestAccess) { s.SetAccess((*apiserver.Access)(a)) }
	}
	coordinator.WithPeer = func(ctx context.Context, p *coordinator.TestPeer) context.Context {
		return apiserver.WithPeer(ctx, (*apiserver.Peer)(p))
	}
}
