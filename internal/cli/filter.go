package cli

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"lighter/internal/api"
	"lighter/internal/cli/command"
	"lighter/internal/human"
	"lighter/store"
)

// filterFlags select builds; "list" has them, and all commands that change what list
// would show.
type filterFlags struct {
	states, only, tags, notTags     []string
	running, open                   bool
	system, machine                 string
	derivation, name, since, before string
	user                            string
	mine                            bool
}

func addFilterFlags(fs *pflag.FlagSet) *filterFlags {
	f := &filterFlags{}
	fs.StringSliceVarP(&f.states, "state", "o", nil, "builds in this `STATE`: "+strings.Join(texts(api.States()), ", ")+", or one of the words "+stateWords+"; may be repeated")
	fs.BoolVar(&f.running, "running", false, "the same as --state running")
	fs.BoolVar(&f.open, "open", false, "the same as --state open")
	fs.StringArrayVarP(&f.tags, "tag", "t", nil, "builds with the tag `k=v`, or k= with any value; may be repeated, for builds with all of them")
	fs.StringArrayVar(&f.notTags, "not-tag", nil, "builds without the tag `k=v`, or k= with any value; may be repeated")
	fs.StringVar(&f.system, "system", "", "builds for this `SYSTEM`, such as aarch64-linux")
	fs.StringVarP(&f.machine, "machine", "m", "", "builds whose current or last attempt is on this machine, by `NAME`")
	fs.StringVar(&f.derivation, "derivation", "", "builds of this derivation, by `PATH`")
	fs.StringVar(&f.name, "name", "", "builds of derivations of this `NAME`, without hash and .drv; \"hello-*\" matches all that start with hello-")
	fs.StringVar(&f.user, "user", "", "builds that this user submitted, by `NAME` or number")
	fs.BoolVar(&f.mine, "mine", false, "builds that you submitted")
	fs.StringVar(&f.since, "since", "", "builds submitted at this `TIME` or later: 2h (ago), yesterday, monday, 14:30, 2026-11-20, \"2026-11-20 14:30\"")
	fs.StringVar(&f.before, "until", "", "builds submitted before this `TIME`")
	fs.StringSliceVar(&f.only, "only", nil, "the same as --state")
	_ = fs.MarkHidden("only") // which errs for a flag that isn't there alone
	return f
}

// stateWords stand for several states.
const stateWords = "open, running, done"

// isState reports whether a state, or one of the words, is that of s.
func isState(s api.State, name string) bool {
	switch name {
	case "open":
		return !s.Final()
	case "running":
		return s.Running()
	case "done":
		return s.Final()
	}
	return name == string(s)
}

// texts returns values as they are typed, such as states.
func texts[T ~string](list []T) []string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = string(v)
	}
	return texts
}

// parseStates returns the states that names and words stand for, in their order.
func parseStates(inv *command.Invocation, names []string) ([]api.State, error) {
	wanted := make(map[api.State]bool)
	for _, name := range names {
		found := false
		for _, s := range api.States() {
			if isState(s, name) {
				wanted[s], found = true, true
			}
		}
		if !found {
			return nil, inv.UsageErrorf("no state is called %q; they are %s, and there are the words %s", name, strings.Join(texts(api.States()), ", "), stateWords)
		}
	}
	return slices.DeleteFunc(api.States(), func(s api.State) bool { return !wanted[s] }), nil
}

// parseTagList reads tags as flags have them.
func parseTagList(inv *command.Invocation, flag string, list []string) (map[string]string, error) {
	tags := make(map[string]string, len(list))
	for _, tag := range list {
		k, v, ok := strings.Cut(tag, "=")
		if !ok || k == "" {
			return nil, inv.UsageErrorf("--%s %q: want NAME=VALUE", flag, tag)
		}
		tags[k] = v
	}
	return tags, nil
}

// filter returns what the flags select.
func (f *filterFlags) filter(inv *command.Invocation, now time.Time) (*api.Filter, error) {
	names := append(slices.Clone(f.states), f.only...)
	if f.running {
		names = append(names, "running")
	}
	if f.open {
		names = append(names, "open")
	}
	filter := &api.Filter{Name: f.name, System: f.system, Machine: f.machine, User: f.user}
	if f.mine {
		if f.user != "" {
			return nil, inv.UsageErrorf("--mine and --user: want one of them")
		}
		filter.User = strconv.Itoa(os.Geteuid())
	}
	var err error
	if filter.States, err = parseStates(inv, names); err != nil {
		return nil, err
	}
	if filter.Tags, err = parseTagList(inv, "tag", f.tags); err != nil {
		return nil, err
	}
	if filter.NotTags, err = parseTagList(inv, "not-tag", f.notTags); err != nil {
		return nil, err
	}
	if f.derivation != "" {
		if filter.Derivation, err = store.ParsePath(f.derivation); err != nil {
			return nil, inv.UsageErrorf("--derivation: %w", err)
		}
	}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"since", f.since, &filter.Since}, {"until", f.before, &filter.Until}} {
		if t.text == "" {
			continue
		}
		if *t.to, err = human.ParseTime(t.text, now); err != nil {
			return nil, inv.UsageErrorf("--%s: %w", t.flag, err)
		}
	}
	if err := filter.Check(); err != nil {
		return nil, inv.UsageErrorf("%w", err)
	}
	return filter, nil
}
