package cli

import (
	"context"
	"fmt"
	"net"

	"github.com/spf13/pflag"

	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/dataservice/forward"
	"lighter/internal/disk"
)

func dataServiceCommand() *command.Command {
	return &command.Command{
		Name:  "data-service",
		Short: "answer like a Guix Data Service about revisions",
		Long: `Serves the revisions that the coordinator keeps, in the JSON and at the addresses of
the Guix Data Service, so that "lighter queue" of another farm, or whatever else
asks such a service, can ask this one. It is a client of the coordinator's socket,
which has the same below /v1/data-service/; it passes nothing else on, and
changes nothing. It may be restarted at any time, and waits for a coordinator that
is not there.

It speaks plain HTTP: from other computers it is reached through a proxy that adds
TLS, or "ssh -L". Where systemd passes a socket it answers on that, whatever
--listen says.`,
		Examples: []command.Example{
			{"lighter data-service", "answer on http://127.0.0.1:8768"},
			{"lighter data-service --listen unix:/run/lighter/data.sock", "for a proxy on this computer"},
			{"lighter queue --guix-data-service http://127.0.0.1:8768 --once --dry-run", "ask it"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where, logs := base.SocketFlags(fs), addLogFlags(fs)
			listen := fs.String("listen", "127.0.0.1:8768", "answer on `ADDR`: HOST:PORT, or unix:FILE")
			return func(ctx context.Context, inv *command.Invocation) error {
				f, err := where.Reach(inv)
				if err != nil {
					return err
				}
				logger, err := logs.logger(inv, inv.Err)
				if err != nil {
					return err
				}
				l, url, err := passedListener()
				if err == nil && l == nil {
					l, url, err = listenFor(ctx, *listen)
				}
				if err != nil {
					return err
				}
				fmt.Fprintln(inv.Out, url)
				logger.Info("serving revisions", "on", url, "of the coordinator at", f.Socket)
				dial := func(ctx context.Context) (net.Conn, error) { return disk.DialSocket(ctx, f.Socket) }
				return forward.Serve(ctx, l, forward.Handler(dial, logger))
			}
		},
	}
}
