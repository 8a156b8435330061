package remote

import (
	"context"
	"fmt"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/delivery"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/inventory"
	"lighter/internal/hookapi"
	"lighter/internal/human"
	"lighter/store"
)

// fetchKept fetches outputs that the machine keeps for a task.
func (a *Attempt) fetchKept() (*Outcome, error) {
	a.Phase = api.Fetching
	out := &Outcome{Outputs: make(map[string]*store.Info), Cached: true}
	for _, o := range a.Node.Outputs {
		if item := a.config.Inventory.On(a.Machine, o.Path); item != nil {
			out.Outputs[o.Name] = item.Info
			out.Made = append(out.Made, item)
		}
	}
	if err := a.fetch(out.Made, a.Outputs); err != nil {
		return nil, err
	}
	return out, nil
}

// fetch brings outputs home, and whatever they refer to that is not at home.
func (a *Attempt) fetch(made []*inventory.Item, names []string) error {
	wanted, err := a.Node.OutputPaths(names)
	if err != nil {
		return &headstore.Error{Err: err}
	}
	if err := a.protect(wanted...); err != nil {
		return err
	}
	since := time.Now()
	outputs, inputs, err := a.absent(made, wanted)
	if err != nil || len(outputs)+len(inputs) == 0 {
		return err
	}
	release, err := a.config.Reserve(outputs)
	if err != nil {
		return err
	}
	defer release()
	a.enter(api.Fetching, time.Time{}, human.Count(len(outputs)+len(inputs), "item"))
	if err := a.fetchInputs(made, inputs); err != nil {
		return err
	}
	err = a.persist(a.ctx, a.Machine, func(ctx context.Context) error {
		n, err := a.wantFrom(a.Machine)(ctx, outputs, since)
		a.Fetched.Add(n)
		return err
	})
	if err != nil {
		return err
	}
	absent, err := store.Missing(a.ctx, a.config.Head.Backend, wanted)
	if err == nil && len(absent) > 0 {
		err = fmt.Errorf("%s is not valid after it was fetched", absent[0])
	}
	if err != nil {
		return &headstore.Error{Err: err}
	}
	return nil
}

// absent returns what is not at home of the wanted outputs and all that they refer to: outputs of
// this build, and inputs of it.
func (a *Attempt) absent(made []*inventory.Item, wanted []store.Path) (outputs []*store.Info, inputs []store.Path, err error) {
	left := make(map[store.Path]*store.Info, len(made))
	for _, item := range made {
		left[item.Info.Path] = item.Info
	}
	queue, err := a.absentOf(wanted)
	for err == nil && len(queue) > 0 {
		var refs []store.Path
		for _, p := range queue {
			info, own := left[p]
			switch {
			case !own:
				inputs = append(inputs, p)
			case info != nil:
				outputs = append(outputs, info)
				refs = append(refs, info.References...)
				left[p] = nil // it is seen once
			}
		}
		queue, err = a.absentOf(refs)
	}
	return outputs, inputs, err
}

// fetchInputs brings home inputs that outputs refer to: from where they were made, or from where
// something refers to them.
func (a *Attempt) fetchInputs(made []*inventory.Item, inputs []store.Path) error {
	if len(inputs) == 0 {
		return nil
	}
	if a.closure == nil {
		var err error
		if a.closure, err = a.config.Inventory.ClosureOfMade(a.ctx, a.Machine, made); err != nil {
			return err
		}
	}
	if err := a.protect(a.closure.Of(inputs)...); err != nil {
		return err
	}
	return a.gather(a.ctx, inputs)
}

func (a *Attempt) absentOf(paths []store.Path) ([]store.Path, error) {
	absent, err := store.Missing(a.ctx, a.config.Head.Backend, paths)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	return absent, nil
}

// handOver gives the outputs to a build hook.
func (a *Attempt) handOver() (*Outcome, error) {
	a.Phase = api.Fetching
	wanted, err := a.Node.OutputPaths(a.Outputs)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	s := hookapi.Shipment{Machine: a.Machine.Name(), Items: len(wanted), NARHashes: make(map[store.Path]store.Hash, len(wanted))}
	for _, p := range wanted {
		item := a.config.Inventory.On(a.Machine, p)
		if item == nil {
			return nil, a.blame(api.CulpritMachine, fmt.Errorf("it is not known to keep %s", p))
		}
		s.Bytes += item.Info.NARSize
		s.NARHashes[p] = item.Info.NARHash
	}
	if s.Bytes < 0 || s.Bytes > hookapi.MaxShipment {
		return nil, a.blame(api.CulpritMachine, fmt.Errorf("its outputs have %d bytes: want at most %d", s.Bytes, int64(hookapi.MaxShipment)))
	}
	err = a.persist(a.ctx, a.Machine, func(ctx context.Context) error {
		n, err := a.To.Ship(ctx, a.Machine, s, wanted)
		a.Fetched.Add(n)
		return err
	})
	if a.To.Context().Err() != nil {
		err = delivery.ErrGone
	}
	return &Outcome{}, err
}
