package peer

import (
	"context"
	"time"

	"lighter/internal/agentapi"
)

// gcTimeout bounds one collection of garbage.
const gcTimeout = 2 * time.Hour

// CollectGarbage has the host's garbage collected.
func (p *Peer) CollectGarbage(ctx context.Context, req *agentapi.GCRequest) (result *agentapi.GCResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, gcTimeout)
	defer cancel()
	err = p.Contain("collecting its garbage", func() (err error) {
		result, err = p.Client.CollectGarbage(ctx, req)
		return err
	})
	return result, err
}
