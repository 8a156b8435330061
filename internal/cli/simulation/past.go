package simulation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/command"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/estimates"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/ledger"
	"lighter/scheduler"
	"lighter/scheduler/simulate"
	"lighter/store"
)

// past is what a farm knows of what was: asked of its coordinator, or read from its ledger where
// none runs.
type past interface {
	// builds calls fn with the builds that a filter selects, until it returns an error.
	builds(ctx context.Context, f *api.Filter, fn func(*api.Build) error) error
	events(ctx context.Context, id string) ([]api.Event, error)
	machines(ctx context.Context) (map[string]learnt, error)
	knowledge(ctx context.Context) (*knowledge, error)
}

// openPast has do use the past of a farm. Where there is neither a coordinator nor a ledger, or they
// may not be asked, that is an error if it is needed, and else the past is empty.
func openPast(ctx context.Context, f head.Folders, needed bool, do func(p past) error) error {
	client := apiclient.NewClient(f.Socket)
	defer client.Close()
	_, err := client.Version(ctx)
	switch {
	case err == nil:
		return do(asked{client})
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
	case errors.Is(err, fs.ErrPermission) && !needed:
		return do(nothing{})
	default:
		return err
	}
	opened := false
	err = ledger.Read(ctx, f.Ledger(), ledger.Options{}, func(l *ledger.Ledger) error {
		opened = true
		return do(read{l})
	})
	switch {
	case opened:
		return err
	case !needed && (err == nil || errors.Is(err, fs.ErrPermission)):
		return do(nothing{})
	case err == nil:
		return command.Exit(command.ExitNoAnswer, fmt.Errorf("no coordinator answers at %s, and there is no ledger at %s", f.Socket, f.Ledger()))
	}
	return err
}

// asked is the past as a coordinator tells it.
type asked struct{ client *apiclient.Client }

