package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/machines"
)

// maxCompletions bounds the builds among which a completion looks for what it offers.
const maxCompletions = 200

// asked are values that the coordinator knows. It answers on the socket that the flags typed so
// far say.
func asked(ask func(ctx context.Context, client *apiclient.Client) ([]string, error)) command.Values {
	return func(ctx context.Context, inv *command.Invocation) ([]string, error) {
		where := &base.FolderFlags{}
		for name, field := range map[string]**string{"state": &where.State, "socket": &where.Socket} {
			if f := inv.Flags.Lookup(name); f != nil && f.Value.Type() == "string" {
				text := f.Value.String()
				*field = &text
			}
		}
		f, err := where.Reach(inv)
		if err != nil {
			return nil, err
		}
		client := apiclient.NewClient(f.Socket)
		defer client.Close()
		return ask(ctx, client)
	}
}

func machineNames(ctx context.Context, client *apiclient.Client) (names []string, err error) {
	list, err := client.Machines(ctx)
	for i := range list {
		names = append(names, list[i].Name+"\t"+string(list[i].State))
	}
	return names, err
}

func systems(ctx context.Context, client *apiclient.Client) (all []string, err error) {
	list, err := client.Machines(ctx)
	for i := range list {
		all = append(all, list[i].Systems...)
	}
	slices.Sort(all)
	return slices.Compact(all), err
}

// latestBuilds are the builds that were submitted last.
func latestBuilds(ctx context.Context, client *apiclient.Client) ([]api.Build, error) {
	list, err := client.Builds(ctx, apiclient.BuildFilter{Limit: maxCompletions})
	if err != nil {
		return nil, err
	}
	return list.Builds, nil
}

func buildIDs(ctx context.Context, client *apiclient.Client) (ids []string, err error) {
	list, err := latestBuilds(ctx, client)
	for i := range list {
		ids = append(ids, fmt.Sprintf("%s\t%s, %s", list[i].ID, list[i].Derivation.Name(), list[i].State))
	}
	return ids, err
}

func tags(ctx context.Context, client *apiclient.Client) ([]string, error) {
	list, err := latestBuilds(ctx, client)
	found := make(map[string]bool)
	for i := range list {
		for k, v := range list[i].Tags {
			found[k+"="+v] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), err
}

func hookRuns(ctx context.Context, client *apiclient.Client) (ids []string, err error) {
	list, err := client.Hooks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range list.Runs {
		ids = append(ids, list.Runs[i].ID)
	}
	return ids, nil
}

func hookNames(ctx context.Context, client *apiclient.Client) (names []string, err error) {
	list, err := client.Hooks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range list.Hooks {
		names = append(names, list.Hooks[i].Name)
	}
	return names, nil
}

// flagValues are the values of flags, by name. The rest are numbers, texts, or files.
var flagValues = map[string]command.Values{
	"machine": asked(machineNames), "on": asked(machineNames), "skip": asked(machineNames),
	"system": asked(systems), "tag": asked(tags), "not-tag": asked(tags), "hook": asked(hookNames), "supersede": asked(tags),
	"store":     command.OneOf(machines.StoreLocal, machines.StoreDaemon),
	"kind":      command.OneOf(texts(api.EventKinds())...),
	"log-level": command.OneOf(logLevels...), "log-format": command.OneOf(logFormats...),
}

// offers are what completes the flags and arguments of all commands.
var offers = command.Completions{
	Flag: func(f *pflag.Flag) command.Values {
		if f.Value.Type() == "stringSlice" && (f.Name == "state" || f.Name == "only") {
			return command.OneOf(texts(api.States())...)
		}
		return flagValues[f.Name]
	},
	Argument: map[string]command.Values{"NAME": asked(machineNames), "ID": asked(buildIDs), "RUN": asked(hookRuns), "HOOK": asked(hookNames)},
}
