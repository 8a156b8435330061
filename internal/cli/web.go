package cli

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/pflag"

	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/web"
)

func webCommand() *command.Command {
	return &command.Command{
		Name:  "web",
		Short: "serve a page of the farm",
		Long: `Shows builds, machines, what is in the way and when all will be done, in a browser;
every page is there as JSON too. It is a client of the coordinator's socket, and
needs no rights but to open that; the coordinator itself opens no port. It may be
restarted at any time, and waits for a coordinator that is not there.

Nothing can be changed from the page, so that it may be public; what builds and
logs say can be read by whoever can read the page. It speaks plain HTTP: from
other computers it is reached through a proxy that adds TLS, or "ssh -L".

Where systemd passes a socket it answers on that, whatever --listen says.`,
		Examples: []command.Example{
			{"lighter web", "then open http://127.0.0.1:8767"},
			{"lighter web --listen unix:/run/lighter/web.sock", "for a proxy on this computer"},
			{"ssh -L 8767:127.0.0.1:8767 head", "from elsewhere, without a proxy"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where, w := base.SocketFlags(fs), &webRun{log: addLogFlags(fs)}
			fs.StringVar(&w.listen, "listen", "127.0.0.1:8767", "answer on `ADDR`: HOST:PORT, or unix:FILE")
			fs.StringVar(&w.title, "title", "lighter", "the farm's `NAME`, on every page")
			return func(ctx context.Context, inv *command.Invocation) error {
				f, err := where.Reach(inv)
				if err != nil {
					return err
				}
				return w.run(ctx, inv, f)
			}
		},
	}
}

// webRun is one run of "lighter web".
type webRun struct {
	listen, title string
	log           *logFlags
}

func (w *webRun) run(ctx context.Context, inv *command.Invocation, f head.Folders) error {
	logger, err := w.log.logger(inv, inv.Err)
	if err != nil {
		return err
	}
	client := apiclient.NewClient(f.Socket)
	defer client.Close()
	l, url, err := passedListener()
	if err == nil && l == nil {
		l, url, err = listenFor(ctx, w.listen)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(inv.Out, url)
	logger.Info("serving the page of the farm", "on", url, "of the coordinator at", f.Socket)
	return web.Serve(ctx, l, web.New(web.Options{Client: client, Logger: logger, Title: w.title}))
}

// passedListener returns the socket that systemd passes, or nil (sd_listen_fds(3)).
func passedListener() (net.Listener, string, error) {
	if os.Getenv("LISTEN_FDS") == "" {
		return nil, "", nil
	}
	passed, err := activation.Listeners()
	if err != nil {
		return nil, "", fmt.Errorf("the socket that systemd passes: %w", err)
	}
	switch {
	case len(passed) == 0: // they are for another process
		return nil, "", nil
	case len(passed) > 1 || passed[0] == nil:
		return nil, "", fmt.Errorf("systemd passes %d sockets, want one that listens", len(passed))
	}
	return passed[0], passed[0].Addr().Network() + "://" + passed[0].Addr().String(), nil
}
