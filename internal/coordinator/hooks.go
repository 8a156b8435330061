package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"lighter/hooks"
	"lighter/internal/api"
	"lighter/internal/ledger"
)

// hookLedger is what the engine of event hooks sees of the ledger.
type hookLedger struct {
	*ledger.Ledger
	log *slog.Logger
}

func (l hookLedger) Build(ctx context.Context, id string) (*api.Build, error) {
	b, err := l.Ledger.Build(ctx, id)
	if errors.Is(err, ledger.ErrNotFound) || errors.As(err, new(*ledger.RecordError)) {
		return nil, fmt.Errorf("%w: %w", api.ErrNotFound, err)
	}
	return b, err
}

// Setting ignores a setting that can't be used: the ledger logs it.
func (l hookLedger) Setting(ctx context.Context, name string, v any) (bool, error) {
	found, err := l.Ledger.Setting(ctx, name, v)
	if errors.As(err, new(*ledger.RecordError)) {
		return false, nil
	}
	return found, err
}

func (l hookLedger) Apply(ctx context.Context, settings []hooks.Setting, durable bool) error {
	changes := make([]ledger.Change, len(settings))
	for i, s := range settings {
		changes[i].Setting = &ledger.Setting{Name: s.Name, Value: s.Value}
	}
	_, err := l.Ledger.Apply(ctx, changes, durable)
	var refused *ledger.RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	// A hook would try the same again and again; a restart loses what can't be kept.
	for _, one := range slices.Backward(refused.Refusals) {
		l.log.Error("the ledger refuses a setting of an event hook", "setting", settings[one.Index].Name, "err", one.Err)
		changes = slices.Delete(changes, one.Index, one.Index+1)
	}
	_, err = l.Ledger.Apply(ctx, changes, durable)
	return err
}

func newEventHooks(c *Coordinator) (*hooks.Engine, error) {
	return hooks.New(hooks.Options{
		Ledger: hookLedger{c.ledger, c.log}, Hooks: c.cfg.Hooks, BuiltIns: c.cfg.BuiltIns, Programs: c.cfg.HookPrograms, Logger: c.log,
	})
}

// SetHooks replaces the configuration of event hooks: new ones start with the next event,
// missing ones are stopped and lose their runs. A nil map leaves the built-ins as they are. A
// bad configuration is refused as a whole. It may take some seconds, in which programs of
// removed hooks end.
func (c *Coordinator) SetHooks(ctx context.Context, list []hooks.Config, builtIns map[string]hooks.BuiltIn) error {
	return c.eventHooks.SetHooks(ctx, list, builtIns)
}

// EventHooks returns the engine that carries out the event hooks.
func (c *Coordinator) EventHooks() *hooks.Engine { return c.eventHooks }
