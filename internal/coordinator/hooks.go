package coordinator

import (
	"context"

	"lighter/hooks"
	"lighter/internal/coordinator/hookledger"
)

func newEventHooks(c *Coordinator) (*hooks.Engine, error) {
	return hooks.New(hooks.Options{
		Ledger: hookledger.Ledger{Ledger: c.ledger, Log: c.log}, Hooks: c.cfg.Hooks, BuiltIns: c.cfg.BuiltIns, Programs: c.cfg.HookPrograms, Logger: c.log,
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
