package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/pflag"

	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/settings"
	"lighter/internal/web"
)

func webCommand() *command.Command {
	return &command.Command{
		Name:  "web",
		Sub:   []*command.Command{webLoginCommand()},
		Short: "serve a page of the farm",
		Long: `Shows builds, machines, what is in the way and when all will be done, in a browser;
every page is there as JSON too. It is a client of the coordinator's socket, and
needs no rights but to open that; the coordinator itself opens no port. It may be
restarted at any time, and waits for a coordinator that is not there.

Nothing can be changed from the page, so that it may be public; what builds and
logs say can be read by whoever can read the page. With --allow-steering people
can log in with "lighter web login", and then act from the page with the rights that
they have on the socket. Such a page answers only by addresses, by localhost, and by
the name in --url or in lighter.toml.

It speaks plain HTTP: from
other computers it is reached through a proxy that adds TLS, or "ssh -L".

Where systemd passes a socket it answers on that, whatever --listen says.`,
		Examples: []command.Example{
			{"lighter web", "then open http://127.0.0.1:8767"},
			{"lighter web --listen unix:/run/lighter/web.sock", "for a proxy on this computer"},
			{"lighter web --allow-steering", "let people act from it, after lighter web login"},
			{"ssh -L 8767:127.0.0.1:8767 head", "from elsewhere, without a proxy"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where, w := base.SocketFlags(fs), &webRun{log: addLogFlags(fs)}
			fs.StringVar(&w.listen, "listen", webAddress, "answer on `ADDR`: HOST:PORT, or unix:FILE")
			fs.StringVar(&w.title, "title", "lighter", "the farm's `NAME`, on every page")
			fs.BoolVar(&w.steering, "allow-steering", false, "let people who log in act from the page: cancel, retry, drain, submit and the like")
			fs.StringVar(&w.url, "url", "", "browsers reach the page at `URL`, if not where it listens; for --allow-steering (default: url of [web] in lighter.toml)")
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
	steering      bool
	url           string
	log           *logFlags
}

// steers returns what lets people act from the page, or nil.
func (w *webRun) steers(inv *command.Invocation) (*web.Steering, error) {
	switch {
	case !w.steering && w.url != "":
		return nil, inv.UsageErrorf("--url is for a page that people act from; it wants --allow-steering")
	case !w.steering:
		return nil, nil
	case w.url != "":
		w.url = strings.TrimSuffix(w.url, "/")
		if err := settings.CheckWebURL(w.url); err != nil {
			return nil, inv.UsageErrorf("--url: %v", err)
		}
	}
	host, _, _ := net.SplitHostPort(w.listen)
	return &web.Steering{URL: w.url, Listen: host}, nil
}

func (w *webRun) run(ctx context.Context, inv *command.Invocation, f head.Folders) error {
	logger, err := w.log.logger(inv, inv.Err)
	if err != nil {
		return err
	}
	steering, err := w.steers(inv)
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
	return web.Serve(ctx, l, web.New(web.Options{Client: client, Logger: logger, Title: w.title, Steering: steering}))
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
