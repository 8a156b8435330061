// Package hookledger is the ledger as event hooks see it: what can't be read is as if it were not
// there, and what can't be kept is left out.
package hookledger

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

// Ledger is what the engine of event hooks sees of the ledger.
type Ledger struct {
	*ledger.Ledger
	Log *slog.Logger
}

// Build returns a build; one that can't be read is not there.
func (l Ledger) Build(ctx context.Context, id string) (*api.Build, error) {
	b, err := l.Ledger.Build(ctx, id)
	if errors.Is(err, ledger.ErrNotFound) || errors.As(err, new(*ledger.RecordError)) {
		return nil, fmt.Errorf("%w: %w", api.ErrNotFound, err)
	}
	return b, err
}

// Setting ignores a setting that can't be used: the ledger logs it.
func (l Ledger) Setting(ctx context.Context, name string, v any) (bool, error) {
	found, err := l.Ledger.Setting(ctx, name, v)
	if errors.As(err, new(*ledger.RecordError)) {
		return false, nil
	}
	return found, err
}

// Apply records settings, without those that the ledger refuses.
func (l Ledger) Apply(ctx context.Context, settings []hooks.Setting, durable bool) error {
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
		l.Log.Error("the ledger refuses a setting of an event hook", "setting", settings[one.Index].Name, "err", one.Err)
		changes = slices.Delete(changes, one.Index, one.Index+1)
	}
	_, err = l.Ledger.Apply(ctx, changes, durable)
	return err
}