func (a asked) builds(ctx context.Context, f *api.Filter, fn func(*api.Build) error) error {
	_, err := a.client.EachPage(ctx, f, 0, func(page []api.Build) error {
		for i := range page {
			if err := fn(&page[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func (a asked) events(ctx context.Context, id string) ([]api.Event, error) {
	story, err := a.client.Story(ctx, id)
	if err != nil {
		return nil, err
	}
	return story.Events, nil
}

func (a asked) machines(ctx context.Context) (map[string]learnt, error) {
	list, err := a.client.Machines(ctx)
	known := make(map[string]learnt, len(list))
	for i := range list {
		m := &list[i]
		l := learnt{bandwidth: m.Bandwidth, fetchBandwidth: m.FetchBandwidth}
		if m.MeasuredSpeed > 0 && m.Speed > 0 {
			l.correction = m.MeasuredSpeed / m.Speed
		}
		if m.Hardware != nil {
			l.memory = max(0, m.Hardware.Memory)
		}
		known[m.Name] = l
	}
	return known, err
}

func (a asked) knowledge(ctx context.Context) (*knowledge, error) {
	k := newKnowledge()
	r, w := io.Pipe()
	go func() { w.CloseWithError(a.client.ExportSamples(ctx, false, w)) }()
	defer r.Close() // which ends the goroutine, if it is not over
	all, err := estimates.Read(r)
	for i := range all {
		k.add(&all[i])
	}
	return k, err
}

// read is the past as a ledger has it.
type read struct{ ledger *ledger.Ledger }

func (r read) builds(ctx context.Context, f *api.Filter, fn func(*api.Build) error) error {
	for b, err := range r.ledger.Builds(ctx, ledger.Filter{Filter: *f}) {
		if err == nil {
			err = fn(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r read) events(ctx context.Context, id string) ([]api.Event, error) {
	return r.ledger.BuildEvents(ctx, id)
}

func (r read) machines(ctx context.Context) (map[string]learnt, error) {
	all, err := r.ledger.Machines(ctx)
	known := make(map[string]learnt, len(all))
	for name := range all {
		m := all[name]
		speed := scheduler.SpeedEstimate{Log: m.SpeedLog, Samples: m.SpeedSamples}
		known[name] = learnt{bandwidth: m.Bandwidth, fetchBandwidth: m.FetchBandwidth, correction: speed.Speed(1)}
	}
	return known, err
}

func (r read) knowledge(ctx context.Context) (*knowledge, error) {
	k := newKnowledge()
	return k, r.ledger.AllSamples(ctx, func(s *ledger.Samples) error { k.add(s); return nil })
}

// nothing is the past of what has none.
type nothing struct{}

func (nothing) builds(context.Context, *api.Filter, func(*api.Build) error) error { return nil }
func (nothing) events(context.Context, string) ([]api.Event, error)               { return nil, nil }

func (nothing) machines(context.Context) (map[string]learnt, error) { return nil, nil }

func (nothing) knowledge(context.Context) (*knowledge, error) { return newKnowledge(), nil }

// collected returns the builds that a filter selects, at most maxBuilds.
func collected(ctx context.Context, p past, f *api.Filter) (builds []*api.Build, err error) {
	err = p.builds(ctx, f, func(b *api.Build) error {
		if len(builds) == maxBuilds {
			return fmt.Errorf("there are more than %s builds: choose fewer, with --since and --until", human.Number(maxBuilds))
		}
		kept := *b
		builds = append(builds, &kept)
		return nil
	})
	return builds, err
}

// nodes finds derivations in the head's store. Without one it finds none.
func nodes(ctx context.Context, f head.Folders) (find nodeOf, closing func() error) {
	s, err := head.OpenToLook(ctx, f, slog.New(slog.DiscardHandler))
	if err != nil {
		return func(store.Path) *headstore.Node { return nil }, func() error { return nil }
	}
	memory := headstore.New(s.Backend)
	return func(drv store.Path) *headstore.Node {
		n, err := memory.Node(ctx, drv)
		if err != nil {
			return nil // it was collected, or its file is broken
		}
		return n
	}, s.Close
}

// asMeasured is of how many builds the phases are looked at.
const asMeasured = 200

// overheads returns what attempts take on each machine besides their builders and the bytes that
// are carried, as the phases of some builds show, and what is usual.
func overheads(ctx context.Context, p past, builds []*api.Build, fleet []simulate.Machine) (byMachine map[string]overhead, usual overhead, err error) {
	rates := make(map[string][2]float64)
	for i := range fleet {
		m := &fleet[i]
		to, from := m.Bandwidth, cmp.Or(m.FetchBandwidth, m.Bandwidth)
		rates[m.Name] = [2]float64{cmp.Or(to, math.Inf(1)), cmp.Or(from, math.Inf(1))}
	}
	slots, homes := make(map[string][]time.Duration), make(map[string][]time.Duration)
	step := max(1, len(builds)/asMeasured)
	for i := 0; i < len(builds); i += step {
		b := builds[i]
		rate, ok := rates[b.Machine]
		if !ok || b.State != api.Succeeded || b.BuildTime <= 0 || b.Shares != "" {
			continue
		}
		events, err := p.events(ctx, b.ID)
		if err != nil {
			if errors.Is(err, ledger.ErrNotFound) || errors.Is(err, api.ErrNotFound) {
				continue
			}
			return nil, usual, err
		}
		slot, home, ok := phases(events, b, rate[0], rate[1])
		if !ok {
			continue
		}
		for _, name := range []string{"", b.Machine} {
			slots[name] = append(slots[name], slot)
			if home >= 0 {
				homes[name] = append(homes[name], home)
			}
		}
	}
	byMachine = make(map[string]overhead)
	for name := range slots {
		byMachine[name] = overhead{middle(slots[name]), middle(homes[name])}
	}
	return byMachine, byMachine[""], nil
}

// phases returns for how long the last attempt held its slot without its builder, and how long its
// way home took, without the bytes of either; home is negative if nothing came home.
func phases(events []api.Event, b *api.Build, to, from float64) (slot, home time.Duration, ok bool) {
	var placed, made, done time.Time
	for i := range events {
		e := &events[i]
		switch {
		case e.Attempt != b.Attempt || e.Kind != "" && e.State != api.Succeeded:
		case e.State == api.Placed:
			placed = e.Time
		case e.State == api.Fetching && made.IsZero():
			made = e.Time
		case e.State == api.Succeeded:
			done = e.Time
		}
	}
	if placed.IsZero() || done.IsZero() {
		return 0, 0, false
	}
	home = -1
	if made.IsZero() {
		made = done
	} else {
		home = max(0, done.Sub(made)-carried(b.FetchBytes, from))
	}
	return max(0, made.Sub(placed)-b.BuildTime.Duration()-carried(b.SentBytes, to)), home, true
}

func carried(bytes int64, rate float64) time.Duration {
	return time.Duration(float64(bytes) / rate * float64(time.Second))
}

// middle is the median; 0 of none.
func middle(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// inSubmission returns what selects the builds of a submission by its name, or those with a tag by "TAG=VALUE".
func inSubmission(name string, id func(name string, drv store.Path) string) func(*api.Build) bool {
	key, value, isTag := strings.Cut(name, "=")
	return func(b *api.Build) bool {
		if isTag {
			has, ok := b.Tags[key]
			return ok && (value == "" || has == value)
		}
		return b.ID == id(name, b.Derivation)
	}
}
