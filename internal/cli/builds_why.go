package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/command"
	"lighter/internal/cli/display"
)

// lastLineBytes is how much of a log's end is read for its last line.
const lastLineBytes = 4 << 10

// writeWhy shows where a build stands.
func writeWhy(ctx context.Context, inv *command.Invocation, client *apiclient.Client, why *api.Why) error {
	var last []string
	if why.Build.State == api.Building {
		// Without an answer it is left out: the log may not have begun.
		if log, err := client.LogTail(ctx, why.Build.ID, lastLineBytes); err == nil {
			last = display.LogTail(log, 1)
		}
	}
	_, err := fmt.Fprintln(inv.Out, strings.Join(display.Why(why, last, time.Now()), "\n"))
	return err
}
