package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

func decodeMachine(key, value []byte) (*Machine, error) {
	m, err := decode(value, (*Machine).valid)
	if err == nil && m.Name != string(key[1:]) {
		err = fmt.Errorf("it is about %q", m.Name)
	}
	if err != nil {
		return nil, unusable(err, "machine %q", key[1:])
	}
	return m, nil
}

// Machines returns what was learnt of machines, by name.
func (l *Ledger) Machines(ctx context.Context) (map[string]Machine, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	machines := make(map[string]Machine)
	err := scan(l.db, []byte{prefixMachine}, func(key, value []byte) error {
		m, err := decodeMachine(key, value)
		if err != nil {
			l.db.setAside(err)
			return nil
		}
		machines[m.Name] = *m
		return nil
	})
	return machines, err
}

// Setting decodes the setting with a name into v, and reports whether there is one. If it
// can't be decoded, the error is a *RecordError.
func (l *Ledger) Setting(ctx context.Context, name string, v any) (bool, error) {
	if err := l.db.begin(ctx); err != nil {
		return false, err
	}
	defer l.db.end()
	value, err := get(l.db, keySetting(name))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("setting %s: %w", name, err)
	}
	if err := json.Unmarshal(value, v); err != nil {
		err = unusable(err, "setting %q", name)
		l.db.setAside(err)
		return false, err
	}
	return true, nil
}

// Settings calls fn for each setting whose name starts with a prefix, in the order of names.
// Values that are not JSON are left out.
func (l *Ledger) Settings(ctx context.Context, prefix string, fn func(name string, value json.RawMessage) error) error {
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	return scan(l.db, keySetting(prefix), func(key, value []byte) error {
		if err := validSetting(string(key[1:]), value); err != nil {
			l.db.setAside(unusable(err, "setting %q", key[1:]))
			return nil
		}
		return fn(string(key[1:]), slices.Clone(value))
	})
}
