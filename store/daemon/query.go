package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"lighter/internal/wire"
	"lighter/store"
)

// Info implements store.Store.
func (s *Store) Info(ctx context.Context, path store.Path) (*store.Info, error) {
	info := new(store.Info)
	err := s.check(path)
	if err == nil {
		err = s.do(ctx, func(c *conn) (err error) {
			putInfo(c, path)
			if err := c.call(nil); err != nil {
				return err
			}
			*info, err = s.getInfo(c, path)
			return err
		})
	}
	switch {
	case errors.Is(err, store.ErrNotValid):
		return nil, store.NotValid(path)
	case err != nil:
		return nil, fmt.Errorf("query %s: %w", path, err)
	}
	return info, nil
}

// check keeps names of other stores from the daemon, which ends the connection for some.
func (s *Store) check(paths ...store.Path) error {
	for _, p := range paths {
		if p.Dir() != s.dir {
			return fmt.Errorf("%q is not in the store %s", string(p), s.dir)
		}
	}
	return nil
}

func putInfo(c *conn, path store.Path) {
	c.op(opQueryPathInfo)
	c.putPath(path)
}

// getInfo reads the result of opQueryPathInfo.
func (s *Store) getInfo(c *conn, path store.Path) (store.Info, error) {
	info := store.Info{Path: path}
	var err error
	if info.Deriver, err = c.getPath(s.dir, true); err != nil {
		return info, err
	}
	digits, err := c.r.String(maxDigits)
	if err != nil {
		return info, lost(err)
	}
	if n, err := hex.Decode(info.NARHash[:], []byte(digits[:min(len(digits), 2*len(info.NARHash))])); err != nil || n != len(info.NARHash) || len(digits) != 2*n {
		return info, garbled("the hash of %s is %q", path, digits)
	}
	if info.References, err = c.getPaths(s.dir); err != nil {
		return info, err
	}
	slices.Sort(info.References)
	registered, err := c.getInt64()
	if err != nil {
		return info, err
	}
	info.Registered = time.Unix(registered, 0)
	info.NARSize, err = c.getInt64()
	return info, err
}

// ping asks something that costs nothing.
func (s *Store) ping(c *conn) error {
	c.op(opQueryValidPaths)
	c.putPaths(nil)
	if err := c.call(nil); err != nil {
		return err
	}
	_, err := c.getPaths(s.dir)
	return err
}

// Infos implements store.Informer. It sends many requests before it reads the first answer.
func (s *Store) Infos(ctx context.Context, paths []store.Path) ([]*store.Info, error) {
	var infos []*store.Info
	err := s.check(paths...)
	if err == nil && len(paths) > 0 {
		err = s.do(ctx, func(c *conn) (err error) {
			infos, err = s.infos(c, paths)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("query %d items: %w", len(paths), err)
	}
	return infos, nil
}

func (s *Store) infos(c *conn, paths []store.Path) ([]*store.Info, error) {
	infos := make([]*store.Info, len(paths))
	err := c.each(paths, putInfo, func(i int) error {
		info, err := s.getInfo(c, paths[i])
		infos[i] = &info
		return err
	}, func(i int, err *Error) error {
		if errors.Is(err, store.ErrNotValid) {
			return nil
		}
		return err
	})
	return infos, err
}

// Referrers implements store.Referrer. It sends many requests before it reads the first answer.
func (s *Store) Referrers(ctx context.Context, paths []store.Path) ([][]store.Path, error) {
	referrers := make([][]store.Path, len(paths))
	err := s.check(paths...)
	if err == nil && len(paths) > 0 {
		err = s.do(ctx, func(c *conn) error {
			return c.each(paths, putReferrers, func(i int) (err error) {
				referrers[i], err = c.getPaths(s.dir)
				return err
			}, func(_ int, err *Error) error { return err })
		})
	}
	if err != nil {
		return nil, fmt.Errorf("query what refers to %d items: %w", len(paths), err)
	}
	return referrers, nil
}

func putReferrers(c *conn, path store.Path) {
	c.op(opQueryReferrers)
	c.putPath(path)
}

// each makes the same request for each of the paths, with as few exchanges as the daemon
// allows. got reads the results, and refused says what becomes of an error in their place;
// if that is another error, it is the result, after the rest was read.
func (c *conn) each(paths []store.Path, put func(*conn, store.Path), got func(i int) error, refused func(i int, err *Error) error) error {
	var first error
	for done := 0; done < len(paths); {
		next, size := done, int64(0)
		for next < len(paths) {
			size += 8 + wire.StringSize(int64(len(paths[next])))
			if size > batchSize && next > done {
				break
			}
			put(c, paths[next])
			next++
		}
		if err := c.flush(); err != nil {
			return err
		}
		for ; done < next; done++ {
			err := c.reply(nil)
			var said *Error
			switch {
			case errors.As(err, &said):
				if err := refused(done, said); err != nil && first == nil {
					first = err
				}
				continue
			case err == nil:
				err = got(done)
			}
			if err != nil {
				return err
			}
		}
		if first != nil {
			return first
		}
	}
	return nil
}

// ValidPaths implements store.Validator, with one exchange.
func (s *Store) ValidPaths(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	var valid []store.Path
	err := s.check(paths...)
	if err == nil && len(paths) > 0 {
		err = s.do(ctx, func(c *conn) (err error) {
			valid, err = s.validOn(c, paths)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("query which of %d items are valid: %w", len(paths), err)
	}
	return valid, nil
}

// validOn returns those of the paths that are valid, in their order.
func (s *Store) validOn(c *conn, paths []store.Path) ([]store.Path, error) {
	c.op(opQueryValidPaths)
	c.putPaths(paths)
	if err := c.call(nil); err != nil {
		return nil, err
	}
	found, err := c.getPaths(s.dir)
	if err != nil {
		return nil, err
	}
	has := make(map[store.Path]bool, len(found))
	for _, p := range found {
		has[p] = true
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p store.Path) bool { return !has[p] }), nil
}
