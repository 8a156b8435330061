package conduct

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"

	"lighter/internal/ledger"
)

// machineSettings is the start of the names of those settings in the ledger that are about a machine.
const machineSettings = "machine/"

// entry is what such a setting has: the machine's setting, and the standing of its host.
type entry struct {
	Setting
	Standing
}

// Save returns what the ledger is to keep of a machine.
func Save(machine string, setting *Setting, standing Standing) *ledger.Setting {
	return &ledger.Setting{Name: machineSettings + machine, Value: entry{setting.Clone(), standing}}
}

// Past is what the ledger has about machines, by name.
type Past struct {
	Learnt  map[string]ledger.Machine
	entries map[string]entry
}

// Recall reads it.
func Recall(ctx context.Context, l *ledger.Ledger, log *slog.Logger) (*Past, error) {
	learnt, err := l.Machines(ctx)
	if err != nil {
		return nil, err
	}
	p := &Past{Learnt: learnt, entries: make(map[string]entry)}
	err = l.Settings(ctx, machineSettings, func(name string, value json.RawMessage) error {
		var e entry
		if err := json.Unmarshal(value, &e); err != nil {
			log.Error("what operators decided about a machine can't be read and is left out", "setting", name, "err", err)
			return nil
		}
		p.entries[strings.TrimPrefix(name, machineSettings)] = e
		return nil
	})
	return p, err
}

// Of returns what Save was given of a machine last.
func (p *Past) Of(machine string) (Setting, Standing) {
	e := p.entries[machine]
	return e.Setting, e.Standing
}
