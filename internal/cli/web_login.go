package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/human"
	"lighter/internal/settings"
)

// webAddress is where "lighter web" listens by default.
const webAddress = "127.0.0.1:8767"

func webLoginCommand() *command.Command {
	return &command.Command{
		Name:  "login",
		Short: "log in to the page, to act from it",
		Long: `Prints a link. Whoever opens it in a browser, and says yes there, may then do from
the page what you may do with lighter, until logging out, for 12 hours at most, or
until two hours without use. The link is good once, and for five minutes: give it
to nobody.

The page must be served with "lighter web --allow-steering"; else there is nothing
to log in to, and the link leads nowhere. Where it is is said by --url, or by url of [web]
in lighter.toml. If it listens on 127.0.0.1 of this computer and your browser runs
on another, first connect them: ssh -L 8767:127.0.0.1:8767 HEAD.`,
		Exits: []int{command.ExitNoAnswer},
		Examples: []command.Example{
			{"lighter web login", "then open the link"},
			{"lighter web login --url https://lighter.example.org", "where the page is elsewhere"},
			{"lighter web login --end-all", "log yourself out everywhere"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			address := fs.String("url", "", "the page is at `URL` (default: url of [web] in lighter.toml, or http://"+webAddress+")")
			endAll := fs.Bool("end-all", false, "end all your sessions, and links that were not used; prints no link")
			asJSON := fs.Bool("json", false, "print one JSON object")
			return base.ClientAction(fs, func(ctx context.Context, inv *command.Invocation, client *apiclient.Client) error {
				switch {
				case *endAll && *address != "":
					return inv.UsageErrorf("--end-all ends sessions on all pages; leave out --url")
				case *endAll:
					return endSessions(ctx, inv, client, *asJSON)
				case *address != "":
					*address = strings.TrimSuffix(*address, "/")
					if err := settings.CheckWebURL(*address); err != nil {
						return inv.UsageErrorf("--url: %v", err)
					}
				}
				return logIn(ctx, inv, client, *address, *asJSON)
			})
		},
	}
}

// webLogin is a login as JSON.
type webLogin struct {
	URL     string    `json:"url"` // a secret until it is used
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
}

func logIn(ctx context.Context, inv *command.Invocation, client *apiclient.Client, address string, asJSON bool) error {
	if address == "" {
		there, err := client.Installation(ctx)
		if err != nil {
			return err
		}
		address = cmp.Or(there.Web, "http://"+webAddress)
	}
	login, err := client.Login(ctx)
	if err != nil {
		return err
	}
	who := (&api.Submitter{UID: login.Caller.UID, User: login.Caller.User}).String()
	link := address + "/login?token=" + url.QueryEscape(login.Token)
	if asJSON {
		return base.WriteJSON(inv.Out, webLogin{link, who, login.Expires})
	}
	if _, err := fmt.Fprintln(inv.Out, human.Printable(link)); err != nil {
		return err
	}
	may := "submit builds and change your own"
	if login.Caller.Operates {
		may = "operate"
	}
	fmt.Fprintf(inv.Err, "good once, until %s, to act as %s, who may %s; the page must be served with lighter web --allow-steering\n",
		login.Expires.Local().Format(time.TimeOnly), human.Printable(who), may)
	return nil
}

func endSessions(ctx context.Context, inv *command.Invocation, client *apiclient.Client, asJSON bool) error {
	ended, err := client.EndSessions(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return base.WriteJSON(inv.Out, ended)
	}
	_, err = fmt.Fprintf(inv.Out, "ended %s, and %s that nobody had used\n", human.Count(ended.Sessions, "session"), human.Count(ended.Logins, "link"))
	return err
}
