package coordinator

import (
	"context"
	"net"
)

func newAgentClient(dial func(context.Context) (net.Conn, error)) agent { return nil }
