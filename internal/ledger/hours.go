package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"lighter/internal/history"
)

func decodeHour(key, value []byte) (*history.Hour, error) {
	number, err := keyChunk(key, 1)
	if err != nil {
		return nil, err
	}
	h, err := history.Decode(number, value)
	if err != nil {
		return nil, unusable(err, "hour %d", number)
	}
	return h, nil
}

// Hours calls fn for each hour from one number to another, both included, in order. Hours that can't be used are
// left out.
func (l *Ledger) Hours(ctx context.Context, first, last int64, fn func(*history.Hour) error) (err error) {
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	iter, err := l.db.NewIter(&pebble.IterOptions{LowerBound: keyHour(max(0, first)), UpperBound: keyHour(max(0, last+1))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for iter.First(); iter.Valid(); iter.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		value, err := iter.ValueAndErr()
		if err != nil {
			return err
		}
		h, err := decodeHour(iter.Key(), value)
		if err != nil {
			l.db.setAside(err)
			continue
		}
		if err := fn(h); err != nil {
			return err
		}
	}
	return iter.Error()
}

// putHour writes an hour, and removes those that are too old, once an hour.
func (g *group) putHour(p *prepared) error {
	err := g.batch.Set(keyHour(p.hour), p.read, nil)
	if oldest := p.hour - int64(history.Keep/time.Hour); p.isNew && oldest > 0 {
		err = errors.Join(err, g.batch.DeleteRange(keyHour(0), keyHour(oldest), nil))
	}
	return err
}
