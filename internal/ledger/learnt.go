package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// Durations returns the last samples, at most 16, of a package for a system, most
// recent first.
func (l *Ledger) Durations(ctx context.Context, name, system string) ([]Sample, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.end()
	samples, err := l.samplesOf(keyDuration(name, system))
	return slices.Clone(samples), err
}

// samplesRemembered is how many packages' samples are kept in memory, about.
const samplesRemembered = 1 << 13

// samplesOf returns the samples of a package, which must not be changed. They are asked
// for when a build comes and when it ends, and builds of a package come close together.
func (l *Ledger) samplesOf(key []byte) ([]Sample, error) {
	l.sampling.Lock()
	defer l.sampling.Unlock() // also while it is read, so that nothing older comes in afterwards
	if samples, ok := l.samples[string(key)]; ok {
		return samples, nil
	}
	value, err := l.get(l.db, key)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return nil, err
	}
	var samples []Sample
	if err == nil {
		if samples, err = decodeSamples(key, value); err != nil {
			l.setAside(err)
		}
	}
	if len(l.samples) >= samplesRemembered {
		clear(l.samples)
	}
	l.samples[string(key)] = samples
	return samples, nil
}

// decodeSamples reads the samples of a package. With an error, a *RecordError, it returns
// those that can be used.
func decodeSamples(key, value []byte) ([]Sample, error) {
	what := strings.ReplaceAll(string(key[1:]), "\x00", " ")
	var samples []Sample
	if err := json.Unmarshal(value, &samples); err != nil {
		return nil, unusable(err, "durations of %q", what)
	}
	for i := range samples {
		if err := samples[i].valid(); err != nil {
			good := slices.DeleteFunc(samples, func(s Sample) bool { return s.valid() != nil })
			return good[:min(len(good), maxSamples)], unusable(err, "durations of %q", what)
		}
	}
	if len(samples) > maxSamples {
		return samples[:maxSamples], unusable(fmt.Errorf("%d samples, at most %d are kept", len(samples), maxSamples), "durations of %q", what)
	}
	return samples, nil
}

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
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.end()
	machines := make(map[string]Machine)
	err := l.scan([]byte{prefixMachine}, func(key, value []byte) error {
		m, err := decodeMachine(key, value)
		if err != nil {
			l.setAside(err)
			return nil
		}
		machines[m.Name] = *m
		return nil
	})
	return machines, err
}

// Setting decodes a setting into v, and reports whether there is one of that name. One that
// can't be decoded gives a *RecordError.
func (l *Ledger) Setting(ctx context.Context, name string, v any) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := l.begin(); err != nil {
		return false, err
	}
	defer l.end()
	value, err := l.get(l.db, keySetting(name))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("setting %s: %w", name, err)
	}
	if err := json.Unmarshal(value, v); err != nil {
		err = unusable(err, "setting %q", name)
		l.setAside(err)
		return false, err
	}
	return true, nil
}

// Settings calls fn for each setting whose name starts with a prefix, in the order of the
// names. Values that are not JSON are left out.
func (l *Ledger) Settings(ctx context.Context, prefix string, fn func(name string, value json.RawMessage) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	return l.scan(keySetting(prefix), func(key, value []byte) error {
		if err := validSetting(string(key[1:]), value); err != nil {
			l.setAside(unusable(err, "setting %q", key[1:]))
			return nil
		}
		return fn(string(key[1:]), slices.Clone(value))
	})
}
