package watch

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
)

// stuck.go is about builds for which no machine is there.

const (
	firstLook = time.Second // after the start
	lookEvery = 5 * time.Second
	// maxLooks bounds how many builds the coordinator is asked about at a time: one of each kind.
	maxLooks = 8
	maxNamed = 3 // machines in a reason
)

// stuck is what is known of the builds of one kind, that is system and features, of which the watched
// ones wait for a machine.
type stuck struct {
	since  time.Time // when it was seen first that no machine was there
	reason string    // why, as it was told
}

func kindOf(b *api.Build) string { return b.System + " " + strings.Join(b.Features, ",") }

// look asks the coordinator whether a machine is there for the builds that wait for one, tells where
// none is, and gives up those that have waited for longer than the limit.
func (w *Watcher) look(ctx context.Context) error {
	queued := make(map[string]*api.Build)
	for _, b := range w.model.Queued() {
		if kind := kindOf(b); queued[kind] == nil && len(queued) < maxLooks {
			queued[kind] = b
		}
	}
	for kind := range w.stuck {
		if queued[kind] == nil {
			delete(w.stuck, kind)
		}
	}
	for kind, b := range queued {
		why, err := w.Client.Why(ctx, b.ID)
		if err != nil {
			continue // follow says so if the coordinator is gone
		}
		reason := absent(why)
		if reason == "" {
			delete(w.stuck, kind)
			continue
		}
		s := w.stuck[kind]
		if s == nil {
			s = &stuck{since: time.Now()}
			w.stuck[kind] = s
		}
		if s.reason != reason {
			s.reason = reason
			w.lines(display.WithoutMachine(b, reason))
		}
		if w.NoMachineWithin > 0 && time.Since(s.since) >= w.NoMachineWithin && !w.canceled {
			if err := w.giveUp(ctx, kind, b, reason); err != nil {
				return err
			}
		}
	}
	return nil
}

// absent says why no machine that may take a build is there, busy or not; empty if one is.
func absent(why *api.Why) string {
	if why.Build.State != api.Queued || len(why.Machines) == 0 && why.Summary == "" {
		return ""
	}
	var there []string
	for _, v := range why.Machines {
		switch {
		case slices.Contains([]string{"system", "features", "mandatory-features", "skip"}, v.Rule):
		case v.Rule == "available":
			there = append(there, v.Machine+": "+v.Actual)
		default:
			return "" // it is busy at most
		}
	}
	if more := len(there) - maxNamed; more > 0 {
		there = append(there[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	switch {
	case len(there) > 0:
		return "no machine that may take it is there: " + strings.Join(there, "; ")
	case why.Build.Reason != "":
		return why.Build.Reason
	}
	return why.Summary
}

// giveUp cancels what waits for builds of a kind, or with KeepGoing unset everything.
func (w *Watcher) giveUp(ctx context.Context, kind string, b *api.Build, reason string) error {
	var ids []string
	for _, b := range w.model.Queued() {
		id := w.model.AskedFor(b.ID)
		if kindOf(b) == kind && id != "" && !w.model.Build(id).State.Final() && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil // they are being canceled
	}
	w.noMachine = true
	w.lines(display.GivenUp(b, w.NoMachineWithin, reason))
	if !w.KeepGoing {
		return w.cancelRest(ctx)
	}
	for part := range slices.Chunk(ids, api.MaxSubmit) {
		if err := w.Client.Cancel(ctx, part...); err != nil {
			return err
		}
	}
	return nil
}

// NoMachine reports whether builds were given up because no machine was there for them.
func (w *Watcher) NoMachine() bool { return w.noMachine }
