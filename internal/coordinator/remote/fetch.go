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
func (r *Attempt) fetchKept() (*Outcome, error) {
	r.Phase = api.Fetching
	out := &Outcome{Outputs: make(map[string]*store.Info), Cached: true}
	for _, o := range r.Node.Outputs {
		if item := r.config.Inventory.On(r.Machine, o.Path); item != nil {
			out.Outputs[o.Name] = item.Info
			out.Made = append(out.Made, item)
		}
	}
	if err := r.fetch(out.Made, r.Outputs); err != nil {
		return nil, err
	}
	return out, nil
}

// fetch brings outputs home, and what they refer to as far as it is not there.
func (r *Attempt) fetch(made []*inventory.Item, names []string) error {
	wanted, err := r.Node.OutputPaths(names)
	if err != nil {
		return &headstore.Error{Err: err}
	}
	if err := r.protect(wanted...); err != nil {
		return err
	}
	since := time.Now()
	outputs, inputs, err := r.absent(made, wanted)
	if err != nil || len(outputs)+len(inputs) == 0 {
		return err
	}
	release, err := r.config.Reserve(outputs)
	if err != nil {
		return err
	}
	defer release()
	r.enter(api.Fetching, time.Time{}, human.Count(len(outputs)+len(inputs), "item"))
	if err := r.fetchInputs(made, inputs); err != nil {
		return err
	}
	err = r.persist(r.ctx, r.Machine, func(ctx context.Context) error {
		n, err := r.Machine.Fetching.Want(ctx, outputs, since)
		r.Fetched.Add(n)
		return err
	})
	if err != nil {
		return err
	}
	absent, err := store.Missing(r.ctx, r.config.Head.Backend, wanted)
	if err == nil && len(absent) > 0 {
		err = fmt.Errorf("%s is not valid after it was fetched", absent[0])
	}
	if err != nil {
		return &headstore.Error{Err: err}
	}
	return nil
}

// absent returns those of the wanted outputs, and of what they refer to, that are not at home:
// outputs of this build, and its inputs.
func (r *Attempt) absent(made []*inventory.Item, wanted []store.Path) (outputs []*store.Info, inputs []store.Path, err error) {
	left := make(map[store.Path]*store.Info, len(made))
	for _, item := range made {
		left[item.Info.Path] = item.Info
	}
	queue, err := r.absentOf(wanted)
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
		queue, err = r.absentOf(refs)
	}
	return outputs, inputs, err
}

// fetchInputs brings inputs home that outputs refer to. They come from where they were made, or
// from where something refers to them.
func (r *Attempt) fetchInputs(made []*inventory.Item, inputs []store.Path) error {
	if len(inputs) == 0 {
		return nil
	}
	if r.closure == nil {
		var err error
		if r.closure, err = r.config.Inventory.ClosureOfMade(r.ctx, r.Machine, made); err != nil {
			return err
		}
	}
	if err := r.protect(r.closure.Of(inputs)...); err != nil {
		return err
	}
	return r.gather(r.ctx, inputs)
}

func (r *Attempt) absentOf(paths []store.Path) ([]store.Path, error) {
	absent, err := store.Missing(r.ctx, r.config.Head.Backend, paths)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	return absent, nil
}

// handOver gives the outputs to a hook.
func (r *Attempt) handOver() (*Outcome, error) {
	r.Phase = api.Fetching
	wanted, err := r.Node.OutputPaths(r.Outputs)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	s := hookapi.Shipment{Machine: r.Machine.Name, Items: len(wanted), NARHashes: make(map[store.Path]store.Hash, len(wanted))}
	for _, p := range wanted {
		item := r.config.Inventory.On(r.Machine, p)
		if item == nil {
			return nil, r.blame(api.CulpritMachine, fmt.Errorf("it is not known to keep %s", p))
		}
		s.Bytes += item.Info.NARSize
		s.NARHashes[p] = item.Info.NARHash
	}
	if s.Bytes < 0 || s.Bytes > hookapi.MaxShipment {
		return nil, r.blame(api.CulpritMachine, fmt.Errorf("its outputs have %d bytes: want at most %d", s.Bytes, int64(hookapi.MaxShipment)))
	}
	err = r.persist(r.ctx, r.Machine, func(ctx context.Context) error {
		n, err := r.To.Ship(ctx, r.Machine, s, wanted)
		r.Fetched.Add(n)
		return err
	})
	if r.To.Context().Err() != nil {
		err = delivery.ErrGone
	}
	return &Outcome{}, err
}
